"""A sweep of a thousand jobs in Slurm's queue is asked about once, and quickly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plainloop.sweep.slurm import client, submitted
from plainloop.system import storage
from tests.harness import sweeps
from tests.slurm.lab import ROOT, Lab

pytestmark = pytest.mark.slurm

WATCHED = (
    "import runpy, sys, time, atexit\n"
    "atexit.register(lambda: sys.stderr.write(f'{time.process_time()} {\"torch\" in sys.modules}'))\n"
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def test_the_table_of_a_thousand_jobs_takes_two_seconds_and_no_torch(lab: Lab, tmp_path: Path) -> None:
    """The jobs are Slurm's; what runs would have written is made up. A quarter says DONE, FAILED, nothing, LOST."""
    said = [("DONE", "FAILED", "", "LOST")[number % 4] for number in range(1000)]
    rows = [([f"seed={number}"], sweeps.status(state) if state else None) for number, state in enumerate(said)]
    folder = sweeps.sweep(tmp_path / "sweep", rows)
    array = client.call("sbatch", "--parsable", "--hold", "--array=0-999", "-o/dev/null", "--wrap=true").stdout.strip()
    lines = [{"number": n, "job": f"{array}_{n}", "log": "/dev/null", "submitted": 0.0} for n in range(1000)]
    (folder / submitted.FILE).write_text("".join(f"{storage.to_json(line)}\n" for line in lines))
    typed = [sys.executable, "-c", WATCHED, str(ROOT / "scripts/sweep.py"), "status", str(folder)]
    done = subprocess.run(typed, capture_output=True, text=True, timeout=120, env=os.environ)
    client.cancel([array])
    seconds, torch = done.stderr.split()
    assert done.returncode == 0
    assert torch == "False"
    assert float(seconds) < 2  # of CPU; the machine may be busy with other things
    assert done.stdout.rstrip().endswith("500 PENDING, 250 DONE, 250 PREEMPTED")
