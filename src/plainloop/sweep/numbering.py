"""The folder of a sweep, and the number and folder of each job: known jobs keep theirs, new ones get the next."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from plainloop.config.explain.problems import Problem, invalid_run
from plainloop.sweep import index, outcome
from plainloop.sweep.index import Entry
from plainloop.sweep.job import Job
from plainloop.system import storage
from plainloop.system.folders import require_plain_folder

log = logging.getLogger("plainloop")


def sweep_folder(master: DictConfig, jobs: Sequence[Job]) -> Path:
    """The sweep's folder, absolute: `hydra.sweep.dir`, or the folder that `resume` names. Raises InvalidConfig."""
    root = Path(str(master.hydra.sweep.dir)).absolute()
    resume = OmegaConf.select(master, "resume")
    if resume is None:
        return root
    if resume == "auto":
        return newest_unfinished(root.parent, jobs) or root
    if not index.read(Path(resume)):
        what = f"{resume} has no {index.FILE}: it is not the folder of a sweep"
        problem = Problem("resume", what, expected="with -m, the folder of a sweep, or auto", instead="resume=auto")
        raise invalid_run([problem], [])
    return Path(resume).absolute()


def newest_unfinished(sweeps: Path, jobs: Sequence[Job]) -> Path | None:
    """The latest sweep below a folder that has one of these jobs and has not finished all of them."""
    hashes = {job.hash for job in jobs}
    for file in sorted(sweeps.glob(f"*/{index.FILE}"), key=lambda path: path.parent.name, reverse=True):
        states = {row.hash: row.state for row in outcome.rows(file.parent)}
        if hashes & states.keys() and any(states.get(one) != "DONE" for one in hashes):
            return file.parent.absolute()
    return None


def assign_numbers(root: Path, checked: Sequence[Job]) -> list[Job]:
    """Gives each job its number and folder; writes every new config.yaml, then jobs.jsonl, before any job starts.

    Raises InvalidConfig when two jobs would share a folder, and CannotWrite.
    """
    known = index.read(root)
    number = max((entry.number for entry in known), default=-1) + 1
    taken = {entry.folder for entry in known}
    jobs, new = [], []
    for job, entry in zip(checked, recognize(known, checked), strict=True):
        if entry is None:
            subdir = job.subdir if number == job.number else _subdir(job, number)
            refuse_folder(subdir, root, job.overrides, taken)
            entry = Entry(number, job.overrides, subdir, job.hash)
            number += 1
            taken.add(subdir)
            new.append(entry)
        else:
            refuse_folder(entry.folder, root, job.overrides)
        jobs.append(replace(job, number=entry.number, folder=root / entry.folder, subdir=entry.folder))
    for job in jobs:
        if job.number in {entry.number for entry in new}:
            _write_config(job)
    index.write(root, new)
    return jobs


def recognize(known: Sequence[Entry], jobs: Sequence[Job]) -> list[Entry | None]:
    """The known entry of each job; None for a new job.

    Jobs may differ only in keys that do not change the result (data.num_workers=0,2), so equal overrides match first.
    """
    matches: list[Entry | None] = [None] * len(jobs)
    unmatched: dict[str, list[Entry]] = {}
    for entry in known:
        unmatched.setdefault(entry.hash, []).append(entry)
    for same_overrides in (True, False):
        for place, job in enumerate(jobs):
            entries = unmatched.get(job.hash, [])
            match = next((e for e in entries if not same_overrides or e.overrides == job.overrides), None)
            if matches[place] is None and match is not None:
                matches[place] = match
                entries.remove(match)
    return matches


def num_other_jobs(root: Path, jobs: Sequence[Job]) -> int:
    """Jobs of the sweep that are not among these."""
    return len({entry.number for entry in index.read(root)} - {job.number for job in jobs})


def _subdir(job: Job, number: int) -> str:
    """What `hydra.sweep.subdir` says for another number than that of the job's place in the command."""
    config = replace(job, number=number).composed()
    HydraConfig.instance().set_config(config)
    return str(config.hydra.sweep.subdir)


def refuse_folder(subdir: str, root: Path, overrides: Sequence[str], taken: Collection[str] = ()) -> None:
    """Raises InvalidConfig for a job's folder that is another job's or leads out of the sweep, and CannotWrite for one
    that holds links out of it."""
    shared = any(one == subdir or one.startswith(f"{subdir}/") or subdir.startswith(f"{one}/") for one in taken)
    problem = index.folder_problem(subdir, root) or ("is the folder of another job of this sweep" if shared else "")
    if problem:
        fix = "hydra.sweep.subdir='${hydra.job.num}'"
        found = Problem("hydra.sweep.subdir", problem, repr(subdir), "one folder per job", instead=fix)
        raise invalid_run([found], overrides)
    require_plain_folder(root / subdir)


def _write_config(job: Job) -> None:
    """Writes the config as the run itself would at its start."""
    job.folder.mkdir(parents=True, exist_ok=True)
    config = job.config | {"resume": None, "check": False}
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    storage.write_whole(job.folder / "config.yaml", text.encode())
