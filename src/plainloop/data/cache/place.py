"""Where a cache lies, under which name, and whether there is room for it. No torch here."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from plainloop.data.loading.download import cache_folder
from plainloop.errors import BadData
from plainloop.system.processes import own_cgroups
from plainloop.system.storage import readable_size

Kind = Literal["none", "ram", "disk"]

SUFFIX = ".cache"
LOOKED_AT = 200  # images whose size is read for the estimate


@dataclass(frozen=True)
class Place:
    """The settings data.cache, data.cache_dir and data.cache_gb."""

    kind: Kind
    folder: Path
    limit: int  # bytes: of all caches in the folder, or in memory

    def file(self, name: str, key: str) -> Path:
        return self.folder / f"{name}-{key}{SUFFIX}"


def place_of(kind: Kind, folder: str | None, gigabytes: float) -> Place:
    own = cache_folder() / "images" if folder is None else Path(folder).expanduser().absolute()
    return Place(kind, own, int(gigabytes * 1e9))


def key_of(folder: Path, files: Sequence[str], about: Mapping[str, Any]) -> str:
    """Changes with a file's name, size or time of change, and with what is made of the files."""
    digest = blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8)
    for name in files:
        try:
            found = os.stat(folder / name)
            digest.update(f"{found.st_size} {found.st_mtime_ns} ".encode())
        except OSError:
            pass  # its content is read later, which says what is wrong
        digest.update(os.fsencode(name) + b"\n")
    return digest.hexdigest()


def estimated_bytes(files: Sequence[Path], shorter_side: int | None, channels: int = 3) -> int:
    """What all images take once their shorter side is at most so long, by the sizes of some of them."""
    from plainloop.data.loading.decode import stored_size

    sizes = []
    for path in files[:: max(1, len(files) // LOOKED_AT)]:
        if (size := stored_size(path)) is None:
            continue
        height, width = size
        smaller = 1.0 if shorter_side is None else min(1.0, shorter_side / min(width, height))
        sizes.append(channels * width * height * smaller**2)
    return math.ceil(len(files) * sum(sizes) / max(1, len(sizes)))


_estimates: dict[tuple[Any, ...], int] = {}  # the check asks for it several times


def estimate_of(
    which: tuple[str, ...], splits: Iterable[Iterable[Path]], shorter_side: int | None, channels: int = 3
) -> int:
    """Bytes for the images of these splits; `which` tells them from others."""
    key = (*which, shorter_side)
    if key not in _estimates:
        _estimates[key] = sum(estimated_bytes(list(paths), shorter_side, channels) for paths in splits)
    return _estimates[key]


def require_folder(place: Place) -> None:
    """Raises BadData where the folder of data.cache=disk cannot be made, or written into."""
    there = next(path for path in (place.folder, *place.folder.parents) if path.exists())
    if place.kind == "disk" and not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        why = f"this user may not write into {there}" if there.is_dir() else f"{there} is a file"
        raise BadData(
            f"data.cache=disk cannot make the folder {place.folder}: {why}",
            hint="data.cache_dir=<another folder>, or data.cache=none",
        )


def require_room(place: Place, num_bytes: int, *, others: int = 0) -> None:
    """Refuses a cache of about so many bytes that breaks data.cache_gb or does not fit into memory. Raises BadData.

    others: bytes of the other caches in the folder.
    """
    if num_bytes + others > place.limit:
        beside = f", beside {readable_size(others)} of other caches in {place.folder}" if others else ""
        remove = f"; or delete caches that are not needed any more, see: ls -lt {place.folder}" if others else ""
        raise BadData(
            f"data.cache={place.kind} needs about {readable_size(num_bytes)}{beside}; "
            f"data.cache_gb={place.limit / 1e9:g} allows less",
            hint=f"data.cache_gb={math.ceil((num_bytes + others) / 1e9 * 1.05)}, a smaller data.cache_size, "
            f"or data.cache=none{remove}",
        )
    free = memory_free() if place.kind == "ram" else None
    if free is not None and num_bytes > free:
        raise BadData(
            f"data.cache=ram needs about {readable_size(num_bytes)}, and {readable_size(free)} of memory are free",
            hint="data.cache=disk, or a smaller data.cache_size",
        )


def bytes_of_others(place: Place, ours: Path) -> int:
    """What the other caches in the folder take, unfinished ones too."""
    total = 0
    for path in place.folder.glob(f"*{SUFFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # another run has just finished it, or a person deleted it
            total += path.stat().st_blocks * 512 if ours.stem not in path.name else 0
    return total


def memory_free(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take, by the machine and by its cgroups; None where the system says nothing."""
    meminfo = root / "proc/meminfo"
    if not meminfo.is_file():
        return None
    free = next(int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if "MemAvailable" in line)
    for group in own_cgroups(root):
        if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
            # Pages of files that nobody has used for a while are given back first.
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            free = min(free, int(limit) - int((group / "memory.current").read_text()) + int(stat["inactive_file"]))
    return free
