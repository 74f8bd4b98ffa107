"""Reads back what wandb has written offline: records in LevelDB's log format.

https://github.com/google/leveldb/blob/main/doc/log_format.md, after 7 bytes of wandb's; each record is a protobuf.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

FILE_HEADER = 7
BLOCK = 32768
CHUNK_HEADER = 7  # checksum (4), length (2), kind (1)
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def newest_step(path: Path) -> int:
    """The step of the last row that reached the file; -1 without rows. A row that was cut off does not count."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at run time

    steps = [-1]
    for data in records(path.read_bytes()):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            steps.append(record.history.step.num)
    return max(steps)


def records(content: bytes) -> Iterator[bytes]:
    """The whole records of a file, up to its torn tail."""
    position, parts = FILE_HEADER, b""
    while True:
        if BLOCK - position % BLOCK < CHUNK_HEADER:  # no header fits: the rest of the block is filling
            position += BLOCK - position % BLOCK
        start = position + CHUNK_HEADER
        if start > len(content):
            return
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        position = start + length
        if kind not in (FULL, FIRST, MIDDLE, LAST) or position > len(content):
            return
        parts = content[start:position] if kind in (FULL, FIRST) else parts + content[start:position]
        if kind in (FULL, LAST):
            yield parts
