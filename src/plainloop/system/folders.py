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
        path = Path(entry.path)
        if entry.is_symlink():
            inside = path.resolve().is_relative_to(folder.resolve())
            wrong = "" if inside else f"is a link that leads out of it, to {os.readlink(path)}"
        else:
            wrong = "" if entry.is_file() or entry.is_dir() else "is neither a file nor a folder"
        if wrong:
            raise CannotWrite(
                f"nothing is written in {folder}: {entry.name} in it {wrong}",
                hint=f"look at it, and remove it: rm {shlex.quote(str(path))}",
            )


def require_working_directory() -> None:
    """Raises CannotWrite where the folder that this process was started in has been deleted."""
    try:
        os.getcwd()
    except OSError as error:
        raise CannotWrite(
            "the working directory is not there any more", hint='cd "$PWD", or cd to the clone'
        ) from error
