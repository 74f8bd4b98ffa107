"""Names and sizes of the data's files when a run was started, in data_files.txt.gz, to name those that change."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.config.build import arguments_of
from plainloop.config.targets import locate
from plainloop.system import storage

FILE = "data_files.txt.gz"
SHOWN = 10  # file names of each kind in a message


def write(folder: Path, config: Mapping[str, Any]) -> None:
    """Keeps the names of the data set's files, one a line, with their sizes; nothing for a source that names none."""
    if names := _names(config):
        storage.write_whole(folder / FILE, gzip.compress("\n".join(names).encode(errors="surrogateescape"), 1, mtime=0))


def changes(folder: Path, config: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of files that were removed and added since, and of those that have another size."""
    path = folder / FILE
    if not path.exists():
        return {}
    before = _sizes(gzip.decompress(path.read_bytes()).decode(errors="surrogateescape").split("\n"))
    now = _sizes(_names(config))
    sized = [name for name in before.keys() & now.keys() if before[name] and now[name]]
    return {
        "removed": sorted(before.keys() - now.keys()),
        "added": sorted(now.keys() - before.keys()),
        "changed": sorted(name for name in sized if before[name] != now[name]),
    }


def _sizes(lines: Sequence[str]) -> dict[str, str]:
    """The size of each name; "" where it was not kept."""
    return dict(line.partition("\t")[::2] for line in lines)


def as_text(changed: Mapping[str, list[str]]) -> str:
    """One line for each file, at most ten of each kind."""
    lines = []
    for kind, names in changed.items():
        lines += [f"  {kind}: {name}" for name in names[:SHOWN]]
        lines += [f"  {kind}: {len(names) - SHOWN} more"] * (len(names) > SHOWN)
    return "\n".join(lines) or "  (this run was started before the names of files were kept)"


def _names(config: Mapping[str, Any]) -> list[str]:
    source = locate(config["data"]["_target_"], config["plugins"])
    return list(source.file_names(**arguments_of(config["data"]))) if hasattr(source, "file_names") else []
