"""When the ranks next look up from their work, and what they then decide together."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from plainloop.distributed import collectives
from plainloop.system.preempt import Preemption

APART_S = 2.0  # aimed at; the promise is five seconds, and steps may take longer than the last ones did


@dataclass(frozen=True)
class Verdict:
    stop: bool = False
    save: bool = False  # a timed save is due
    bad_step: int | None = None  # the first step in which some rank saw a loss or gradient that is not a number


class Agreement:
    """Decides from one all-reduced value, so that every rank comes to the same answer at the same step.

    The value holds the ranks' wish to stop, the slowest time per step, rank 0's clock, and the first bad step.
    """

    def __init__(self, preemption: Preemption, *, start: int, save_every_s: float | None) -> None:
        self.preemption = preemption
        self.save_every_s = save_every_s
        self.next_step = start + 1
        self._since = (start, time.monotonic())
        self._clock_0 = time.monotonic()
        self._saved_at = 0.0  # on rank 0's clock

    def due(self, step: int) -> bool:
        """Whether to meet after `step`. A process on its own needs nobody's consent, so it stops at the next step."""
        return step >= self.next_step or (collectives.world_size() == 1 and self.preemption.requested is not None)

    def meet(self, step: int, bad_step: int | None) -> Verdict:
        """Collective: one message of four numbers. Comes after a wait for the device: step times are the device's."""
        now = time.monotonic()
        before, then = self._since
        step_s = (now - then) / max(1, step - before)
        clock = now - self._clock_0 if collectives.rank() == 0 else 0.0
        # On the host: gloo carries it, and no kernel waits for it.
        earliest = -math.inf if bad_step is None else -float(bad_step)
        wish = torch.tensor([self.preemption.requested is not None, step_s, clock, earliest], dtype=torch.float64)
        stop, slowest, clock, earliest = collectives.max_(wish).tolist()
        self.next_step = step + max(1, int(APART_S / max(slowest, 1e-9)))
        self._since = (step, now)
        save = self.save_every_s is not None and clock - self._saved_at >= self.save_every_s
        if save:
            self._saved_at = clock
        return Verdict(bool(stop), save, None if earliest == -math.inf else int(-earliest))

    def resume_clock(self, step: int) -> None:
        """Leaves what has just been done (an evaluation, a save) out of the time per step."""
        self._since = (step, time.monotonic())
