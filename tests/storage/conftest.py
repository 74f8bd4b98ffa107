"""A folder where fsync costs nothing, and a disk in memory that records what is done to it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plainloop.system import storage

FOLDER = Path("/disk")


class Disk:
    """What `storage` needs of `os`, on one folder in memory. `log` holds every operation that changes it."""

    O_RDONLY, O_WRONLY, O_CREAT, O_EXCL = os.O_RDONLY, os.O_WRONLY, os.O_CREAT, os.O_EXCL
    O_NOFOLLOW, O_NONBLOCK = os.O_NOFOLLOW, os.O_NONBLOCK

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.inodes: dict[int, bytes] = {}
        self.names: dict[str, int] = {}
        self.descriptors: dict[int, list[int | None]] = {}  # -> [inode or None for the folder, position]
        self.log: list[tuple[Any, ...]] = []
        self.path = SimpleNamespace(isdir=lambda path: True)
        for name, data in (files or {}).items():
            self.inodes[len(self.inodes)] = data
            self.names[name] = len(self.inodes) - 1

    @property
    def files(self) -> dict[str, bytes]:
        return {name: self.inodes[inode] for name, inode in self.names.items()}

    def getpid(self) -> int:
        return 1

    def strerror(self, number: int) -> str:
        return os.strerror(number)

    def statvfs(self, path: Path) -> SimpleNamespace:
        return SimpleNamespace(f_blocks=0, f_files=0)

    def listdir(self, path: Path) -> list[str]:
        return list(self.names)

    def open(self, path: Path, flags: int, mode: int = 0) -> int:
        descriptor = 100 + len(self.descriptors)
        if path == FOLDER:
            self.descriptors[descriptor] = [None, 0]
            return descriptor
        if path.name not in self.names:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            inode = len(self.inodes)
            self.inodes[inode] = b""
            self.names[path.name] = inode
            self.log.append(("link", path.name, inode))
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "there already", str(path))
        self.descriptors[descriptor] = [self.names[path.name], 0]
        return descriptor

    def lstat(self, path: Path) -> SimpleNamespace:
        if path.name not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return SimpleNamespace(st_mode=stat.S_IFREG)

    def fstat(self, descriptor: int) -> SimpleNamespace:
        return SimpleNamespace(st_size=len(self.inodes[self.descriptors[descriptor][0]]))

    def read(self, descriptor: int, size: int) -> bytes:
        inode, position = self.descriptors[descriptor]
        part = self.inodes[inode][position : position + size]
        self.descriptors[descriptor][1] += len(part)
        return part

    def write(self, descriptor: int, data: memoryview) -> int:
        inode = self.descriptors[descriptor][0]
        self.inodes[inode] += bytes(data)
        self.log.append(("write", inode, bytes(data)))
        return len(data)

    def fsync(self, descriptor: int) -> None:
        inode = self.descriptors[descriptor][0]
        self.log.append(("fsync folder",) if inode is None else ("fsync", inode))

    def close(self, descriptor: int) -> None:
        self.descriptors[descriptor] = [-1, 0]

    def rename(self, old: Path, new: Path) -> None:
        if old.name not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(old))
        inode = self.names.pop(old.name)
        self.names[new.name] = inode
        self.log.append(("rename", old.name, new.name, inode))

    def unlink(self, path: Path) -> None:
        if path.name not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        del self.names[path.name]
        self.log.append(("unlink", path.name))


@pytest.fixture
def new_disk(monkeypatch: pytest.MonkeyPatch) -> type[Disk]:
    monkeypatch.setattr(storage, "os", os)  # a test sets it to such a disk
    return Disk


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has such a place: thousands of fsyncs are paid for by none of these tests."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(dir=memory))
    yield path
    shutil.rmtree(path)
