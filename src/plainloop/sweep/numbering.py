"""Where a sweep lies, and which of its jobs a checked config is: known ones stay, new ones get the next numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from plainloop.config.explain.problems import Problem, invalid_run
from plainloop.sweep import index, outcome
from plainloop.sweep.index import Entry
from plainloop.sweep.job import Job
from plainloop.sweep.paths import folder_problem, stays_inside
from plainloop.system import storage

log = logging.getLogger("plainloop")


def folder_of(master: DictConfig, jobs: Sequence[Job]) -> Path:
    """The sweep's folder, absolute: as `hydra.sweep.dir` says, or where `resume` finds it. Raises InvalidConfig."""
    root = Path(str(master.hydra.sweep.dir)).absolute()
    resume = OmegaConf.select(master, "resume")
    if resume is None:
        return root
    if resume == "auto":
        return newest_unfinished(root.parent, jobs) or root
    if not index.read(Path(resume)):
        what = f"{resume} has no {index.FILE}: it is no sweep's folder"
        problem = Problem("resume", what, expected="with -m, the folder of a sweep, or auto", instead="resume=auto")
        raise invalid_run([problem], [])
    return Path(resume).absolute()


def newest_unfinished(sweeps: Path, jobs: Sequence[Job]) -> Path | None:
    """The latest sweep below a folder that knows one of these jobs and has not done them all; None without."""
    hashes = {job.hash for job in jobs}
    for file in sorted(sweeps.glob(f"*/{index.FILE}"), key=lambda path: path.parent.name, reverse=True):
        states = {row.hash: row.state for row in outcome.rows(file.parent)}
        if hashes & states.keys() and any(states.get(one) != "DONE" for one in hashes):
            return file.parent.absolute()
    return None


def settle(root: Path, checked: Sequence[Job]) -> list[Job]:
    """Gives each job its number and folder, and writes jobs.jsonl and every config.yaml before anything is started.

    Before, a job's number and folder are those of its place in the command.
    Raises InvalidConfig when two jobs would share a folder, and CannotWrite.
    """
    known = index.read(root)
    found = index.recognize(known, checked)
    number, taken = index.next_number(known), {entry.folder for entry in known}
    jobs, new = [], []
    for job, entry in zip(checked, found, strict=True):
        if entry is None:
            subdir = job.subdir if number == job.number else _subdir(job, number)
            _refuse(job, subdir, root, taken)
            entry = Entry(number, job.overrides, subdir, job.hash)
            number += 1
            taken.add(subdir)
            new.append(entry)
        jobs.append(replace(job, number=entry.number, folder=root / entry.folder, subdir=entry.folder))
    numbers = {entry.number for entry in new}
    for job in jobs:
        if job.number in numbers:
            _write_config(job)
    index.write(root, new)
    return jobs


def others(root: Path, jobs: Sequence[Job]) -> int:
    """Jobs of the sweep that are none of these."""
    return len({entry.number for entry in index.read(root)} - {job.number for job in jobs})


def _subdir(job: Job, number: int) -> str:
    """What `hydra.sweep.subdir` says for another number than that of the job's place in the command."""
    config = replace(job, number=number).composed()
    HydraConfig.instance().set_config(config)
    return str(config.hydra.sweep.subdir)


def _refuse(job: Job, subdir: str, root: Path, taken: set[str]) -> None:
    wrong = folder_problem(subdir) or ("" if stays_inside(root / subdir, root) else "leads out of the sweep's folder")
    twin = any(one == subdir or one.startswith(f"{subdir}/") or subdir.startswith(f"{one}/") for one in taken)
    if wrong or twin:
        what, fix = wrong or "is the folder of another job of this sweep", "hydra.sweep.subdir='${hydra.job.num}'"
        raise invalid_run(
            [Problem("hydra.sweep.subdir", what, repr(subdir), "one folder per job", instead=fix)], job.overrides
        )


def _write_config(job: Job) -> None:
    """As the run itself would, at its start: what was checked is what will run, whenever that is."""
    from plainloop.run.resume import plain

    job.folder.mkdir(parents=True, exist_ok=True)
    kept = plain(job.config | {"resume": None, "check": False})
    storage.write_whole(job.folder / "config.yaml", yaml.safe_dump(kept, sort_keys=False, allow_unicode=True).encode())
