"""trainer=fast: what it chooses on which device, and that a run keeps what it has chosen."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from plainloop.config import device_choices
from plainloop.config.compose.resume import newest_unfinished
from plainloop.config.device_choices import with_choices
from plainloop.report.plan import plan_of
from plainloop.system.gpus import Gpu
from tests.harness import inject
from tests.harness.commands import passed
from tests.harness.runs import SMALL, lines, train

ON_A_CPU = {"precision": "fp32", "tf32": False, "channels_last": True, "compile": False}
CAPABILITIES = {
    (9, 0): {"precision": "bf16", "tf32": True, "channels_last": True, "compile": "reduce-overhead"},
    (7, 5): {"precision": "fp16", "tf32": False, "channels_last": True, "compile": "reduce-overhead"},
    (6, 1): {"precision": "fp32", "tf32": False, "channels_last": True, "compile": False},
}


def chosen(config: dict[str, Any], ranks: int = 1) -> dict[str, Any]:
    return {name: with_choices(config, ranks)[0]["trainer"][name] for name in ON_A_CPU}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_gpu_gets_what_it_computes_fast(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device_choices, "first_visible", lambda: Gpu("0", "GPU-1", "A GPU", capability))
    monkeypatch.setattr(device_choices, "find_spec", lambda name: True)
    config = passed("trainer=fast", "device=cpu").config | {"device": "cuda"}
    assert chosen(config) == CAPABILITIES[capability]
    assert chosen(config, ranks=2)["compile"] == (capability >= (7, 0))
    assert "A GPU, capability" in with_choices(config, 1)[1]


def test_a_cpu_gets_nothing_that_is_slower_there_and_the_plan_says_what_it_gets() -> None:
    checked = passed("trainer=fast", "device=cpu")
    assert chosen(checked.config) == ON_A_CPU
    assert "chosen        precision=fp32 tf32=false channels_last=true compile=false (a CPU, " in plan_of(checked)


def test_what_is_typed_is_not_chosen() -> None:
    config = passed("trainer=fast", "trainer.precision=bf16", "trainer.channels_last=false", "device=cpu").config
    assert chosen(config) == ON_A_CPU | {"precision": "bf16", "channels_last": False}
    assert with_choices(passed("device=cpu").config, 1)[1] == ""


RUN = (*SMALL, "device=cpu", "trainer=fast", "trainer.duration=4st", "name=fast")


def test_a_run_says_and_saves_its_choice_and_is_refused_where_another_would_be_made(tmp_path: Path) -> None:
    first = train(tmp_path, *RUN, prepare=inject.at_step(3, inject.send(signal.SIGTERM)))
    assert first.code == 75 and "chosen  precision=fp32 tf32=false" in first.out
    (folder,) = (tmp_path / "outputs/fast").iterdir()
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: saved["trainer"][name] for name in ON_A_CPU} == ON_A_CPU
    assert newest_unfinished(folder.parent, passed(*RUN).config) == folder
    (folder / "config.yaml").write_text(yaml.safe_dump(saved | {"trainer": saved["trainer"] | {"precision": "bf16"}}))
    refused = train(tmp_path, *RUN, f"hydra.run.dir={folder}")
    assert refused.code == 64 and "trainer.precision  bf16   fp32" in refused.err
    assert train(tmp_path, *RUN, "trainer.precision=bf16", "resume=auto").code == 0


@pytest.mark.slow  # a minute of the compiler
@pytest.mark.parametrize("compile", ["true", "reduce-overhead"])
def test_a_compiled_run_draws_and_learns_as_one_that_is_not(compile: str, tmp_path: Path) -> None:
    """Seeds, rates and augmentations stay outside of what is compiled: only the order of sums differs."""
    more = ("augment=crop_flip", "augment.crop.pad=1", "trainer.eval_every=never", "trainer.duration=4st", "device=cpu")
    rows = []
    for folder, typed in (("plain", "false"), ("compiled", compile)):
        ended = train(tmp_path, *SMALL, *more, f"trainer.compile={typed}", f"hydra.run.dir={folder}")
        assert ended.code == 0, ended.err
        rows.append(lines(tmp_path / folder / "metrics.jsonl"))
    for plain, compiled in zip(*rows, strict=True):
        assert plain["train/loss"] == pytest.approx(compiled["train/loss"], rel=1e-5)
        assert plain["train/lr"] == compiled["train/lr"]
