"""What was typed: overrides, Hydra's own flags, and flags of other training codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from plainloop.config.explain.problems import as_typed, for_hydra

# Hydra answers these itself, without a config of ours.
_INFORMATION = ("--help", "-h", "--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc")
_SWITCHES = {"--multirun": "multirun", "-m": "multirun", "--resolve": "resolve", "--run": "run", "-r": "run"}
_WITH_VALUE = {"--config-name": "config_name", "-cn": "config_name", "--config-dir": "config_dir", "-cd": "config_dir"}
_WITH_VALUE |= {"--cfg": "shown", "-c": "shown", "--package": "package", "-p": "package"}


@dataclass
class Command:
    overrides: list[str] = field(default_factory=list)
    flags: list[tuple[str, str]] = field(default_factory=list)  # that are not Hydra's, with their values
    information: bool = False
    multirun: bool = False
    run: bool = False  # the default: says that it is no sweep
    config_name: str = "train"
    config_dir: str = ""  # of further groups and options
    shown: str = ""  # job, hydra or all: print that part of the config and train nothing
    package: str = ""  # the part of it to print
    resolve: bool = False  # print values instead of interpolations

    def value_of(self, key: str) -> str | None:
        """The text given for a root key, the last one; None when it was not given."""
        given = [as_typed(text).partition("=") for text in self.overrides]
        return next((value for name, _, value in reversed(given) if name.lstrip("+") == key), None)


def parse(arguments: Sequence[str]) -> Command:
    """Reads a command line; flags that are not Hydra's are set aside."""
    command, rest = Command(), list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            command.overrides.append(for_hydra(argument))
        elif flag in _SWITCHES:
            setattr(command, _SWITCHES[flag], True)
        elif flag in _INFORMATION:
            command.information = True
        elif flag in _WITH_VALUE:
            given = value if equals else rest.pop(0) if rest else ""
            if _WITH_VALUE[flag] == "shown" and given not in ("job", "hydra", "all"):
                rest, given = [given, *rest], "job"  # `--cfg seed=1`: an override
            setattr(command, _WITH_VALUE[flag], given)
        else:
            values = list[str]()
            while not equals and rest and not rest[0].startswith("-") and "=" not in rest[0]:
                values.append(rest.pop(0))  # --gpu-ids 0 3
            command.flags.append((flag, value if equals else ",".join(values)))
    return command


def without_local_rank(arguments: Sequence[str]) -> list[str]:
    """Without the flag that old launchers add, `--local_rank 0` or `--local-rank=0`."""
    kept, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.partition("=")[0].replace("-", "_") != "__local_rank":
            kept.append(argument)
        elif "=" not in argument and rest and rest[0].isdigit():
            rest.pop(0)
    return kept
