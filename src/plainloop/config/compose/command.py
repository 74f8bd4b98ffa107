"""What was typed: Hydra's own flags, overrides, and what other training codes would take there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plainloop.config.explain.problems import for_hydra

# Hydra answers these itself, without a run.
INFORMATION = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
_MULTIRUN = ("--multirun", "-m")
_QUIET = ("--run", "-r", "--resolve")
_WITH_VALUE = ("--package", "-p")  # only together with --cfg
_CONFIG_NAME, _CONFIG_DIR = ("--config-name", "-cn"), ("--config-dir", "-cd")


@dataclass
class Command:
    overrides: list[str] = field(default_factory=list)
    multirun: bool = False
    information: bool = False
    config_name: str = "train"
    config_dir: Path | None = None
    flags: list[tuple[str, str]] = field(default_factory=list)  # that are not Hydra's, with their values

    def value_of(self, key: str) -> str | None:
        """The text given for a root key, the last one; None when it was not given."""
        found = [text.partition("=")[2] for text in self.overrides if text.partition("=")[0].lstrip("+") == key]
        return found[-1] if found else None


def parse(arguments: Sequence[str]) -> Command:
    """Reads a command line. `--local_rank` of old launchers is dropped; flags that are not Hydra's are set aside."""
    command, rest = Command(), list(arguments)
    command.information = any(argument.split("=")[0] in INFORMATION for argument in rest)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            command.overrides.append(for_hydra(argument))
        elif flag.replace("-", "_") == "__local_rank":
            if not equals and rest and rest[0].isdigit():
                rest.pop(0)
        elif flag in _MULTIRUN:
            command.multirun = True
        elif flag in INFORMATION or flag in _QUIET:
            continue
        elif flag in (*_CONFIG_NAME, *_CONFIG_DIR, *_WITH_VALUE):
            given = value if equals else (rest.pop(0) if rest else "")
            if flag in _CONFIG_NAME:
                command.config_name = given
            elif flag in _CONFIG_DIR:
                command.config_dir = Path(given)
        elif not command.information:
            command.flags.append((flag, value if equals else _values(rest)))
    return command


def without_local_rank(arguments: Sequence[str]) -> list[str]:
    kept, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.partition("=")[0].replace("-", "_") != "__local_rank":
            kept.append(argument)
        elif "=" not in argument and rest and rest[0].isdigit():
            rest.pop(0)
    return kept


def _values(rest: list[str]) -> str:
    """Takes the words that belong to a foreign flag: --gpu-ids 0 3."""
    values = []
    while rest and not rest[0].startswith("-") and "=" not in rest[0]:
        values.append(rest.pop(0))
    return ",".join(values)
