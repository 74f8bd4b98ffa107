"""A checked sweep becomes Slurm jobs: those that are done are left out, those that Slurm still has are taken up."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from plainloop.config.continuing import is_finished
from plainloop.config.problems import invalid_run
from plainloop.slurm import client, ledger, site, sources
from plainloop.slurm.client import Seen
from plainloop.slurm.submission import Submission
from plainloop.slurm.task import Task
from plainloop.slurm.watch import Watch

log = logging.getLogger("plainloop")


def check(parameters: Mapping[str, Any], *, configs: Sequence[Mapping[str, Any]]) -> None:
    """Raises InvalidConfig when the site cannot run the jobs; asks Slurm, submits nothing, makes nothing."""
    found = []
    for devices, device in {
        (str(c["trainer"]["devices"]), c["device"]): (c["trainer"]["devices"], c["device"]) for c in configs
    }.values():
        found += [p for p in site.problems(parameters, devices=devices, device=device) if p not in found]
    if not found:
        refused = Submission(parameters, folder=Path()).refused()
        found = [site.refusal(refused)] if refused else []
    if found:
        raise invalid_run(found, [])


def launch(
    parameters: Mapping[str, Any], *, root: Path, jobs: Mapping[int, tuple[Path, dict[str, Any], DictConfig]]
) -> dict[int, Seen]:
    """Submits what is neither done nor in Slurm's hands, and waits unless told not to; what Slurm says of each.

    Args:
        root: the sweep's folder, absolute.
        jobs: by number, the run directory, the checked config and the composed one.
    """
    logs = Path(str(parameters["submitit_folder"])).absolute()
    logs = Path(*[part for part in logs.parts if "%" not in part])
    folders = {number: folder for number, (folder, _, _) in jobs.items()}
    waiting = {number: job for number, job in jobs.items() if not is_finished(job[0], job[1])}
    known = ledger.read(root)
    states = client.states(known[number] for number in waiting if number in known)
    taken_up = {
        n: known[n]
        for n in waiting
        if n in known and not states[known[n]].ended and states[known[n]].state != "UNKNOWN"
    }
    new = {number: job for number, job in waiting.items() if number not in taken_up}
    if taken_up:
        log.info("%d jobs are in Slurm's hands already: %s", len(taken_up), spans(taken_up.values()))
    ids = dict(taken_up)
    if new:
        snapshot = sources.take()
        tasks = [
            Task(config, frozen(composed, root, folder, number), folder, snapshot)
            for number, (folder, config, composed) in new.items()
        ]
        submitted = dict(zip(new, Submission(parameters, folder=logs).submit(tasks), strict=True))
        ledger.write(root, submitted, logs=logs)
        log.info("submitted %d jobs: Slurm %s, logs in %s", len(submitted), spans(submitted.values()), logs)
        ids |= submitted
    watch = Watch(ids, folders=folders, logs={n: path for n, path in ledger.logs(root).items() if n in ids})
    if not parameters["wait"]:
        watch.until_accepted()
        return watch.seen
    return watch.until_all_ended()


def frozen(composed: DictConfig, root: Path, folder: Path, number: int) -> DictConfig:
    """With the folders as they are now: `${now:}` is another time in the job, and after each requeueing."""
    with open_dict(composed):
        composed.hydra.sweep.dir = str(root)
        composed.hydra.sweep.subdir = str(folder.relative_to(root))
        composed.hydra.job.num = number
        composed.hydra.job.id = str(number)
    return composed


def spans(jobs: Any) -> str:
    """12_0 12_1 12_2 is 12_[0-2]: as Slurm's commands print and take it.

    >>> spans(["12_0", "12_1", "12_2", "14"]), spans(["12_0", "12_2"])
    ('12_[0-2] 14', '12_[0,2]')
    """
    tasks: dict[str, list[int]] = {}
    for job in jobs:
        main, _, task = job.partition("_")
        tasks.setdefault(main, []).extend([int(task)] if task else [])
    return " ".join(f"{main}_[{_ranges(sorted(found))}]" if found else main for main, found in tasks.items())


def _ranges(numbers: list[int]) -> str:
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
