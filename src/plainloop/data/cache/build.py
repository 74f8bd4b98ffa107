"""Decodes images once: into a file on disk for all later runs, or into memory for the ranks of one run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plainloop.contracts import Sample
from plainloop.data.cache.file import CachedImages, Writer
from plainloop.data.cache.place import Place, bytes_of_others, estimated_bytes, key_of, require_room
from plainloop.data.loaders import Loader
from plainloop.data.loading.sampler import Key
from plainloop.data.loading.workers import batches
from plainloop.distributed import collectives, ranks
from plainloop.errors import BadConfig, BadData, CannotWrite, LostPeer, RunError
from plainloop.system import storage
from plainloop.system.lock import NO_FLOCK
from plainloop.system.progress import progress

log = logging.getLogger("plainloop")

CHUNK = 16  # images that a worker sends together


@dataclass(frozen=True)
class Content:
    """Which files a cache holds, and what is made of them.

    Args:
        name: for the file's name and for messages: "pets-train".
        files: paths from `folder`, without duplicates.
        read: path, and path of the mask where there are masks -> (C, H, W) uint8, in a worker. Raises BadData for what
            `keep_bad` may keep; returns what ends the run in any case.
        about: decides, with the files, whether a cache can be used: sizes, versions of decoders.
        shorter_side: of what `read` gives, at most, None: as the file has it; for the estimate, as `channels`.
        keep_bad: keeps why a file cannot be decoded; without it, that ends the run.
        masks: a file for each of `files`.
    """

    name: str
    folder: Path
    files: Sequence[str]
    read: Callable[..., Tensor | RunError]
    about: dict[str, Any]
    shorter_side: int | None
    keep_bad: bool = False
    masks: Sequence[str] = ()
    channels: int = 3

    def __getitem__(self, key: Key) -> Sample | RunError:
        """The images from one number to another, one after the other, for the workers."""
        pixels: list[Tensor] = []
        shapes: list[tuple[int, ...]] = []
        for number in range(*key):
            try:
                read = self.read(*(self.folder / names[number] for names in (self.files, self.masks) if names))
                if isinstance(read, RunError):
                    return read
                image = read.permute(1, 2, 0)
                pixels.append(image.contiguous().view(-1))
                shapes.append(tuple(image.shape))
            except BadData as error:
                if not self.keep_bad:
                    return error
                text = f"{error}\n{error.hint}".encode()
                pixels.append(torch.frombuffer(bytearray(text), dtype=torch.uint8))
                shapes.append((0, len(text), 1))
        return {"pixels": torch.cat(pixels), "shapes": torch.tensor(shapes)}


def cached(content: Content, place: Place, *, loader: Loader, timeout: float) -> CachedImages:
    """All images of `content`, read now where no cache has them. Collective.

    Raises BadData for a file that cannot be decoded and a cache that is too large, CannotWrite for a folder or disk
    that does not take it.
    """
    loader = Loader(loader.batch_size, loader.processes() * ranks.on_this_machine(), loader.prefetch)
    build = _Build(content, place, loader, timeout)
    return _in_memory(build) if place.kind == "ram" else _on_disk(build)


@dataclass(frozen=True)
class _Build:
    content: Content
    place: Place
    loader: Loader
    timeout: float

    def fill(self, descriptor: int, path: Path) -> None:
        """Writes what is not there yet. Raises BadData and CannotWrite."""
        content, kind, num_images = self.content, self.place.kind, len(self.content.files)
        expected = estimated_bytes(
            [content.folder / name for name in content.files], content.shorter_side, content.channels
        )
        others = bytes_of_others(self.place, path) if kind == "disk" else 0
        require_room(self.place, expected, others=others)
        writer = Writer(descriptor, num_images, content.about)
        missing = expected - os.fstat(descriptor).st_blocks * 512
        free = storage.free_space(path.parent) if kind == "disk" else None
        if free is not None and missing > free:
            raise _explained(storage.cannot_write(path, missing, OSError(errno.ENOSPC, "")))
        begun = f", of which {writer.done} are there" if writer.done else ""
        log.info("data.cache=%s: decodes %d images of %s once%s", kind, num_images, content.name, begun)
        starts = range(writer.done, num_images, CHUNK)
        chunks: list[list[Key]] = [[(start, min(start + CHUNK, num_images))] for start in starts]
        rows = batches(content, chunks, loader=self.loader, timeout=self.timeout, pin_memory=False, num_ranks=1)
        with contextlib.closing(rows), progress(f"caching {content.name}", num_images) as show:
            for [(_, done)], chunk in zip(chunks, rows, strict=True):
                try:
                    writer.add(chunk["pixels"][0], chunk["shapes"][0].tolist())
                except OSError as error:
                    needed = max(expected, writer.end * num_images // done)
                    raise _explained(storage.cannot_write(path, needed, error)) from error
                if writer.end + others > self.place.limit:
                    require_room(self.place, writer.end * num_images // done, others=others)
                show(done)
        writer.finish()


def _on_disk(build: _Build) -> CachedImages:
    """Who has the lock of the unfinished file fills it, the others wait. Renaming it finishes it. Collective."""
    content, folder = build.content, build.place.folder
    path = build.place.file(content.name, key_of(content.folder, [*content.files, *content.masks], content.about))
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            mine = stack.enter_context(_locked(unfinished, path, wait=False)) if collectives.rank() == 0 else None
            collectives.barrier()  # so that rank 0, which has the screen, fills it, unless another run does already
            mine = mine or stack.enter_context(_locked(unfinished, path, wait=True))
            if mine is not None:
                build.fill(mine, path)
                os.rename(unfinished, path)
                storage.sync_folder(folder)
    except OSError as error:
        raise _explained(storage.cannot_write(path, 0, error)) from error
    return CachedImages(path)


@contextlib.contextmanager
def _locked(unfinished: Path, path: Path, *, wait: bool) -> Iterator[int | None]:
    """The unfinished file, open and locked; None if the cache is complete, or, without `wait`, if it is locked.

    When the block fails, other than by being killed, the unfinished file goes: a full disk needs its room, and after a
    change of the images nobody would use it.
    """
    while not path.exists():
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT, storage.FILE_MODE)
        try:
            if not _lock(descriptor, wait=wait):
                break
            if unfinished.exists() and os.path.samestat(os.fstat(descriptor), os.stat(unfinished)):
                yield descriptor
                return
        except (BadData, CannotWrite):
            unfinished.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
    yield None


def _lock(descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if wait:
            log.info("data.cache=disk: another process decodes these images; this one waits for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        return wait
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        raise CannotWrite(
            "data.cache=disk needs file locks, which the file system of data.cache_dir does not have",
            hint="type data.cache_dir=<folder on a local disk>",
        ) from error
    return True


def _explained(error: CannotWrite) -> CannotWrite:
    return CannotWrite(str(error), hint=f"{error.hint}; or type data.cache_dir=<another folder>, or data.cache=none")


def _in_memory(build: _Build) -> CachedImages:
    """One rank of each machine fills anonymous memory, which the kernel frees with its last process. Collective."""
    if not hasattr(os, "memfd_create"):
        raise BadConfig("data.cache=ram needs Linux", hint="type data.cache=disk")
    here, ours = socket.gethostname(), None
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        ours = os.memfd_create("plainloop-cache")
        fcntl.flock(ours, fcntl.LOCK_EX)
    shared = collectives.gather([here, "" if ours is None else f"/proc/{os.getpid()}/fd/{ours}"])
    fills = ours is not None
    if ours is None:
        ours = os.open(next(path for host, path in shared if host == here and path), os.O_RDWR)
    collectives.barrier()  # nobody goes on, and perhaps ends, before all have opened it
    if not fills:
        fcntl.flock(ours, fcntl.LOCK_SH)  # waits for the rank that fills it
    else:
        try:
            build.fill(ours, Path("data.cache=ram"))
        finally:
            fcntl.flock(ours, fcntl.LOCK_UN)
    try:
        images = CachedImages(Path(f"/proc/{os.getpid()}/fd/{ours}"))
    except BadData as error:
        raise LostPeer("the rank that decodes the images for data.cache=ram has failed") from error
    weakref.finalize(images, os.close, ours)
    return images
