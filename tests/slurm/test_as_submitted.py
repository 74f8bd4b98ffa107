"""A job runs the config that it was submitted with, and says when the code is another one. Odd names do no harm."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.slurm.lab import HELD, ROOT, Lab, environment, jobs_of, until_over

pytestmark = pytest.mark.slurm

TREE = ("train.py", "conf", "src")
SAID = "the code has changed since this job was submitted: plainloop/schedule.py"


def test_edits_after_the_submission_reach_no_config_and_are_told(lab: Lab, tmp_path: Path) -> None:
    tree, folder = tmp_path / "a clone", tmp_path / "a clone/my sweep"
    tree.mkdir()
    for name in TREE:
        source = ROOT / name
        shutil.copytree(source, tree / name) if source.is_dir() else shutil.copy(source, tree / name)
    given = ["trainer.duration=5st", "seed=0,1", HELD, "hydra.launcher.wait=false", "hydra.sweep.dir='my sweep'"]
    given += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10", "hydra.launcher.name='a/b c'"]
    given += ["hydra.launcher.setup=['echo \"set up\" \\'here\\'']"]
    # As a stranger's shell has it: nothing of this tree on the path.
    shell = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    words = [sys.executable, "train.py", "-m", "hydra/launcher=submitit_slurm", *given]
    done = subprocess.run(words, cwd=tree, env=shell, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = jobs_of(folder)

    before.release()
    assert until_over([before])[before] == "COMPLETED", before.log()
    with (tree / "src/plainloop/schedule.py").open("a") as file:
        file.write("\n# edited\n")
    optimizer = tree / "conf/optimizer/adamw.yaml"
    optimizer.write_text(optimizer.read_text().replace("lr: 1.0e-3", "lr: 5.0e-3"))
    after.release()
    assert until_over([after])[after] == "COMPLETED", after.log()

    assert SAID in after.log()
    assert SAID not in before.log()
    rates = [yaml.safe_load((job.run / "config.yaml").read_text())["optimizer"]["lr"] for job in (before, after)]
    assert rates == [0.001, 0.001]
    assert "set up here" in "".join(path.read_text() for path in (folder / ".submitit").glob("*_log.out"))
