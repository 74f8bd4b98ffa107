"""The file of a cache: decoded images of different sizes, mapped into memory so that all processes share one copy.

4096 bytes of JSON, which say what it holds; one row of the index for each image; then the pixels, (H, W, C) uint8 each.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plainloop.errors import BadData
from plainloop.system import storage
from plainloop.system.json_rows import parse_object

FORMAT = 1
HEADER_BYTES = 4096
ROW = 4  # where the pixels begin, height, width, channels; height 0: an image that cannot be decoded, and why
SYNC_BYTES = 64_000_000  # how much a machine that loses power loses at most


class CachedImages:
    """The images of a complete file, by their number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = os.stat(path).st_size
        self._bytes = np.asarray(np.memmap(path, np.uint8, mode="r")) if size else np.empty(0, np.uint8)
        header = parse_object(bytes(self._bytes[:HEADER_BYTES])) or {}
        if header.get("bytes") != size:
            raise BadData(
                f"the cache {path} is damaged or not complete", hint=f"delete it: rm {shlex.quote(str(path))}"
            )
        num_images = header["images"]
        self._index = self._bytes[HEADER_BYTES : HEADER_BYTES + index_bytes(num_images)].view(np.int64).reshape(-1, ROW)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, number: int) -> Tensor:
        """(C, H, W) uint8, a copy, channels last in memory. Raises BadData for what could not be decoded."""
        start, height, width, channels = self._index[number].tolist()
        if not height:
            message, hint = bytes(self._bytes[start : start + width]).decode().split("\n", 1)
            raise BadData(message, hint=hint)
        pixels = self._bytes[start : start + height * width * channels].reshape(height, width, channels)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    def __reduce__(self) -> tuple[type[CachedImages], tuple[Path]]:
        return CachedImages, (self.path,)  # a process that is not forked maps the file itself


class Writer:
    """Fills a file from the front. One that was killed is continued by the next, after the images that are there.

    Args:
        descriptor: of the file; its owner holds the lock.
        about: what the file holds, beside the number of images; another file than one of these is begun anew.

    Methods raise OSError.
    """

    def __init__(self, descriptor: int, num_images: int, about: Mapping[str, Any]) -> None:
        self._descriptor, self._about = descriptor, {"format": FORMAT, "images": num_images, **about}
        header = _header(self._about)
        self.done, self.end = 0, HEADER_BYTES + index_bytes(num_images)
        self._rows: list[tuple[int, ...]] = []
        self._unsynced = 0
        if os.pread(descriptor, HEADER_BYTES, 0) == header:
            index = np.frombuffer(os.pread(descriptor, index_bytes(num_images), HEADER_BYTES), np.int64)
            rows = index.reshape(-1, ROW)
            self.done = int(np.append(rows[:, 0], 0).argmin())
            if self.done:
                start, height, width, channels = rows[self.done - 1].tolist()
                self.end = start + (height * width * channels if height else width)
        else:
            os.ftruncate(descriptor, 0)
            self._write(header, 0)
            os.ftruncate(descriptor, self.end)

    def add(self, pixels: Tensor, shapes: Sequence[Sequence[int]]) -> None:
        """The next images: their bytes in one row, and (height, width, channels) of each."""
        self._write(pixels.numpy().data, self.end)
        for height, width, channels in shapes:
            self._rows.append((self.end, height, width, channels))
            self.end += height * width * channels if height else width
        self._unsynced += len(pixels)
        if self._unsynced >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Makes what was added durable: first the pixels, then the rows that say that they are there."""
        os.fsync(self._descriptor)
        self._write(np.array(self._rows, np.int64).tobytes(), HEADER_BYTES + index_bytes(self.done))
        self.done += len(self._rows)
        self._rows, self._unsynced = [], 0
        os.fsync(self._descriptor)

    def finish(self) -> None:
        self.sync()
        os.ftruncate(self._descriptor, self.end)  # a killed process may have written more
        self._write(_header({**self._about, "bytes": self.end}), 0)
        os.fsync(self._descriptor)

    def _write(self, content: bytes | memoryview, place: int) -> None:
        left = memoryview(content)
        while left:
            written = storage.retry_interrupted(os.pwrite, self._descriptor, left, place)
            left, place = left[written:], place + written


def index_bytes(num_images: int) -> int:
    return num_images * ROW * 8


def _header(about: Mapping[str, Any]) -> bytes:
    return json.dumps(about).encode().ljust(HEADER_BYTES)
