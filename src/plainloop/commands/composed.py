"""What commands share that take overrides as train.py does: one config from them, checked, and errors told alike."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from plainloop.commands.train import compose_run, print_error, register_launchers
from plainloop.config.check.check import Checked, check
from plainloop.config.compose import command as command_line
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import Problem
from plainloop.errors import BadConfig, RunError, printable
from plainloop.loggers.screen import is_terminal, working
from plainloop.system.processes import open_screens_of_command

RUN_WORDS = {  # of commands that open a run as it is
    "run=RUN": "a run directory, or a checkpoint in one",
    "checkpoint=C": "best (the default), last, or a step",
    "plugins=P": "packages of your own that the run's config names: plugins=[mine]",
}
CONF = Path(__file__).resolve().parents[3] / "conf"


def parser_of(name: str, description: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    """A parser whose --help shows examples; what it does not know stays for the overrides."""
    shown = "\n".join(f"  python scripts/{name}.py {example}" for example in examples)
    return argparse.ArgumentParser(
        prog=f"{name}.py",
        usage=f"python scripts/{name}.py [options] [overrides as train.py takes]",
        description=description,
        epilog=f"examples:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def answer(work: Callable[[], int]) -> int:
    """The exit code of a command; prints what went wrong."""
    open_screens_of_command()
    try:
        return work()
    except RunError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return print_error(error)
    except KeyboardInterrupt:
        return 130  # as shells count it: 128 + SIGINT
    except Exception as error:  # an error of ours keeps its traceback and has its own exit code
        traceback.print_exc()
        raise SystemExit(RunError.code) from error


def say(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")


def compose(overrides: Sequence[str]) -> tuple[DictConfig, Origin, list[Problem]]:
    """The config of one run, where its keys come from, and what is wrong with the overrides. Raises InvalidConfig."""
    command = command_line.parse(overrides)
    if command.multirun:
        raise BadConfig("-m is for train.py: this command takes one config")
    register_launchers(CONF)
    composer = Composer(CONF, config_name=command.config_name, extra_dir=command.config_dir)
    config, origin, _, problems = compose_run(
        replace(command, overrides=composer.as_names(command.overrides)), composer
    )
    return config, origin, problems


def checked(overrides: Sequence[str]) -> Checked:
    """The checked config of the run that `python train.py <overrides>` would begin. Raises InvalidConfig."""
    config, origin, problems = compose(overrides)
    with working("checking"):
        found = check(config, origin=origin, known=problems)
    for text in found.warnings:
        sys.stderr.write(f"warning: {text}\n")
    return found


def parse_words(
    parser: argparse.ArgumentParser, arguments: Sequence[str], help_of: Mapping[str, str]
) -> tuple[argparse.Namespace, list[str]]:
    """The options, and all words that are none. `help_of`: a word as --help shows it, and what it says: RUN_WORDS."""
    add = parser.add_argument_group("words").add_argument
    for shown, text in help_of.items():
        add(shown, nargs="?", help=text)
    options, words = parser.parse_known_args(arguments)
    return options, [*(value for name, value in vars(options).items() if "=" in name and value), *words]


def refuse_others(words: Sequence[str], known: Sequence[str]) -> None:
    """For what is left once a command has taken its words. Raises BadConfig."""
    if words:
        names = ", ".join(f"{name}=" for name in known)
        raise BadConfig(f"{words[0]} is not known here: the words are {names}", hint="--help lists words and options")


def plugins_of(text: str | None) -> list[str]:
    """
    >>> plugins_of("[mine,theirs]"), plugins_of(None)
    (['mine', 'theirs'], [])
    """
    return [name for name in (text or "").strip("[]").split(",") if name]


def take_word(name: str, overrides: list[str]) -> str | None:
    """Takes `name=value` out of the overrides; the value that was given last, None where there is none."""
    given = take_words(name, overrides)
    return given[-1] if given else None


def take_words(name: str, overrides: list[str]) -> list[str]:
    """Takes every `name=value` out of the overrides; the values, in order."""
    given = [text for text in overrides if text.partition("=")[0] == name]
    overrides[:] = [text for text in overrides if text not in given]
    return [text.partition("=")[2] for text in given]


def arguments_for(config: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """The config with other values in its group `data`; those of each split, too."""
    data = config["data"] | changed
    for split in ("train", "val", "test"):
        if isinstance(data.get(split), dict):
            data[split] = data[split] | {key: value for key, value in changed.items() if key in data[split]}
    return config | {"data": data}


@contextmanager
def told(every_s: float = 5.0) -> Iterator[Callable[[str], None]]:
    """Shows the line that it is given on standard error: in one place of a terminal, else every few seconds.

    "" clears that place.
    """
    terminal, shown_at = is_terminal(sys.stderr), time.monotonic()

    def tell(text: str) -> None:
        nonlocal shown_at
        if terminal:
            sys.stderr.write(f"\r{text}\x1b[K")
        elif text and time.monotonic() - shown_at >= every_s:
            shown_at = time.monotonic()
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    try:
        yield tell
    finally:
        if terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
