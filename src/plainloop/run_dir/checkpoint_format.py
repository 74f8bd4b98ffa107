"""A checkpoint as bytes: the state, and the manifest, whose hashes show any change of the state.

torch is imported only where bytes become tensors, so that a finished run is recognized without it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

# Format 1. The file: torch.save of one dict. The manifest: JSON with sorted keys, among them `check`, the SHA-256 of
# the others. This rule, `format` and `step` stay in every later format, so that an older version can name the format.
FORMAT = 1
BLOCK = 1 << 20  # bytes; each has a CRC, so that a warning can say where a file is damaged

MANIFEST = re.compile(r"step_(\d{8,})\.json")
FILE = re.compile(r"step_(\d{8,})(\.b)?\.pt")  # `.b` is the other name of a step, for when it is replaced


UNREADABLE = (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)  # torch.load of other bytes


class BadBytes(ValueError):
    """The bytes are not those that were written, or not a run's state."""


class Unreadable(BadBytes):
    """The system did not give the bytes now; the file may be good."""


@dataclass(frozen=True)
class Entry:
    """One checkpoint: what its manifest says, or why that cannot be known."""

    step: int
    manifest: str
    row: dict[str, Any] = field(default_factory=dict)
    flaw: BadBytes | None = None

    @property
    def file(self) -> str:
        return str(self.row.get("file", f"step_{self.step:08d}.pt"))

    @property
    def ours(self) -> bool:
        return self.flaw is None and self.row["format"] == FORMAT


def state_to_bytes(state: dict[str, Any]) -> memoryview:
    """Serialises tensors and plain Python; equal states give equal bytes. Raises TypeError naming what is neither."""
    import torch

    buffer = io.BytesIO()
    torch.save(_plain(state, "state"), buffer)
    return buffer.getbuffer()


def state_from_bytes(data: bytes) -> dict[str, Any]:
    """The state, on the CPU; nothing in the bytes is executed. Raises BadBytes."""
    import pickle

    import torch

    if not data.startswith(b"PK"):  # torch.load would also try old formats, which are never ours
        raise BadBytes("not a file of torch.save")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, *UNREADABLE) as error:
        raise BadBytes(f"not plain tensors and numbers: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise BadBytes(f"holds a {type(state).__name__} instead of a state")
    return state


def describe(data: bytes | memoryview, *, step: int, final: bool, best: dict[str, Any] | None) -> dict[str, Any]:
    """The manifest's row, still without `file`."""
    return {
        "format": FORMAT,
        "step": step,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "crc32": [zlib.crc32(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK)],
        "finite": True,  # a state that is not finite is never saved
        "final": final,
        "best": best,
        "torch": version("torch"),
    }


def compare(data: bytes, row: Mapping[str, Any]) -> None:
    """Raises BadBytes, saying where, unless the bytes are those that the row describes."""
    if len(data) != row["bytes"]:
        raise BadBytes(f"{len(data)} bytes instead of {row['bytes']}")
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        blocks = range(0, len(data), BLOCK)
        wrong = [start for start, crc in zip(blocks, row["crc32"]) if zlib.crc32(data[start : start + BLOCK]) != crc]
        first, last = (wrong[0], wrong[-1]) if wrong else (0, blocks[-1])
        raise BadBytes(f"altered within bytes {first} to {min(last + BLOCK, len(data)) - 1} (SHA-256 differs)")


def manifest_to_bytes(row: Mapping[str, Any]) -> bytes:
    """Equal rows give equal bytes, so other bytes were not written by us."""
    body = {key: value for key, value in row.items() if key != "check"}
    check = hashlib.sha256(_canonical(body)).hexdigest()
    return _canonical({**body, "check": check})


def manifest_from_bytes(data: bytes, step: int) -> dict[str, Any]:
    """The row, without `check`. Raises BadBytes unless every byte is as it was written, by us, for this step."""
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadBytes("the manifest is not JSON") from error
    if not isinstance(row, dict) or manifest_to_bytes(row) != data:
        raise BadBytes("the manifest was altered")
    del row["check"]
    if row.get("step") != step:
        raise BadBytes(f"the manifest is of step {row.get('step')}")
    if row.get("format") == FORMAT:
        named = FILE.fullmatch(str(row.get("file")))
        if named is None or int(named[1]) != step:
            raise BadBytes("the manifest names a file of something else")
    return row


def _canonical(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, sort_keys=True, allow_nan=False) + "\n").encode()


def _plain(value: Any, where: str) -> Any:
    """The same values in new containers, with strings interned: pickle writes a second use of one object shorter.

    A tensor that is part of a larger storage is copied, because torch.save writes whole storages. Tensors that share a
    whole storage (tied weights) still share it.
    """
    import torch

    kind = type(value)
    if kind in (dict, OrderedDict):
        return {_plain(key, f"{where} key"): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if kind in (list, tuple):
        return kind(_plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    if kind is str:
        return sys.intern(value)
    if value is None or kind in (bool, int, float, bytes):
        return value
    if kind in (torch.Tensor, torch.nn.Parameter):
        tensor = value.detach()
        return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    raise TypeError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}; a checkpoint holds tensors and plain Python only"
    )
