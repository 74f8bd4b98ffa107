"""A file of lines that a kill cannot spoil: one write a line, and the next writer takes away what is torn or void."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from plainloop.errors import CannotWrite


class RowFile:
    """A file whose every line but a torn last one is whole. Raises CannotWrite; then the file is as it was."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Opens `path` for more lines after `content`, which replaces what is there unless it is the same."""
        self.path = path
        try:
            if not path.exists() or path.read_bytes() != content:
                _replace(path, content)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def append(self, line: bytes) -> None:
        """Adds a line with one write, visible to readers at once; it survives a kill, and a power cut after `sync`."""
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):  # a signal or a nearly full disk cuts a write short
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise _cannot_write(self.path, error) from error

    def sync(self) -> None:
        """Waits until the disk has every line."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def close(self) -> None:
        try:
            self.sync()
        finally:
            os.close(self._descriptor)


def _replace(path: Path, content: bytes) -> None:
    """Puts the old file or the new one at `path`, whole, whatever ends the process."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            os.chmod(temporary, os.stat(temporary).st_mode & ~0o022)  # whatever the umask, others do not write here
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    return CannotWrite(f"cannot write {path}: {error.strerror}", hint=f"make room or give rights in {path.parent}")
