"""A checked sweep becomes Slurm jobs: those that are done are left out, those that Slurm still has are taken up."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.config.compose.resume import is_finished
from plainloop.config.explain.problems import Problem, invalid_run
from plainloop.run_dir.status import command_to_continue
from plainloop.sweep.slurm import client, ledger, orphans, outcome, site
from plainloop.sweep.slurm.submission import Submission, folder_of, known_keys
from plainloop.sweep.slurm.task import Task
from plainloop.sweep.slurm.watch import Watch

log = logging.getLogger("plainloop")


def check(parameters: Mapping[str, Any], *, configs: Sequence[Mapping[str, Any]]) -> None:
    """Raises InvalidConfig when the site cannot run the jobs; asks Slurm, submits nothing, makes nothing."""
    kinds: list[tuple[Any, str]] = []
    for config in configs:
        kind = (config["trainer"]["devices"], config["device"])
        kinds += [kind] if kind not in kinds else []
    found: list[Problem] = [*site.key_problems(parameters, known=known_keys()), *site.number_problems(parameters)]
    found += site.folder_problems(folder_of(parameters))
    if not found:
        found += site.limit_problems(parameters)
    for devices, device in kinds:
        found += [p for p in site.shape_problems(parameters, devices=devices, device=device) if p not in found]
    if not found:
        refused = Submission(parameters, folder=Path()).refused()
        found = [site.refusal(refused, parameters)] if refused else []
    if found:
        raise invalid_run(found, [])


def launch(parameters: Mapping[str, Any], *, root: Path, tasks: Mapping[int, Task]) -> dict[int, int] | None:
    """Submits what is neither done nor in Slurm's hands, and waits; an exit code for each job. None without waiting.

    Args:
        parameters: the launcher's keys.
        root: the sweep's folder, absolute.
        tasks: by the number of the job.

    Raises KeyboardInterrupt, after telling how to come back; the jobs go on.
    """
    folders = {number: task.folder for number, task in tasks.items()}
    waiting = {number: task for number, task in tasks.items() if not is_finished(task.folder, task.config)}
    orphans.adopt(root, folder_of(parameters), folders=folders)
    ids = in_slurms_hands(root, waiting)
    if ids:
        log.info("%d jobs are in Slurm's hands already: %s", len(ids), spans(ids.values()))
    new = {number: task for number, task in waiting.items() if number not in ids}
    if new:
        ids |= submit(parameters, root, new)
    watch = Watch(ids, folders=folders, logs=ledger.logs(root))
    if not parameters["wait"]:
        watch.until_accepted()
        tell_how_to_come_back(root, ids)
        return None
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        seen = watch.until_all_ended()
    except KeyboardInterrupt:
        log.info("interrupted; the jobs go on without this terminal")
        tell_how_to_come_back(root, ids)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    ended = {number: outcome.of(folders[number], seen[number], job=ids[number]) for number in ids}
    return {number: outcome.exit_code(ended[number]) if number in ended else 0 for number in tasks}


def in_slurms_hands(root: Path, numbers: Iterable[int]) -> dict[int, str]:
    """Those of the jobs that were submitted before and have not ended."""
    known = {number: job for number, job in ledger.read(root).items() if number in numbers}
    states = client.states(known.values())
    return {number: job for number, job in known.items() if not states[job].ended and states[job].state != "UNKNOWN"}


def submit(parameters: Mapping[str, Any], root: Path, tasks: Mapping[int, Task]) -> dict[int, str]:
    """Slurm's job of each, written down in the sweep's folder."""
    folder = folder_of(parameters)
    ids: dict[int, str] = {}
    for jobs in Submission(parameters, folder=folder).submit(list(tasks.values())):
        some = dict(zip(list(tasks)[len(ids) :], jobs))
        ledger.write(root, some, logs=folder)
        ids |= some
    log.info("submitted %d jobs: Slurm %s, logs in %s", len(ids), spans(ids.values()), folder)
    return ids


def interrupt(number: int, frame: Any) -> None:
    """SIGTERM ends the waiting as Ctrl-C does."""
    raise KeyboardInterrupt


def tell_how_to_come_back(root: Path, ids: Mapping[int, str]) -> None:
    typed, *rest = sys.argv
    retried = Path(typed).name == "sweep.py"
    tool = typed if retried else str(Path(typed).parent / "scripts/sweep.py")
    log.info("Slurm jobs: %s", spans(ids.values()))
    log.info("look:      python %s", shlex.join([tool, "status", str(root)]))
    log.info("cancel:    python %s", shlex.join([tool, "cancel", str(root)]))
    if not retried:
        again = [word for word in rest if not word.startswith(("hydra.sweep.dir=", "hydra.launcher.wait="))]
        log.info("come back: %s", command_to_continue(root, overrides=again, key="hydra.sweep.dir", script=typed))


def spans(jobs: Iterable[str]) -> str:
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
