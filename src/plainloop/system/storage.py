"""Writes files whole or not at all, and appends lines of JSON that stay readable if the last one is cut off.

A run's folder may come from somebody else: its files are opened without following links, and nothing in them is
believed. Every file operation goes through this module's name `os`, so that a test can record each one, or make it
fail. Only one process writes in a folder at a time (journal.py holds the lock). Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shlex
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plainloop.errors import BadData, CannotWrite
from plainloop.system.json_rows import parse_object, wrong_value

# Readable as the umask allows, and never writable by group or others, whatever the umask.
FILE_MODE = 0o644
FOLDER_MODE = 0o755
FULL = (errno.ENOSPC, errno.EDQUOT)
MOST_JSON = 16_000_000  # bytes of a file of JSON; a manifest of 100 GB of weights has 1 MB


def open_file(path: Path, flags: int) -> int:
    """A descriptor of a regular file. Never follows a link, and never waits for the other end of a pipe.

    Every file of a run is opened here. Raises BadData for a link, a pipe and the like, and OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            raise not_a_runs(path, f"it is {'a symbolic link' if stat.S_ISLNK(mode) else 'no regular file'}")
    return int(retry_interrupted(os.open, path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, FILE_MODE))


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Puts `data` at `path` so that after a crash at any moment the old file or the new one is there, whole.

    Temporary name, write, fsync, rename, fsync of the folder. When it returns, the new file survives a power cut.
    Raises CannotWrite, with the numbers when the disk is full; then the old file is in place (the new one if only the
    last fsync failed), and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    left = memoryview(data).cast("B")
    size = left.nbytes
    try:
        _need_space(path.parent, size)
        descriptor = _create(temporary)
        try:
            _write_all(descriptor, left)
            retry_interrupted(os.fsync, descriptor)
        finally:
            # On Linux an interrupted close has closed the file; closing again could close another thread's file.
            with contextlib.suppress(InterruptedError):
                os.close(descriptor)
        retry_interrupted(os.rename, temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise cannot_write(path, size, error) from error


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries (new, renamed and deleted files) survive a power cut."""
    descriptor = retry_interrupted(os.open, folder, os.O_RDONLY)
    try:
        retry_interrupted(os.fsync, descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what file systems answer that cannot sync a folder, and need not
            raise
    finally:
        with contextlib.suppress(InterruptedError):
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Creates it with its parents, durably; does nothing where it is. Raises CannotWrite."""
    try:
        if not os.path.isdir(folder):
            retry_interrupted(lambda: os.makedirs(folder, FOLDER_MODE, exist_ok=True))
            sync_folder(folder.parent)
    except OSError as error:
        raise cannot_write(folder, 0, error) from error


def read_whole(path: Path, *, most: float = math.inf) -> bytes:
    """The bytes of a run's file. Raises BadData for a link, a pipe, or more than `most` bytes; and OSError."""
    descriptor = open_file(path, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size > most:
            raise not_a_runs(path, f"it is larger than {readable_size(int(most))}")
        parts = []
        while part := retry_interrupted(os.read, descriptor, 1 << 26):
            parts.append(part)
    finally:
        with contextlib.suppress(InterruptedError):
            os.close(descriptor)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_json(path: Path, row: Mapping[str, Any]) -> None:
    """Writes one object, whole or not at all. NaN and infinities, which JSON lacks, become null. Raises CannotWrite."""
    write_whole(path, (to_json(row, indent=1) + "\n").encode())


def read_json(
    path: Path, kinds: Mapping[str, Any] | None = None, *, required: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """The object in a file; None where there is no file, or where its bytes are not one JSON object.

    Raises BadData for what no run writes: a link, a pipe, a huge file, or a value that is not of its kind. `kinds` and
    `required` are those of `json_rows.wrong_value`.
    """
    try:
        row = parse_object(read_whole(path, most=MOST_JSON))
    except OSError:
        return None
    if row is not None and (wrong := wrong_value(row, kinds or {}, required)):
        raise not_a_runs(path, wrong)
    return row


def not_a_runs(path: Path, wrong: str) -> BadData:
    hint = f"if you do not need it: rm {shlex.quote(str(path))}"
    return BadData(f"{path} was not written by a run: {wrong}", hint=hint)


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Adds one object as a line, durably, with one write; first cuts off what a killed writer left half written.

    Raises CannotWrite; then the file is as it was.
    """
    line = (to_json(row) + "\n").encode()
    try:
        descriptor = open_file(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            size = _end_of_whole_lines(descriptor)
            try:
                _write_all(descriptor, memoryview(line))
                retry_interrupted(os.fsync, descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            with contextlib.suppress(InterruptedError):
                os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, len(line), error) from error


def read_lines(
    path: Path, kinds: Mapping[str, Any] | None = None, *, required: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """The objects of a file of lines, without those that are not whole; [] where there is no file, or can be none.

    Raises BadData as `read_json` does, and OSError.
    """
    try:
        lines = read_whole(path, most=MOST_JSON).split(b"\n")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise
        return []
    rows = [row for line in lines if (row := parse_object(line)) is not None]
    for row in rows:
        if wrong := wrong_value(row, kinds or {}, required):
            raise not_a_runs(path, wrong)
    return rows


def to_json(row: Mapping[str, Any], indent: int | None = None) -> str:
    """
    >>> to_json({"loss": float("nan"), "step": 3})
    '{"loss": null, "step": 3}'
    """
    return json.dumps(_without_nan(row), allow_nan=False, indent=indent)


def readable_size(num_bytes: int) -> str:
    """
    >>> readable_size(512), readable_size(1_250_000_000)
    ('512 bytes', '1.2 GB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} bytes"


def cannot_write(path: Path, size: int, error: OSError) -> CannotWrite:
    """The error for the person: what was to be written where, what the system answered, what there is room for."""
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    if error.errno not in FULL:
        return CannotWrite(
            f"cannot write {path}: {error.strerror or error} ({name})",
            hint=f"look for room and rights in {path.parent}",
        )
    with contextlib.suppress(OSError):
        found = os.statvfs(path.parent)
        if found.f_files and not found.f_favail:
            message = f"no inodes left: the disk of {path.parent} can hold no more than {found.f_files} files ({name})"
            return CannotWrite(message, hint="delete files there that nobody needs; df -i shows how many it can hold")
    free = free_space(path.parent)
    what = "disk full" if error.errno == errno.ENOSPC else "disk quota used up"
    room = "" if free is None else f", {readable_size(free)} free"
    message = f"{what}: {readable_size(size)} needed{room} at {path.parent} ({name})"
    return CannotWrite(message, hint=f"make room in {path.parent}")


def _need_space(folder: Path, size: int) -> None:
    free = free_space(folder)
    if free is not None and free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def free_space(folder: Path) -> int | None:
    """Bytes that we may use; None where the file system does not say."""
    try:
        found = retry_interrupted(os.statvfs, folder)
    except OSError:
        return None  # only the write itself can tell
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def _create(temporary: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return int(retry_interrupted(os.open, temporary, flags, FILE_MODE))
    except FileExistsError:  # of a killed process that had our number, as in containers, where it is often the same
        retry_interrupted(os.unlink, temporary)
        return int(retry_interrupted(os.open, temporary, flags, FILE_MODE))


def _write_all(descriptor: int, left: memoryview) -> None:
    while left:
        written = retry_interrupted(os.write, descriptor, left)
        if written == 0:
            raise OSError(errno.EIO, "nothing written")
        left = left[written:]


def retry_interrupted(operation: Callable[..., Any], *arguments: Any) -> Any:
    """Repeats a system call that a signal interrupted."""
    while True:
        try:
            return operation(*arguments)
        except InterruptedError:
            continue


def _end_of_whole_lines(descriptor: int) -> int:
    """Repairs the tail, and gives the size from which to append."""
    size = int(retry_interrupted(os.lseek, descriptor, 0, os.SEEK_END))
    if size == 0 or retry_interrupted(os.pread, descriptor, 1, size - 1) == b"\n":
        return size
    content = retry_interrupted(os.pread, descriptor, size, 0)
    start = content.rfind(b"\n") + 1
    if parse_object(content[start:]) is None:
        retry_interrupted(os.ftruncate, descriptor, start)
        return start
    _write_all(descriptor, memoryview(b"\n"))  # the line is whole, only its end is missing
    return size + 1


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
