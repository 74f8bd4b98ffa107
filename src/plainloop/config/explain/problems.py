"""What is wrong with a config, as the person who typed it needs to read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_origin

from plainloop.config.settings import annotation_of
from plainloop.errors import BadConfig
from plainloop.run_dir.status import quote_for_hydra
from plainloop.system.secrets import redact

# Overrides that are always accepted, though no YAML file holds their keys.
EVERYWHERE = ("data.batch_size_per_device=", "data.arguments.", "data.arguments=")

# What can be typed, or left out, as it stands; other advice is in words.
_TYPED = re.compile(r"""['"~+]*[\w./@]+=|~|-|leave |python """)
# A value that Hydra reads only in quotes: with letters beyond ASCII, or signs that its grammar lacks.
_NOT_PLAIN = re.compile(r"""[^\w\s/\\+.$%*@?|:=,(){}\[\]'"-]|[^\x00-\x7f]|^[^'"].*['"]""")
_STRUCTURED = re.compile(r"""['"\[{]|\w+\(|.*[,$]""", re.DOTALL)  # quoted, a list, a call, several values, interpolated
_MAX_NAMES = 24  # of valid keys in one line: more would push the problem itself off the screen


@dataclass(frozen=True)
class Problem:
    """One wrong thing."""

    key: str  # dotted, as typed on the command line
    what: str  # "unknown key", "wrong type", or the rule that is broken
    got: str = ""
    expected: str = ""
    given_by: str = ""  # "command line override optimizer.lr=x", or conf/optimizer/adamw.yaml:3
    meant: str = ""  # the nearest name, with its place
    instead: str = ""  # what to type
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        first = f"  {self.key}: {self.what}" + (f", got {self.got}" if self.got else "")
        labelled = {"expected": self.expected, "given by": self.given_by}
        advice = self.instead.removeprefix("type ")
        labelled |= {"did you mean": self.meant, "type instead" if _TYPED.match(advice) else "next": advice}
        rest = [f"{label}: {text}" for label, text in labelled.items() if text]
        return [first, *(f"    {line}" for line in (*rest, *self.notes))]


@dataclass(frozen=True)
class BadJob:
    number: int  # Hydra's, from 0
    overrides: tuple[str, ...]
    problems: tuple[Problem, ...]


class InvalidConfig(BadConfig):
    """Carries every problem of a run, or of all jobs of a sweep; its text is what is printed."""

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


def invalid_run(problems: Sequence[Problem], overrides: Sequence[str]) -> InvalidConfig:
    problems = one_each(problems)
    lines = [_header("config error", overrides), *(line for problem in problems for line in problem.lines())]
    return InvalidConfig("\n".join([*lines, "nothing was started"]), problems)


def invalid_sweep(bad: Sequence[BadJob], num_jobs: int) -> InvalidConfig:
    """Jobs that share their problems are listed once."""
    groups: dict[tuple[Problem, ...], list[BadJob]] = {}
    for job in bad:
        groups.setdefault(tuple(one_each(job.problems)), []).append(job)
    lines = []
    for problems, jobs in groups.items():
        lines.append(_header(f"config error in {_numbers(jobs)} of {num_jobs}", jobs[0].overrides))
        lines += [line for problem in problems for line in problem.lines()]
    lines.append(f"nothing was submitted ({len(bad)} of {num_jobs} jobs invalid)")
    return InvalidConfig("\n".join(lines), [problem for job in bad for problem in job.problems])


def one_each(problems: Sequence[Problem]) -> list[Problem]:
    """Drops follow-up problems: an unknown key also makes its parent unknown.

    >>> [p.key for p in one_each([Problem("optimzer.lr", "unknown key"), Problem("optimzer", "unknown key")])]
    ['optimzer.lr']
    """
    keys = [problem.key for problem in problems]
    followed = [key for key in keys if any(other.startswith(f"{key}.") for other in keys)]
    return [p for p in dict.fromkeys(problems) if p.what != "unknown key" or p.key not in followed]


def for_hydra(override: str) -> str:
    """What Hydra has to be given for an override that it would refuse, as no YAML file holds its key.

    >>> for_hydra("trainer.param_groups.lr_scale={fc:0.1}")
    '++trainer.param_groups.lr_scale={fc:0.1}'
    >>> for_hydra("data.root=/data/Füße & Hände"), for_hydra("model=resnet18,resnet50")
    ('data.root="/data/Füße & Hände"', 'model=resnet18,resnet50')
    """
    key, _, value = override.partition("=")
    is_free = override.startswith(EVERYWHERE) or (value.startswith("{") and get_origin(annotation_of(key)) is dict)
    if _NOT_PLAIN.search(value) and not _STRUCTURED.match(value):
        return f"{key}={quote_for_hydra(value)}"
    return f"++{override}" if is_free else override


def as_typed(override: str) -> str:
    """The inverse of `for_hydra`, for messages; a secret is not repeated."""
    typed = override.removeprefix("++")
    if quoted := re.fullmatch(r'([^=]+=)"(.*)"', override):
        typed = quoted[1] + quoted[2].replace('\\"', '"')
    return redact(typed if for_hydra(typed) == override else override)


def listing(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:_MAX_NAMES])
    return shown + (f", ... ({len(names)} in all)" if len(names) > _MAX_NAMES else "")


def _header(text: str, overrides: Sequence[str]) -> str:
    return f"{text}   ({' '.join(as_typed(override) for override in overrides)})" if overrides else text


def _numbers(jobs: Sequence[BadJob]) -> str:
    shown = ", ".join(str(job.number) for job in jobs[:8]) + (f", ... ({len(jobs)} jobs)" if len(jobs) > 8 else "")
    return f"job{'s' if len(jobs) > 1 else ''} {shown}"
