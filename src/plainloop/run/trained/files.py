"""Image files outside of a data set: which ones a person means, and their batches from worker processes."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from plainloop.contracts import Batch, Preprocessing, Sample
from plainloop.data.loaders import Loader
from plainloop.data.loading import layout
from plainloop.data.loading.decode import decode
from plainloop.data.loading.sampler import Key
from plainloop.data.loading.workers import Skipped, batches
from plainloop.errors import BadData

LISTS = (".txt", ".csv", ".lst", ".list")
TIMEOUT_S = 300.0  # for a batch
LONGEST_SIDES = 200  # times the shorter one; resizing the shorter side would need gigabytes for more


@dataclass(frozen=True)
class Files:
    """Images as workers read them. Paths are an array: forked workers share arrays, but copy lists page by page."""

    paths: NDArray[np.bytes_]
    preprocessing: Preprocessing

    @classmethod
    def of(cls, paths: Sequence[Path], preprocessing: Preprocessing) -> Files:
        return cls(np.array([os.fsencode(path) for path in paths]), preprocessing)

    def __getitem__(self, key: Key) -> Sample | Skipped:
        _, index = key
        path = Path(os.fsdecode(self.paths[index]))
        try:
            image = decode(path)
            height, width = image.shape[-2:]
            if max(height, width) > LONGEST_SIDES * min(height, width):
                raise BadData(f"{path} is {width} x {height} pixels: one side is too long for the other")
        except BadData as error:
            return Skipped(index, str(error), None)
        size, number = torch.tensor([height, width]), torch.tensor(index)
        return {"image": self.preprocessing.prepare(image), "size": size, "index": number}


def batches_of(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    num_workers: int | None,
    pin_memory: bool,
    on_bad: Callable[[int, str], None],
) -> Iterator[Batch]:
    """Batches in the order of the paths: image (B, C, H, W) uint8, size (B, 2) before that, index (B,).

    Images that keep their own sizes come one by one.

    Args:
        num_workers: processes that decode; None: as many as a training would have, and none for a few images.
        on_bad: gets the index of each file that cannot be read, and why, before its batch is given.
    """
    size = batch_size if preprocessing.one_size else 1
    keys: list[list[Key]] = [
        [(0, i) for i in range(start, min(start + size, len(paths)))] for start in range(0, len(paths), size)
    ]
    few = len(paths) <= size  # workers take longer to start
    loader = Loader(size, num_workers if num_workers is not None else 0 if few else "auto", prefetch=4)
    yield from batches(
        Files.of(paths, preprocessing),
        keys,
        loader=loader,
        timeout=TIMEOUT_S,
        pin_memory=pin_memory,
        num_ranks=1,
        on_skip=on_bad,
    )


def find_images(words: Sequence[str]) -> list[Path]:
    """The files that are meant by paths, folders, patterns and lists of files, each once. Raises BadData for none."""
    found: dict[Path, None] = {}
    for word in words:
        parts = [word] if "," not in word or os.path.lexists(Path(word).expanduser()) else word.split(",")
        for part in filter(None, parts):
            found |= dict.fromkeys(meant_by(part))
    return list(found)


def meant_by(word: str) -> list[Path]:
    path = Path(word).expanduser()
    if path.is_dir():
        if images := images_in(path):
            return images
        there = layout.quoted(sorted(os.listdir(path)), 5)
        other = f"; files with other names: images='{word}/*'" if there else ""
        raise BadData(
            f"images={word} is a folder without images; it holds {there or 'nothing'}",
            hint=f"images end in {', '.join(layout.EXTENSIONS)}{other}",
        )
    if path.suffix.lower() in LISTS and path.is_file():
        return listed(path)
    if os.path.lexists(path):
        return [path]
    if glob.has_magic(word):
        if files := [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(name)]:
            return files
        raise BadData(
            f"images={word} matches no file",
            hint="put it in quotes; ls with the same pattern shows its files; ** goes into folders: 'photos/**/*.jpg'",
        )
    near = layout.quoted([str(path.parent / name) for name in close_names(path)], 3)
    raise BadData(
        f"images={word} does not exist",
        hint=(f"did you mean {near}? " if near else "")
        + "type a file, a folder, a pattern in quotes, or a list of files",
    )


def close_names(path: Path) -> list[str]:
    from difflib import get_close_matches

    try:
        return get_close_matches(path.name, os.listdir(path.parent), n=3)
    except OSError:
        return []


def images_in(folder: Path) -> list[Path]:
    """All image files in a folder and in those inside it, sorted; hidden ones are left out."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not layout.is_leftover(name)]
        found += [Path(where) / name for name in files if layout.is_image(name)]
    return sorted(found)


def listed(path: Path) -> list[Path]:
    """The files that a list names, one in each line, from the list's own folder or from here."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"images={path} cannot be read as a list of files: {error}") from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise BadData(f"images={path} is a list without a file", hint="write one path in each line")
    found = [next((one for one in (path.parent / name, Path(name)) if one.exists()), None) for name in names]
    if not any(found):
        raise BadData(
            f"images={path}: none of its {len(names)} lines is a file: {layout.quoted(names, 3)}",
            hint=f"write one path in each line, from {path.parent.absolute()} or from here; nothing else",
        )
    return [one or path.parent / name for name, one in zip(names, found, strict=True)]


def relative_names(paths: Sequence[Path]) -> list[Path]:
    """Each path from the folder that all have in common, without its ending where that leaves them different.

    >>> [str(name) for name in relative_names([Path("a/x.jpg"), Path("a/b/y.png"), Path("a/b/y.jpg")])]
    ['x', 'b/y.png', 'b/y.jpg']
    """
    absolute = [os.path.abspath(path) for path in paths]
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    names = [Path(os.path.relpath(path, common)) for path in absolute]
    stems = [name.with_suffix("") for name in names]
    times: dict[Path, int] = {}
    for stem in stems:
        times[stem] = times.get(stem, 0) + 1
    return [stem if times[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]
