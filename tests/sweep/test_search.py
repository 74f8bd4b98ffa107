"""A sweeper that is not Hydra's own thinks of jobs while others run: each is checked when it comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plainloop.sweep import outcome
from tests.harness.configs import ROOT

TINY = ("trainer.duration=6st", "trainer.eval_every=3st", "optimizer=sgd", "hydra/sweeper=climber", "hydra.sweep.dir=s")

CLIMBER = """
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Climber(Sweeper):
    \"\"\"Tries a rate, and goes on from the better of two.\"\"\"

    def __init__(self, second):
        self.second = second

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        first = self.launcher.launch([[*arguments, f"optimizer.lr={rate}"] for rate in (0.001, 0.1)], initial_job_idx=0)
        values = [job.return_value for job in first]
        assert all(isinstance(value, float) for value in values), values
        self.launcher.launch([[*arguments, f"optimizer.lr={self.second}"]], initial_job_idx=2)[0].return_value


@dataclass
class ClimberConf:
    _target_: str = "hydra_plugins.climber.Climber"
    second: str = "0.2"


ConfigStore.instance().store(group="hydra/sweeper", name="climber", node=ClimberConf, provider="climber")
"""


def search(folder: Path, *more: str) -> tuple[int, str]:
    (folder / "plugin/hydra_plugins").mkdir(parents=True, exist_ok=True)
    (folder / "plugin/hydra_plugins/climber.py").write_text(CLIMBER)
    env = os.environ | {"PYTHONPATH": str(folder / "plugin")}
    typed = [sys.executable, str(ROOT / "train.py"), "-m", *TINY, *more]
    done = subprocess.run(typed, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_jobs_that_a_sweeper_thinks_of_are_jobs_like_any_other(tmp_path: Path) -> None:
    code, said = search(tmp_path)
    assert code == 0, said
    rows = outcome.rows(tmp_path / "s")
    assert [(row.number, row.state, row.overrides[-1]) for row in rows] == [
        (number, "DONE", f"optimizer.lr={rate}") for number, rate in enumerate((0.001, 0.1, 0.2))
    ]
    assert said.rstrip().endswith("3 DONE\nsweep: s")
    assert "left alone" not in said
    assert json.loads((tmp_path / "s/2/summary.json").read_text())["steps"] == 6


@pytest.mark.parametrize(
    ("second", "code", "why"),
    [("-1", 64, "optimizer.lr: out of range, got -1"), ("1e30", 71, "job 2 is FAILED: nonfinite")],
)
def test_one_that_is_wrong_or_fails_ends_the_search_and_the_table_tells_the_rest(
    tmp_path: Path, second: str, code: int, why: str
) -> None:
    ended, said = search(tmp_path, f"hydra.sweeper.second={second}")
    assert ended == code, said
    assert why in said
    assert "the search ended here" in said
    states = ["DONE", "DONE"] + ["FAILED"] * (code == 71)
    assert [row.state for row in outcome.rows(tmp_path / "s")] == states
