"""Jobs of a sweep that nobody wrote down: their submission was killed between sbatch and slurm.jsonl."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from plainloop.sweep.slurm import client, ledger

log = logging.getLogger("plainloop")

_PICKLE = re.compile(r"(\d+(?:_(\d+))?)_submitted\.pkl")


def adopt(sweep: Path, folder: Path, *, folders: Mapping[int, Path]) -> None:
    """Writes them down. What has got no pickle yet can run nothing, and is cancelled.

    Args:
        folder: submitit's, where the pickles and the batch scripts lie.
        folders: the run directories by number.

    Raises SlurmError.
    """
    if not folder.is_dir():
        return
    known = ledger.jobs(sweep)
    there = {found[1] for path in folder.iterdir() if (found := _PICKLE.fullmatch(path.name))}
    numbers = {path: number for number, path in folders.items()}
    for job in sorted(there - known, key=lambda job: [int(part) for part in job.split("_")]):
        run = _run_of(folder / f"{job}_submitted.pkl")
        if run in numbers:
            ledger.write(sweep, {numbers[run]: job}, logs=folder)
            log.info("job %d: Slurm job %s was submitted and not written down; it is now", numbers[run], job)
    lost = [job for job, script in client.scripts().items() if script.parent == folder and job not in there | known]
    if lost:
        client.cancel(lost)
        log.info("cancelled Slurm jobs %s, whose submission was killed before they had anything to run", " ".join(lost))


def _run_of(pickle: Path) -> Path | None:
    """The run directory of the job that was pickled, by us, in a folder of ours."""
    from submitit.core.utils import DelayedSubmission

    return getattr(DelayedSubmission.load(pickle).function, "folder", None)
