"""The state of a run, read from its files; the command that continues it."""

import itertools
import random
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from plainloop.run_dir.status import command_to_continue

PIECES = [*"a=(), '\"\\$}{[]:~#%é\n", "${", "1e3"]
DRAW = random.Random(0)
NAMES = [
    *("null", "true", "nan", "-inf", "1_000", "-5", "0x", "lr=0.1,opt=sgd", "a/b c/(d)", "$HOME", "*", "seed=1"),
    *map("".join, itertools.product(PIECES, PIECES)),
    *("".join(DRAW.choices(PIECES, k=6)) for _ in range(200)),
]


def typed(line: str, key: str) -> str:
    """What the shell and then Hydra make of a command's value."""
    _, _, *overrides = shlex.split(line)
    values = {found.key_or_group: found.value() for found in OverridesParser.create().parse_overrides(overrides)}
    return str(OmegaConf.create({"value": str(values[key])}).value)


def test_the_printed_command_names_the_same_folder_whatever_it_is_called():
    for name in NAMES:
        key = DRAW.choice(["resume", "hydra.sweep.dir"])
        folder = Path("outputs", name) if DRAW.random() < 0.5 else Path(name)
        line = command_to_continue(folder, key=key, plugins=["mine", "yours"], overrides=["seed=1,2", "name='a b'"])
        assert typed(line, key) == str(folder), line


def test_quoting_for_the_shell_alone_would_not_do():
    with pytest.raises(OverrideParseException):
        typed(shlex.join(["python", "train.py", "resume=lr=0.1,opt=sgd"]), "resume")
