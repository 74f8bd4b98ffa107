"""What a person does to the Slurm jobs of a sweep, from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plainloop.errors import Preempted
from plainloop.run_dir.status import read_status, write_end
from plainloop.sweep.slurm import client, ledger, orphans


def was_submitted(sweep: Path) -> bool:
    """Whether Slurm has, or may have, jobs of this sweep: one that was killed while submitting left batch scripts."""
    return (sweep / ledger.FILE).exists() or any((sweep / ".submitit").glob("*subm*.sh"))


def cancel(sweep: Path, folders: Mapping[int, Path]) -> dict[int, str]:
    """Cancels for good what has not ended of the jobs given (run directory by number); Slurm's job of each.

    Running ones save first. Raises SlurmError.
    """
    for place in {sweep.absolute() / ".submitit", *(log.parent for log in ledger.logs(sweep).values())}:
        orphans.adopt(sweep, place, folders={number: folder.absolute() for number, folder in folders.items()})
    known = {number: job for number, job in ledger.read(sweep).items() if number in folders}
    seen = client.states(known.values())
    found = {n: job for n, job in known.items() if not seen[job].ended and seen[job].state != "UNKNOWN"}
    client.cancel(found.values())
    for number in found:
        if read_status(folders[number]).state in ("PENDING", "PREEMPTED"):  # nobody else is there to say it
            folders[number].mkdir(parents=True, exist_ok=True)
            hint = f"python scripts/sweep.py retry {sweep}"
            write_end(folders[number], "CANCELLED", reason="scancel", hint=hint, exit_code=Preempted.code)
    return found
