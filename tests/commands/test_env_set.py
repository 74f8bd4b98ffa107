"""Variables that `hydra.job.env_set` gives reach the run, and those that are secret reach no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plainloop.loop.trainer import Trainer
from tests.harness.inject import during
from tests.harness.runs import SMALL, files, train

SET = "+hydra.job.env_set.MY_API_KEY=canary-0123456789"
HARMLESS = "+hydra.job.env_set.HARMLESS=kept-0123456789"


def print_variables() -> None:
    print("inside:", os.environ["MY_API_KEY"][:6], os.environ["HARMLESS"][:4], flush=True)


@pytest.mark.parametrize("folder", ["hydra.run.dir=run", "hydra.sweep.dir=run"])
def test_a_secret_is_set_and_in_no_file(folder: str, tmp_path: Path) -> None:
    sweep = ("-m", "seed=0") if "sweep" in folder else ()
    prepare = during("fit", print_variables, kind=Trainer)
    done = train(tmp_path, *sweep, *SMALL, folder, SET, HARMLESS, prepare=prepare)
    assert done.code == 0, done.err
    written = files(tmp_path / "run")
    inside = done.out.encode() + b"".join(content for name, content in written.items() if name.endswith(".log"))
    assert b"inside: canary kept" in inside
    assert [name for name, content in written.items() if b"canary-0123456789" in content] == []
    assert any(b"HARMLESS: kept-0123456789" in content for content in written.values())
