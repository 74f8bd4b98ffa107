"""Which names a job's folder and log file may have: none leads out of the sweep, or hides in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop.config.explain.problems import Problem

_PLAIN = re.compile(r"[\w.=,+@%:()\[\]{} -]+")  # letters of any script; no control character, no quoting in a shell
_LONGEST = 200  # bytes; file systems end at 255, and temporary names need some of them
_TAKEN = (
    "jobs.jsonl",
    "slurm.jsonl",
    "multirun.yaml",
    "run.lock",
    "run.lease",
    "results.csv",
    "results.json",
)  # of the sweep itself


def folder_problem(name: str) -> str:
    """What is wrong with a path relative to the sweep's folder; "" when nothing is.

    >>> folder_problem("seed=1,optimizer.lr=0.1/a"), folder_problem("../x"), folder_problem("")
    ('', "leads out of the sweep's folder", 'is empty')
    """
    if not name:
        return "is empty"
    if name.startswith("/"):
        return "leads out of the sweep's folder"
    parts = name.split("/")
    if ".." in parts:
        return "leads out of the sweep's folder"
    if parts[0] in _TAKEN:
        return f"is the name of the sweep's own {parts[0]}"
    return next((problem for part in parts if (problem := _part_problem(part))), "")


def file_problem(name: str) -> str:
    """What is wrong with a name of one file; "" when nothing is."""
    return "holds a /" if "/" in name else "is empty" if not name else _part_problem(name)


def stays_inside(folder: Path, root: Path) -> bool:
    """Whether a folder lies below `root` also when links are followed."""
    whole, top = folder.absolute().resolve(), root.absolute().resolve()
    return whole != top and whole.is_relative_to(top)


def unreadable(config: DictConfig, keys: Sequence[str]) -> list[Problem]:
    """Keys whose ${...} lead nowhere."""
    problems = []
    for key in keys:
        try:
            OmegaConf.select(config, key)
        except OmegaConfBaseException as error:
            what, given = str(error).splitlines()[0], OmegaConf.to_container(config, resolve=False)
            for part in key.split("."):
                given = given[part]  # type: ignore[index, call-overload]
            problems.append(Problem(key, what, str(given), "text, or ${...} of a key that is there"))
    return problems


def _part_problem(part: str) -> str:
    if part == "" or set(part) == {"."}:
        return f"has a part {part!r}"
    if not _PLAIN.fullmatch(part):
        return f"holds {next(char for char in part if not _PLAIN.fullmatch(char))!r}"
    if part[0] in "-. " or part[-1] in ". ":
        return f"begins or ends with {part[0] if part[0] in '-. ' else part[-1]!r}"
    if len(part.encode()) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    return ""
