"""Checkpoints: written whole or not at all, verified before they are used.

Save: serialise, hash, write `step_00001000.pt`, then its manifest `step_00001000.json`; the manifest's rename is the
commit. Only then are old ones deleted. Load: the newest manifest whose file has the right size and hash, else the one
before. The manifests alone say what is newest and best (`best.json` repeats it for readers) and hold no path, so a
folder may be moved.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainloop.errors import BadData, CannotWrite, Unresumable
from plainloop.run_dir.checkpoint_format import (
    FILE,
    FORMAT,
    MANIFEST,
    BadBytes,
    Entry,
    Unreadable,
    compare,
    describe,
    manifest_from_bytes,
    manifest_to_bytes,
    state_from_bytes,
    state_to_bytes,
)
from plainloop.system import storage

logger = logging.getLogger("plainloop")


@dataclass(frozen=True)
class Loaded:
    state: dict[str, Any]
    step: int
    path: Path
    skipped: tuple[tuple[str, str], ...]  # (file, reason) of the newer ones that could not be used


class Checkpoints:
    """The checkpoints in one folder (`<run dir>/checkpoints`). Used by rank 0 alone, under the run's lock.

    Args:
        keep_last: how many of the newest are kept; at least 2, so that a damaged one has another behind it.
        save_best: whether the one marked best is kept as well.
        serialise, parse: what tests replace.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_last: int = 2,
        save_best: bool = True,
        serialise: Callable[[dict[str, Any]], bytes | memoryview] = state_to_bytes,
        parse: Callable[[bytes], dict[str, Any]] = state_from_bytes,
    ) -> None:
        if keep_last < 2:
            instead = "type checkpoint.keep_last=2 or more"
            raise ValueError(f"checkpoint.keep_last={keep_last}, but a damaged one needs another behind it; {instead}")
        self.folder = folder
        self._keep_last = keep_last
        self.save_best = save_best
        self._serialise, self._parse = serialise, parse
        self._sound: dict[str, str] = {}  # file -> SHA-256 of what this process wrote there or has verified

    def save(
        self,
        state: dict[str, Any],
        *,
        step: int,
        best: bool = False,
        final: bool = False,
        metric: str = "",
        value: float | None = None,
    ) -> Path:
        """Commits the state, then deletes old checkpoints. Returns the checkpoint's path.

        A step that is there already is written again only if its bytes differ, and then replaced in one move. The
        folder never holds more than keep_last + the best + one unfinished file.
        Raises CannotWrite; committed checkpoints are then unchanged, and saving can be tried again.

        Args:
            best: this is the best so far, by `metric`, with `value`.
            final: nothing comes after it.
        """
        data = self._serialise(state)
        may_be_best = self.save_best and (value is None or math.isfinite(value))
        mark = {"metric": metric, "value": value} if best and may_be_best else None
        row = describe(data, step=step, final=final, best=mark)
        path = self.folder / f"step_{step:08d}.pt"
        storage.make_folder(self.folder)
        try:
            entries = self._entries()
            self._remove_orphans(entries)
            old = next((entry for entry in entries if entry.step == step and entry.ours), None)
            if old is not None and may_be_best and mark is None:
                row["best"] = old.row["best"]  # the same weights, saved once more
            if old is not None and old.row["sha256"] == row["sha256"] and self._flaw(old) is None:
                path = self.folder / old.file
            else:
                if old is not None and old.file == path.name:  # valid until the manifest's rename makes the new one so
                    path = path.with_suffix(".b.pt")
                storage.write_whole(path, data)
            row["file"] = path.name
            if old is None or old.row != row:
                storage.write_whole(path.with_name(f"step_{step:08d}.json"), manifest_to_bytes(row))
        except (OSError, CannotWrite) as error:
            with contextlib.suppress(OSError):
                self._remove_orphans(self._entries())
            if isinstance(error, OSError):
                raise storage.cannot_write(path, len(data), error) from error
            raise
        self._sound[path.name] = row["sha256"]
        self._tidy()
        return path

    def newest(self) -> Loaded | None:
        """The newest verified state; None where nothing was ever committed.

        A damaged one is renamed to *.bad and the one before it is taken, with a warning that names file and reason.
        Raises Unresumable when there were checkpoints and none of them can be used, or when the newest has a format
        that this version does not know.
        """
        earlier = [(name, "was found damaged before") for name in self._names()[::-1] if name.endswith(".bad")]
        skipped: list[tuple[str, str]] = []
        entries = self._entries()
        for entry in entries:
            if entry.flaw is None and not entry.ours:
                raise Unresumable(
                    f"{self.folder / entry.manifest} has checkpoint format {entry.row['format']}; "
                    f"this version of Plainloop reads format {FORMAT}",
                    hint="continue with the version that wrote it, or start a new run with init_from=<weights file>",
                )
            try:
                return Loaded(self._parse(self._read(entry)), entry.step, self.folder / entry.file, tuple(skipped))
            except BadBytes as flaw:
                skipped.append((entry.file, str(flaw)))
                logger.warning("checkpoint %s cannot be used: %s; trying the one before", entry.file, flaw)
                self._set_aside(entry, flaw)
        orphans = self._orphans(entries)
        if len(orphans) > 1:  # a save that was cut short leaves one; these were committed, and lost their manifests
            earlier += [(name, "its manifest (.json) is gone") for name in orphans]
        if skipped or earlier:
            raise Unresumable(
                f"none of the checkpoints in {self.folder} can be used:"
                + "".join(f"\n  {file}: {reason}" for file, reason in skipped + earlier),
                hint="restore one from a copy, or start a new run in another directory; nothing here was deleted",
            )
        return None

    def steps(self) -> dict[int, Path]:
        """The file of each committed step, oldest first. Reads no file but the manifests."""
        return {entry.step: self.folder / entry.file for entry in reversed(self._entries()) if entry.ours}

    def load(self, path: Path) -> dict[str, Any]:
        """The verified state of one checkpoint here; renames nothing. Raises Unresumable."""
        entry = next((entry for entry in self._entries() if entry.ours and entry.file == path.name), None)
        try:
            if entry is None:
                raise BadBytes("it has no manifest")
            return self._parse(self._read(entry))
        except BadBytes as flaw:
            raise Unresumable(f"{path} cannot be used: {flaw}", hint=f"take another one of {self.folder}") from flaw

    def sweep(self) -> None:
        """Removes what a killed process left, unfinished files and old ones. Called at the start, under the lock."""
        for name in self._names():
            if name.startswith(".") and name.endswith(".tmp"):
                self._unlink(name)
        self._tidy()

    def _tidy(self) -> None:
        """Everything after the commit: what fails here does no harm, and the next save does it again."""
        try:
            entries = self._entries()
            self._remove_orphans(entries)
            self._write_best(self._retain(entries))
        except (OSError, CannotWrite) as error:
            logger.warning("the checkpoints in %s are safe, but not in order: %s", self.folder, error)

    def _retain(self, entries: list[Entry]) -> Entry | None:
        """Deletes, oldest first, all but the best, which it returns, and the newest `keep_last` verified ones."""
        sound, old = 0, list[Entry]()
        best: Entry | None = None
        for entry in entries:
            if entry.flaw is None and not entry.ours:
                continue
            flaw = self._flaw(entry) if sound < self._keep_last else entry.flaw
            if flaw is not None:
                logger.warning("checkpoint %s is damaged: %s", entry.file, flaw)
                self._set_aside(entry, flaw)
                continue
            if sound < self._keep_last:
                sound += 1
            elif best or not entry.row["best"]:
                old.append(entry)
            if best is None and entry.row["best"]:
                best = entry
        for entry in reversed(old):
            self._unlink(entry.manifest)
        if old:  # a manifest without file would look like damage; a file without manifest is nothing, and swept
            storage.sync_folder(self.folder)
        for entry in reversed(old):
            self._unlink(entry.file)
        return best

    def _write_best(self, best: Entry | None) -> None:
        if best is None:
            self._unlink("best.json")
            return
        row = {"step": best.step, **best.row["best"], "file": best.file}
        with contextlib.suppress(BadData):  # what no run writes is replaced
            if storage.read_json(self.folder / "best.json") == row:
                return
        storage.write_json(self.folder / "best.json", row)

    def _entries(self) -> list[Entry]:
        """Everything that has a manifest, newest first."""
        return sorted(
            (self._entry(int(found[1]), name) for name in self._names() if (found := MANIFEST.fullmatch(name))),
            key=lambda entry: -entry.step,
        )

    def _entry(self, step: int, manifest: str) -> Entry:
        try:
            return Entry(step, manifest, manifest_from_bytes(self._bytes(manifest), step))
        except BadBytes as flaw:
            return Entry(step, manifest, flaw=flaw)

    def _read(self, entry: Entry) -> bytes:
        """The file's bytes, verified. Raises BadBytes."""
        if entry.flaw is not None:
            raise entry.flaw
        data = self._bytes(entry.file)
        compare(data, entry.row)
        self._sound[entry.file] = entry.row["sha256"]
        return data

    def _flaw(self, entry: Entry) -> BadBytes | None:
        """What is wrong with it. Reads the file unless this process has written or verified it."""
        if entry.ours and self._sound.get(entry.file) == entry.row["sha256"] and entry.file in self._names():
            return None
        try:
            self._read(entry)
        except BadBytes as flaw:
            return flaw
        return None

    def _bytes(self, name: str) -> bytes:
        try:
            return storage.read_whole(self.folder / name)
        except FileNotFoundError as error:
            raise BadBytes("the file is gone") from error
        except OSError as error:
            raise Unreadable(f"it cannot be read ({error.strerror})") from error

    def _set_aside(self, entry: Entry, flaw: BadBytes) -> None:
        """Renames a damaged one to *.bad, so that a person can look at it; never deletes."""
        if isinstance(flaw, Unreadable):
            return
        names = self._names()
        tails = (f".{n}.bad" if n else ".bad" for n in range(len(names) + 1))
        tail = next(tail for tail in tails if not {entry.manifest + tail, entry.file + tail} & set(names))
        files = [entry.file] if entry.row else [entry.file, entry.file.replace(".pt", ".b.pt")]
        for name in (*files, entry.manifest):  # the manifest last: a file without one would be swept
            with contextlib.suppress(OSError):  # where nothing can be renamed it is found damaged again
                storage.retry_interrupted(storage.os.rename, self.folder / name, self.folder / (name + tail))

    def _orphans(self, entries: list[Entry]) -> list[str]:
        """Files that no manifest names and that no damaged one may have named."""
        of_step = {entry.step: entry for entry in entries}
        found = ((name, FILE.fullmatch(name)) for name in self._names())
        named = ((name, of_step.get(int(match[1]))) for name, match in found if match)
        return [name for name, entry in named if entry is None or (entry.ours and entry.file != name)]

    def _remove_orphans(self, entries: list[Entry]) -> None:
        """Removes nothing if there are several files and no manifest: those were committed, see `newest`."""
        orphans = self._orphans(entries)
        if len(orphans) == 1 or any(entry.ours for entry in entries):
            for name in orphans:
                self._unlink(name)

    def _unlink(self, name: str) -> None:
        self._sound.pop(name, None)
        with contextlib.suppress(FileNotFoundError):
            storage.retry_interrupted(storage.os.unlink, self.folder / name)

    def _names(self) -> list[str]:
        try:
            return sorted(storage.retry_interrupted(storage.os.listdir, self.folder))
        except FileNotFoundError:
            return []
