"""Batches from worker processes, which end when the batches are not needed any more."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import multiprocessing
import os
import resource
import signal
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence, Set
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate, get_worker_info

from plainloop.contracts import Batch, Sample
from plainloop.data.loaders import Loader, workers_for_this_rank
from plainloop.data.loading import sampler
from plainloop.data.loading.sampler import Key
from plainloop.distributed import ranks
from plainloop.errors import BadData, RunError
from plainloop.system.processes import cpus_of_rank, end_with_parent, num_cpus
from plainloop.system.signals import SIGNALS, signals_blocked
from plainloop.system.storage import readable_size

log = logging.getLogger("plainloop")

NOT_FOR_WORKERS = (*SIGNALS, signal.SIGUSR1)


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read, and the one in its place; None leaves it out."""

    index: int
    why: str
    instead: Sample | None


class Samples(Protocol):
    """What workers read. A failure that a user can repair is returned, not raised: it comes without a traceback."""

    def __getitem__(self, key: Key) -> Sample | Skipped | RunError: ...


class TrainKeys(Sampler[list[Key]]):
    """This rank's keys of steps start, ..., stop - 1, one list a step."""

    def __init__(
        self, start: int, stop: int, *, order: sampler.Order, batch_size: int, seed: int, shard: sampler.Shard
    ) -> None:
        self.start, self.stop = start, stop
        self.keys_of = functools.partial(sampler.step_keys, order=order, batch_size=batch_size, seed=seed, shard=shard)

    def __iter__(self) -> Iterator[list[Key]]:
        return map(self.keys_of, range(self.start, self.stop))

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)


def batches(
    samples: Samples,
    keys: Sampler[list[Key]] | Sequence[list[Key]],
    *,
    loader: Loader,
    timeout: float,
    pin_memory: bool,
    num_ranks: int | None = None,
    on_skip: Callable[[int, str], None] = lambda index, why: None,
    by_size: bool = False,
) -> Generator[Batch]:
    """One batch for each list of keys, in their order whatever the number of workers; closing it ends the workers.

    A batch of which nothing could be read is left out.

    Args:
        num_ranks: how many processes of this machine do the same; None is all ranks.
        by_size: makes several batches of a list whose images have different sizes, one of each size.
        on_skip: gets the index of each sample that was skipped, and why, before its batch is given.

    Raises RunError when a sample cannot be read, a worker dies, or a batch takes longer than `timeout` seconds.
    """
    collate_fn = functools.partial(collate, by_size=by_size)
    found = read(samples, keys, collate_fn, loader=loader, timeout=timeout, pin_memory=pin_memory, num_ranks=num_ranks)
    with contextlib.closing(found):
        for collated in found:
            if isinstance(collated, RunError):
                raise collated
            parts, skipped = collated
            for index, why in skipped:
                on_skip(index, why)
            yield from parts


def read(
    samples: Any,
    keys: Sampler[list[Key]] | Sequence[list[Any]],
    collate_fn: Callable[[list[Any]], Any],
    *,
    loader: Loader,
    timeout: float = 0,
    pin_memory: bool = False,
    num_ranks: int | None = None,
) -> Generator[Any]:
    """What `collate_fn` makes of each list of keys, from workers, which end when it is closed. As in `batches`."""
    processes = loader.processes()
    warn_of_too_many(processes, ranks.on_this_machine() if num_ranks is None else num_ranks)
    before = set(multiprocessing.active_children())
    with signals_blocked(NOT_FOR_WORKERS), warnings.catch_warnings():  # workers inherit it, until they ignore signals
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # torch's, which counts one rank only
        source = iter(
            DataLoader(
                samples,  # a map-style data set with keys for indices
                batch_sampler=keys,
                collate_fn=collate_fn,
                num_workers=processes,
                prefetch_factor=loader.prefetch if processes else None,
                timeout=timeout if processes else 0,
                pin_memory=pin_memory,
                worker_init_fn=start_worker,
                generator=torch.Generator(),  # without it the start would draw from the global generator
            )
        )
    if processes:
        explain_deaths()
    workers = set(multiprocessing.active_children()) - before
    try:
        while (collated := next_of(source, workers, timeout)) is not None:
            yield collated
    finally:
        if processes:
            source._shutdown_workers()  # type: ignore[attr-defined]  # its __del__ would, but later
        for worker in workers:
            if worker.is_alive():  # it hangs and ignores SIGTERM: our own exit would wait for it
                worker.kill()
                worker.join()


@functools.cache  # once, not for each loader
def warn_of_too_many(processes: int, ranks_here: int) -> None:
    granted = num_cpus() if ranks_here == 1 else cpus_of_rank() * ranks_here
    if processes * ranks_here > granted:
        log.warning(
            "data.num_workers=%d, for each of %d ranks on this machine, is more than the %d CPUs that they may use; "
            "data.num_workers=auto takes %d",
            *(processes, ranks_here, granted, workers_for_this_rank()),
        )


def next_of(source: Iterator[Any], workers: Set[BaseProcess], timeout: float) -> Any:
    """The next batch, or None after the last."""
    try:
        return next(source, None)
    except (RuntimeError, EOFError, OSError) as error:
        if str(error).startswith("DataLoader timed out"):  # torch has no type of its own for this
            raise RunError(
                f"no batch arrived within data.timeout={timeout} seconds",
                hint="the storage hangs or is slow: check it, or raise data.timeout",
            ) from error
        if (short := limit_reached(str(error))) or has_ended(workers):
            raise short or worker_died(error) from error
        raise


@functools.cache  # once in a process, as torch does it
def explain_deaths() -> None:
    """When a worker ends, torch's handler of SIGCHLD raises RuntimeError wherever the main thread is, also in a forward
    pass; from now on it raises ours."""
    of_torch = signal.getsignal(signal.SIGCHLD)
    if not callable(of_torch):  # the first loader was made in another thread
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        try:
            of_torch(number, frame)
        except RuntimeError as error:
            raise limit_reached(str(error)) or worker_died(error) from error

    signal.signal(signal.SIGCHLD, on_signal)


def worker_died(error: Exception) -> RunError:
    hint = (
        "memory is the usual reason: type data.num_workers=1, or data.num_workers=0 to see the error; "
        "for predict.py --workers 1, or --workers 0"
    )
    return RunError(f"a data worker died: {error or type(error).__name__}", hint=hint)


def limit_reached(text: str) -> RunError | None:
    """What is too small on this machine, as torch's words say it."""
    if "Too many open files" in text:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return RunError(
            f"this process may have only {most} files open, and its data workers need more",
            hint="type ulimit -n 4096 before the command; or data.num_workers=0",
        )
    if "unable to allocate shared memory" in text or "Bus error" in text:
        disk = os.statvfs("/dev/shm")
        size = readable_size(disk.f_frsize * disk.f_blocks)
        return RunError(
            f"a batch of a data worker has no room in /dev/shm, the shared memory of this machine, which has {size}",
            hint="make it larger, in a container with --shm-size=8g; or type data.num_workers=0, which needs none",
        )
    return None


def has_ended(workers: Set[BaseProcess]) -> bool:
    """Whether a worker has ended. Its connection breaks shortly before the end of its process can be seen."""
    ended = connection.wait([worker.sentinel for worker in workers], timeout=1)
    for worker in workers:
        if worker.sentinel in ended:
            worker.join()  # else SIGCHLD's handler would raise the same error once more
    return bool(ended)


def collate(
    samples: list[Sample | Skipped | RunError], *, by_size: bool = False
) -> tuple[list[Batch], list[tuple[int, str]]] | RunError:
    """The samples as a batch, and index and reason of those that were skipped; or the first failure among them.

    by_size: a batch for each size of images, so that none is padded: a model would see the padding.
    """
    if failed := next((sample for sample in samples if isinstance(sample, RunError)), None):
        return failed
    skipped = [(sample.index, sample.why) for sample in samples if isinstance(sample, Skipped)]
    found = [sample.instead if isinstance(sample, Skipped) else sample for sample in samples]
    read = [sample for sample in found if isinstance(sample, dict)]
    of_size: dict[str, list[Sample]] = {}
    for sample in read:
        size = "x".join(map(str, sample["image"].shape)) if "image" in sample else "rows of a cache"
        of_size.setdefault(size, []).append(sample)
    if len(of_size) > 1 and not by_size:
        return BadData(
            f"images of different sizes cannot be in one batch: {', '.join(sorted(of_size)[:4])}",
            hint="in training an augmentation must give them one size",
        )
    return [together(part) for part in of_size.values()], skipped


def together(samples: Sequence[Sample]) -> Batch:
    """A batch of samples; an entry of different lengths is padded with zeros to the longest, and to one at least."""
    return {name: stacked([sample[name] for sample in samples]) for name in samples[0]}


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """(n, ...) each -> (B, N, ...): N is the largest n, and never 0."""
    lengths = {len(tensor) for tensor in tensors if tensor.ndim}
    if len(lengths) < 2 and 0 not in lengths:
        stack: Tensor = default_collate(list(tensors))  # in a worker, straight into shared memory
        return stack
    first = tensors[0]
    stack = zeros(len(tensors), max(1, *lengths), *first.shape[1:], dtype=first.dtype)
    for row, tensor in zip(stack, tensors, strict=True):
        row[: len(tensor)] = tensor
    return stack


def zeros(*size: int, dtype: torch.dtype) -> Tensor:
    """In a worker in shared memory, which is zero without being written to, and which a batch need not be copied to."""
    if get_worker_info() is None:
        return torch.zeros(size, dtype=dtype)
    shared = torch.UntypedStorage._new_shared(math.prod(size) * dtype.itemsize)  # as in torch's default_collate
    return torch.empty(0, dtype=dtype).set_(shared, 0, size)  # type: ignore[call-overload]  # torch's types lack it


def start_worker(worker: int) -> None:
    """Ignores signals, which the trainer handles, and makes the kernel kill this worker when the trainer ends."""
    for number in NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    torch.set_num_threads(1)
