"""Which folders a run may write in."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from plainloop.errors import CannotWrite


def require_plain_folder(folder: Path) -> None:
    """Raises CannotWrite unless all that lies directly in a run's folder is a file, a folder, or a link to inside.

    Called before anything is written there, also by libraries, which follow links. Does nothing where there is none.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return  # writing tells why
    for entry in entries:
        place = Path(os.path.realpath(entry.path))
        if not place.is_relative_to(folder.resolve()):
            wrong = f"is a link that leads out of it, to {place}"
        elif not entry.is_file() and not entry.is_dir():
            wrong = "is neither a file nor a folder"
        else:
            continue
        hint = f"look at it, and remove it: rm {shlex.quote(entry.path)}"
        raise CannotWrite(f"nothing is written in {folder}: {entry.name} in it {wrong}", hint=hint)


def require_working_directory() -> None:
    """Raises CannotWrite where the folder that this process was started in has been deleted."""
    try:
        os.getcwd()
    except OSError as error:
        hint = 'cd "$PWD", or cd to the clone'
        raise CannotWrite("the working directory is not there any more", hint=hint) from error
