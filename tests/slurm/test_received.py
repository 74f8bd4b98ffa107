"""A sweep of somebody else's on a cluster: its files decide neither which Slurm jobs are its own, nor what they run."""

import pickle
import shutil
from pathlib import Path

import pytest

from plainloop.sweep.slurm import client
from tests.harness.saved import Payload
from tests.slurm.lab import HELD, Lab, sweep

pytestmark = pytest.mark.slurm

SHORT = ("trainer.duration=5st", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10")


def test_cancel_asks_slurm_whose_jobs_they_are(lab: Lab, tmp_path: Path) -> None:
    (mine,) = lab.submit(*SHORT, HELD, folder=tmp_path / "mine")
    received = tmp_path / "received"
    shutil.copytree(mine.folder, received)  # its files name a job of mine
    for path in (received / ".submitit").glob("*.pkl"):
        path.write_bytes(pickle.dumps(Payload(tmp_path / "unpickled")))
    answer = sweep("cancel", received)
    assert (answer.code, mine.state) == (0, "PENDING"), answer.text
    assert f"nothing to cancel: no job in Slurm's queue was submitted from {received}" in answer.text
    assert not (tmp_path / "unpickled").exists()
    assert f"job 0: Slurm job {mine.slurm} cancelled" in sweep("cancel", mine.folder).text


def test_slurm_runs_what_was_submitted_and_writes_no_log_elsewhere(lab: Lab, tmp_path: Path) -> None:
    (first,) = lab.submit(*SHORT, HELD, folder=tmp_path / "received")
    client.cancel([first.slurm])
    letter, place = tmp_path / "letter.txt", first.folder / ".submitit"
    letter.write_text("to nobody")
    for job in range(int(first.slurm) + 1, int(first.slurm) + 20):  # one of these numbers is the next
        (place / f"{job}_submitted.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "unpickled")))
        for kind in ("err", "out"):
            (place / f"{job}_0_log.{kind}").symlink_to(letter)
    answer = lab.train(*SHORT, f"hydra.sweep.dir={first.folder}", at=tmp_path, wait=True)
    assert (answer.code, first.status.state) == (0, "DONE"), answer.text
    assert letter.read_text() == "to nobody" and not (tmp_path / "unpickled").exists()
    shown = sweep("logs", first.folder)
    assert "step 5/5" in shown.text, shown.text
