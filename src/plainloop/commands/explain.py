"""Tells where values of the config come from: which file and line, recipe or word of the command line wrote each.

Type overrides as for train.py, and one or several keys without `=`; a group's name shows all of its keys. With
run=<run dir> it explains the command of that run, and what its saved config has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plainloop.commands.composed import answer, compose, parser_of, take_word
from plainloop.config.check.check import check
from plainloop.config.durations import Clock, clock_of
from plainloop.config.explain import sources
from plainloop.config.explain.problems import InvalidConfig, invalid_run
from plainloop.config.explain.suggest import nearest_key
from plainloop.config.nodes import leaves, resolve
from plainloop.errors import BadConfig, printable
from plainloop.loggers.screen import working
from plainloop.run_dir.config_file import read_config, recorded_overrides

EXAMPLES = (
    "optimizer=sgd optimizer.lr",
    "experiment=fashion_mnist_resnet20 model optimizer.lr scheduler.total_steps",
    "run=outputs/train/2026-01-31_12-00-00-000000 data.batch_size",
)


def main(arguments: Sequence[str]) -> int:
    """`python scripts/explain.py`; the exit code."""
    parser = parser_of("explain", __doc__ or "", EXAMPLES)
    parser.usage = "python scripts/explain.py [overrides as train.py takes] key [key ...]"
    _, words = parser.parse_known_args(arguments)
    return answer(lambda: explain(words))


def explain(words: list[str]) -> int:
    run = take_word("run", words)
    keys = [word for word in words if "=" not in word and word[:1] not in ("~", "-")]
    typed = [word for word in words if word not in keys]
    if not keys:
        raise BadConfig(
            "no key was given", hint="add one or several, without =, such as optimizer.lr or a whole group: model"
        )
    saved = read_config(Path(run)) if run else None
    config, origin, problems = compose([*(recorded_overrides(Path(run)) if run else ()), *typed])
    if problems:
        raise invalid_run(problems, typed)
    values, clock = resolve(config).config, None
    choices = dict(config.hydra.runtime.choices)
    try:
        with working("checking"):
            values = check(config, origin=origin).config
        clock = clock_of(values)
    except InvalidConfig as error:
        sys.stderr.write(f"{error}\nwarning: values that follow from the data are not known\n")
    for key in keys:
        require_key(key, values, choices)
        for line in lines(key, values, choices, origin, clock):
            sys.stdout.write(f"{printable(line)}\n")
        if saved is not None and key in dict(leaves(saved)):
            now, then = (sources.shown(key, one) for one in (values, saved))
            same = "" if now == then else "   today the same command would have another value"
            sys.stdout.write(f"{printable(f'  the run has {then}{same}')}\n")
    return 0


def lines(key: str, values: dict[str, Any], choices: dict[str, Any], origin: Any, clock: Clock | None) -> Iterator[str]:
    yield from sources.group_lines(key, choices, origin)
    if any(name.startswith(f"{key}.") for name, _ in leaves(values)):
        yield from sources.table_lines(key, values, origin)
    elif key not in choices:
        yield from sources.value_lines(key, values, origin)
        yield from sources.meaning(key, values, clock)
    group = key.partition(".")[0]
    if group != key:
        yield from (f"  {line}" for line in sources.group_lines(group, choices, origin))


def require_key(key: str, values: dict[str, Any], choices: dict[str, Any]) -> None:
    known = [name for name, _ in leaves(values)]
    if key in known or key in choices or any(name.startswith(f"{key}.") for name in known):
        return
    near = nearest_key(key, [*known, *choices])
    raise BadConfig(
        f"there is no key {key}", hint=f"type {near[0]}" if near else "type a group to see its keys: optimizer"
    )
