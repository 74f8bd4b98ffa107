"""A file of lines that survives a kill: one write per line, and the next writer removes a line that was cut off."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from plainloop.system import storage


class RowFile:
    """A file of whole lines; only the last may be cut off. Raises CannotWrite; the file is then as it was."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Opens `path` for more lines after `content`, which replaces what is there unless it is the same."""
        self.path = path
        try:
            if not path.exists() or storage.read_whole(path) != content:
                storage.write_whole(path, content)
            self._descriptor = storage.open_file(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise storage.cannot_write(path, len(content), error) from error

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
            raise storage.cannot_write(self.path, len(line), error) from error

    def sync(self) -> None:
        """Waits until the disk has every line."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise storage.cannot_write(self.path, 0, error) from error

    def close(self) -> None:
        try:
            self.sync()
        finally:
            os.close(self._descriptor)
