"""Submits a checked sweep to Slurm and waits for it; cancels it."""

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
from plainloop.errors import Preempted, counted
from plainloop.run_dir.status import command_to_continue, read_status, write_end
from plainloop.sweep.job import Launched
from plainloop.sweep.slurm import client, outcome, site, submitted
from plainloop.sweep.slurm.job import SlurmJob
from plainloop.sweep.slurm.submission import Submission, chunks, known_keys, log_folder, longest_array, own_folder
from plainloop.sweep.slurm.watch import Watch
from plainloop.system.signals import signals_collected

log = logging.getLogger("plainloop")


def check(parameters: Mapping[str, Any], *, configs: Sequence[Mapping[str, Any]]) -> None:
    """Raises InvalidConfig when the site cannot run the jobs; asks Slurm, submits nothing, writes nothing."""
    problems: list[Problem] = [*site.key_problems(parameters, known=known_keys()), *site.number_problems(parameters)]
    problems += site.folder_problems(log_folder(parameters))
    if not problems:
        problems += site.limit_problems(parameters)
    shapes = list[tuple[Any, str]]()
    for config in configs:
        shape = (config["trainer"]["devices"], config["device"])
        if shape not in shapes:
            shapes.append(shape)
            shape_problems = site.shape_problems(parameters, devices=shape[0], device=shape[1])
            problems += [problem for problem in shape_problems if problem not in problems]
    if not problems:
        refused = Submission(parameters, folder=Path()).refused()
        problems = [site.refusal(refused, parameters)] if refused else []
    if problems:
        raise invalid_run(problems, [])


def launch(parameters: Mapping[str, Any], *, root: Path, jobs: Mapping[int, SlurmJob]) -> Launched:
    """Submits what is neither finished nor in Slurm's queue, and waits for it where `wait` says so.

    A signal ends the submission after the array that is being submitted, or the waiting; what is submitted continues.

    Args:
        parameters: the launcher's keys.
        root: the sweep's folder, absolute.
        jobs: by number.
    """
    runs = {number: job.folder for number, job in jobs.items()}
    unfinished = {number: job for number, job in jobs.items() if not is_finished(job.folder, job.config)}
    ids = {number: job for number, job in submitted.in_queue(root).items() if number in unfinished}
    if ids:
        log.info("submitted before: %s, %s", counted(len(ids), "job"), spans(ids.values()))
    new = {number: job for number, job in unfinished.items() if number not in ids}
    with signals_collected() as received:  # KeyboardInterrupt after sbatch would leave jobs that nobody was told of
        if new:
            ids |= submit(parameters, root, new, stop=received)
        watch = Watch(ids, runs=runs, logs=submitted.logs(root), stop=received)
        if parameters["wait"]:
            watch.until_all_ended()
        else:
            watch.until_accepted()
    if received and ids:
        log.info("interrupted; the jobs continue without this terminal")
    if ids and (received or not parameters["wait"]):
        log_how_to_come_back(root, ids)
    if received:
        return Launched({}, stopped_by=received[0].name)
    if not parameters["wait"]:
        return Launched({}, waited=False)
    ended = {n: outcome.merged_status(read_status(runs[n]), watch.seen[n], job=ids[n]) for n in ids}
    return Launched({number: outcome.exit_code(ended[number]) if number in ended else 0 for number in jobs})


def submit(
    parameters: Mapping[str, Any], root: Path, jobs: Mapping[int, SlurmJob], *, stop: Sequence[signal.Signals]
) -> dict[int, str]:
    """The Slurm job of each; writes slurm.jsonl. No further array is submitted once `stop` has a signal."""
    submission, ids = Submission(parameters, folder=own_folder(parameters)), dict[int, str]()
    for numbers in chunks(list(jobs), longest_array()):
        if stop:
            break
        some = submission.submit({number: jobs[number] for number in numbers}, root)
        submitted.write(root, some, logs=submission.folder)
        ids |= some
    if ids:
        text = "submitted %s: Slurm %s, logs in %s"
        log.info(text, counted(len(ids), "job"), spans(ids.values()), submission.folder)
    return ids


def was_submitted(sweep: Path) -> bool:
    """Whether Slurm may have jobs of this sweep: a submission that was killed left batch scripts."""
    return (sweep / submitted.FILE).exists() or any((sweep / ".submitit").rglob("*subm*.sh"))


def cancel(sweep: Path, runs: Mapping[int, Path]) -> dict[int, str]:
    """Cancels the Slurm jobs of these runs (by number) that have not ended; which they were. Running ones save first.

    Raises SlurmError.
    """
    ids = {number: job for number, job in submitted.in_queue(sweep).items() if number in runs}
    client.cancel(ids.values())
    for number in ids:
        if read_status(runs[number]).state in ("PENDING", "PREEMPTED"):  # no process is there to write it
            runs[number].mkdir(parents=True, exist_ok=True)
            hint = f"python scripts/sweep.py retry {shlex.quote(str(sweep))}"
            write_end(runs[number], "CANCELLED", reason="scancel", hint=hint, exit_code=Preempted.code)
    return ids


def log_how_to_come_back(root: Path, ids: Mapping[int, str]) -> None:
    script, *typed = sys.argv
    is_retry = Path(script).name == "sweep.py"
    sweep_script = script if is_retry else str(Path(script).parent / "scripts/sweep.py")
    log.info("Slurm jobs: %s", spans(ids.values()))
    log.info("look:      python %s", shlex.join([sweep_script, "status", str(root)]))
    log.info("cancel:    python %s", shlex.join([sweep_script, "cancel", str(root)]))
    if not is_retry:
        again = [word for word in typed if not word.startswith(("hydra.sweep.dir=", "hydra.launcher.wait="))]
        log.info("come back: %s", command_to_continue(root, overrides=again, key="hydra.sweep.dir", script=script))


def spans(jobs: Iterable[str]) -> str:
    """Slurm jobs as Slurm's commands print and take them.

    >>> spans(["12_0", "12_1", "12_2", "14"]), spans(["12_0", "12_2"])
    ('12_[0-2] 14', '12_[0,2]')
    """
    tasks: dict[str, list[int]] = {}
    for job in jobs:
        main, _, task = job.partition("_")
        tasks.setdefault(main, []).extend([int(task)] if task else [])
    return " ".join(f"{main}_[{_ranges(sorted(numbers))}]" if numbers else main for main, numbers in tasks.items())


def _ranges(numbers: list[int]) -> str:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
