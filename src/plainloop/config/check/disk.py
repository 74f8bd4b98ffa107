"""Rules about what is on the disk already. Nothing is created to find out, and torch is not needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from plainloop.config.check.findings import Case, Finding
from plainloop.run_dir.weights_file import weights_file

_LONGEST = 255  # bytes of a name, on every file system that we know


def folder_can_be_written(case: Case) -> Iterator[Finding]:
    """The nearest folder that exists must take new ones."""
    if case.folder is None:
        return
    above = case.folder.absolute()
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = f"{above} {'cannot be written' if above.is_dir() else 'is no folder'}"
    elif any(len(os.fsencode(part)) > _LONGEST for part in case.folder.parts):
        what = f"has a part of more than {_LONGEST} bytes"
    else:
        return
    key = _key_of(case, case.folder)
    yield case.problem(
        key,
        what,
        got=str(case.folder),
        expected="a folder that is yours, or one that can be made",
        instead=f"{key}=<a folder of yours>",
    )


def initial_weights_are_there(case: Case) -> Iterator[Finding]:
    source = case.get("init_from")
    if not isinstance(source, str):
        return
    try:
        weights_file(Path(source))
    except ValueError as error:
        told = case.problem("init_from", str(error).removeprefix(f"init_from={source} "), got=source)
        instead = "init_from=null, or one that exists"
        yield replace(told, expected="a run directory or a weights file: .safetensors or .pth", instead=instead)


def _key_of(case: Case, folder: Path) -> str:
    """What decided where it is written."""
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        if case.origin.override_of(key).partition("=")[2].strip("'\"") == str(folder):
            return key
    return "hydra.run.dir"
