"""How all ranks decide together, at the same step, to stop or to save."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from plainloop.distributed import collectives
from plainloop.system.signals import Preemption

APART_S = 2.0  # between two agreements; five seconds are promised, and steps may become slower


@dataclass(frozen=True)
class Decision:
    stop: bool = False
    save: bool = False  # a timed save is due
    bad_step: int | None = None  # the first step in which a rank saw a loss or gradient that is not a number


class Agreement:
    """Every rank decides from the same all-reduced numbers, so all decide the same at the same step.

    The numbers: whether a rank was asked to stop, the slowest time per step, rank 0's clock, the first bad step.
    """

    def __init__(self, preemption: Preemption, *, start: int, save_every_s: float | None) -> None:
        self.preemption = preemption
        self.save_every_s = save_every_s
        self.next_step = start + 1
        self._since = (start, time.monotonic())
        self._clock_0 = time.monotonic()
        self._saved_at = 0.0  # on rank 0's clock

    def due(self, step: int) -> bool:
        """Whether to synchronize after `step`. A single process asks no others, so it stops at the next step."""
        return step >= self.next_step or (collectives.world_size() == 1 and self.preemption.requested is not None)

    def synchronize(self, step: int, bad_step: int | None) -> Decision:
        """Collective: one all-reduce of four numbers. Called after a wait for the device, so it times the device."""
        now = time.monotonic()
        before, then = self._since
        step_s = (now - then) / max(1, step - before)
        clock = now - self._clock_0 if collectives.rank() == 0 else 0.0
        earliest = -math.inf if bad_step is None else -float(bad_step)
        # A tensor of the host, which gloo sends: no kernel waits for it.
        numbers = torch.tensor([self.preemption.requested is not None, step_s, clock, earliest], dtype=torch.float64)
        stop, slowest, clock, earliest = collectives.max_(numbers).tolist()
        self.next_step = step + max(1, int(APART_S / max(slowest, 1e-9)))
        self._since = (step, now)
        save = self.save_every_s is not None and clock - self._saved_at >= self.save_every_s
        if save:
            self._saved_at = clock
        return Decision(bool(stop), save, None if earliest == -math.inf else int(-earliest))

    def restart_clock(self, step: int) -> None:
        """Leaves the evaluation or save that has just ended out of the time per step."""
        self._since = (step, time.monotonic())
