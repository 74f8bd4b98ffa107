"""The loop. What happens to a batch, a learning rate and a signal is on this page."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from plainloop.contracts import Augment, Batch, Data, Schedule, Split, Task
from plainloop.distributed import collectives
from plainloop.errors import NonFinite, Preempted
from plainloop.loop.agreement import Agreement, Verdict
from plainloop.loop.micro_batches import lay_out_buckets, no_sync, shares_of, split
from plainloop.loop.optim import clip_, set_rate
from plainloop.loop.state import TrainState, means
from plainloop.loop.stopwatch import Stopwatch
from plainloop.system import rng
from plainloop.system.preempt import Preemption

SPLITS: tuple[Split, ...] = ("val", "train")  # what each evaluation measures, unless the data have `eval_splits`


class Recorder(Protocol):
    """Where rows, saves and heartbeats go. Ranks other than 0 have one that does nothing."""

    folder: Path

    def advance(self, step: int) -> None: ...

    def row(self, step: int, scalars: dict[str, float], *, best: bool) -> None: ...

    def save(self, state: TrainState, windows: list[Any], *, best: bool, required: bool) -> None: ...

    def bad_step(self, step: int, *, lr: float, samples: list[int], skipped: bool) -> str:
        """Puts on disk what is needed to look at the step again; the command that replays it."""
        ...


class Interrupted(Exception):
    """An evaluation was left half-way because the run was asked to stop; it is done again after the resume."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Trains for `steps` optimizer steps; durations are in steps, None switches off."""

    # What it works with.
    task: Task
    data: Data
    augment: Sequence[Augment]
    schedule: Schedule
    prepare: Callable[[Batch], Batch]  # images to float in [0, 1]
    normalize: Callable[[Batch], Batch]  # and then to what the model sees
    recorder: Recorder
    preemption: Preemption
    device: torch.device

    # What it is told.
    seed: int
    steps: int
    steps_per_epoch: int
    base_lr: float
    precision: torch.dtype = torch.float32
    accumulate: int = 1  # micro-batches of a rank per step
    clip_norm: float | None = None
    clip_value: float | None = None
    clip_agc: float | None = None
    log_every: int = 50
    eval_every: int | None = None
    save_every: int | None = None
    save_every_s: float | None = None
    save_best: bool = True
    patience: int | None = None  # evaluations without gain
    min_delta: float = 0.0
    skip_nonfinite: bool = False
    max_skips: int = 20  # in a row

    def fit(self, state: TrainState, model: nn.Module) -> None:
        """Trains on from `state.step`. `model` runs the forward pass: state.model, or a wrapper of it. Collective.

        Raises Preempted when asked to stop, after saving, and NonFinite for a loss, gradient, or all metrics of NaN.
        """
        meeting = Agreement(self.preemption, start=state.step, save_every_s=self.save_every_s)
        watch = Stopwatch(state.step)
        if state.reported < state.step and self.is_log_step(state.step):
            self.settle(state, watch, Verdict())
        if self.has_ended(state):
            self.judge(state)
            return
        model.train()
        first = state.step
        batches = self.data.train_batches(first, self.steps, self.seed)
        with contextlib.closing(watch.fetching(batches)) as fetched:
            for batch in fetched:
                rng.seed_all(rng.fold(rng.STEP, self.seed, state.step, collectives.rank()), self.device)
                set_rate(state.optimizer, self.schedule(state.step), momentum_at(self.schedule, state.step))
                batch = self.prepare(to(self.device, batch))
                for function in self.augment:
                    batch = function(batch, state.step)
                batch = self.normalize(batch)
                if state.step == first and collectives.world_size() > 2:  # a sum of two has one order
                    lay_out_buckets(model, split(batch, self.accumulate)[0], self.task, self.autocast, self.device)
                skipped = self.update(model, state, batch)
                state.step += 1
                self.recorder.advance(state.step)
                if skipped:
                    self.note_bad(state.step, batch, skipped=True)
                elif not (self.meets_host(state.step) or meeting.due(state.step)):
                    continue

                # The only place where the host waits for the device, and where ranks talk outside of an update.
                verdict = meeting.meet(state.step, self.take_stock(state))
                self.check(state, verdict.bad_step)
                self.settle(state, watch, verdict)
                if self.has_ended(state):
                    self.judge(state)
                    return
                model.train()
                meeting.resume_clock(state.step)

    def settle(self, state: TrainState, watch: Stopwatch, verdict: Verdict) -> None:
        """After a step that meets the host: logs, evaluates, saves what is due. Raises Preempted when asked to stop."""
        best = self.is_log_step(state.step) and self.report(state, watch)
        ended = self.has_ended(state)
        required = verdict.stop or ended
        if required or verdict.save or self.is_due(state.step, self.save_every) or (best and self.save_best):
            self.save(state, best=best and self.save_best, required=required)
        if verdict.stop and not ended:
            raise Preempted(state.step, self.recorder.folder)

    def update(self, model: nn.Module, state: TrainState, batch: Batch) -> bool:
        """One optimizer step on this rank's rows of the global batch; whether all ranks know that they left it out.

        Override this to train in another way.
        """
        buffers = [buffer.clone() for buffer in state.model.buffers()] if self.skip_nonfinite else []
        micro_batches = split(batch, self.accumulate)
        shares = shares_of(self.task, micro_batches)
        losses = []
        for number, (micro_batch, share) in enumerate(zip(micro_batches, shares, strict=True), start=1):
            with contextlib.nullcontext() if number == len(shares) else no_sync(model):
                with self.autocast():
                    loss, scalars = self.task.loss(model, micro_batch)
                # DDP takes the mean over ranks of what is a sum here.
                scale = share * collectives.world_size()
                state.scaler.scale(loss if isinstance(scale, float) and scale == 1.0 else loss * scale).backward()
            state.window.add(state.step + 1, share, scalars)
            losses.append(scalars["loss"])
        state.scaler.unscale_(state.optimizer)
        skip = False
        if self.reads_norm(state):
            norm = clip_(state.model.parameters(), norm=self.clip_norm, value=self.clip_value, agc=self.clip_agc)
            bad = ~norm.isfinite()
            if self.skip_nonfinite:
                bad = collectives.max_((~torch.stack([norm, *losses]).isfinite()).any().float()).bool()
                skip = bool(bad)  # Waits for the device, once per step: the plan says so.
            state.window.add(
                state.step + 1, 1.0, {"grad_norm": norm} | ({"skipped": bad} if self.may_skip(state) else {})
            )
        if skip:  # BatchNorm has taken in the bad batch by now
            for buffer, before in zip(state.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        else:
            state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad()
        if state.ema:
            state.ema.update(state.model, state.step)
        return skip

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The task's metrics over a split, every sample once over all ranks, with draws of their own. Collective.

        Raises Interrupted when a process on its own is asked to stop.
        """
        metrics = self.task.metrics()
        model.eval()
        draws = rng.drawing_from(rng.fold(rng.EVAL, self.seed), self.device)
        with draws, torch.no_grad(), closing(self.data.eval_batches(split)) as batches:
            for batch in batches:
                batch = self.normalize(self.prepare(to(self.device, batch)))
                with self.autocast():
                    metrics.update(self.task.predict(model, batch), batch)
                if self.preemption.requested and collectives.world_size() == 1:
                    raise Interrupted
            return metrics.compute()

    def report(self, state: TrainState, watch: Stopwatch) -> bool:
        """Logs the window, evaluates where that is due. Returns whether the state is the best so far."""
        rows = [row for rows in collectives.gather(state.window.rows) for row in rows]
        row = {"epoch": state.step / self.steps_per_epoch}
        row |= {f"train/{key}": value for key, value in means(rows).items()}
        row["train/lr"] = self.rate(state.step)
        row |= watch.lap(state.step, self.data.batch_size)
        best = False
        if self.is_due(state.step, self.eval_every):
            collectives.share_buffers(state.evaluated)
            try:
                splits = getattr(self.data, "eval_splits", SPLITS)
                measured = {split: self.evaluate(state.evaluated, split) for split in splits}
            except Interrupted:
                self.save(state, required=True)
                raise Preempted(state.step, self.recorder.folder) from None
            for split, values in measured.items():
                row |= {f"{'train_eval' if split == 'train' else split}/{key}": value for key, value in values.items()}
            best = self.take_in(state, row[f"val/{self.task.monitor}"])
        state.window.clear()
        state.reported = state.step
        self.recorder.row(state.step, row, best=best)
        watch.restart(state.step)
        return best

    def save(self, state: TrainState, *, best: bool = False, required: bool = False) -> None:
        """Puts the whole state on disk. Collective; only rank 0 writes. Only a required save may fail the run."""
        collectives.share_buffers(state.model)
        windows = collectives.gather(state.window.rows)
        self.recorder.save(state, windows, best=best, required=required)
        collectives.barrier()

    def take_in(self, state: TrainState, value: float) -> bool:
        """Whether `value` is the best so far; NaN never is. Counts what early stopping needs."""
        sign = 1.0 if self.task.mode == "max" else -1.0
        gain = math.isfinite(value) and (state.milestone is None or sign * (value - state.milestone) > self.min_delta)
        state.milestone = value if gain else state.milestone
        state.evaluations_without_gain = 0 if gain else state.evaluations_without_gain + 1
        best = math.isfinite(value) and (state.best is None or sign * (value - state.best) > 0)
        if best:
            state.best, state.best_step = value, state.step
        return best

    def check(self, state: TrainState, bad_step: int | None) -> None:
        """Raises NonFinite for a step that all ranks know to be bad, or for too many skips in a row. Collective."""
        if bad_step is None and state.skipped_in_a_row <= self.max_skips:
            return
        where, cause = f"step {bad_step}", "the loss or a gradient is not a number"
        if bad_step is None:
            bad_step = state.step - state.skipped_in_a_row + 1
            where = f"steps {bad_step} to {state.step}"
            scale = f" (scale {state.scaler.get_scale():g})" if state.scaler.is_enabled() else ""
            cause = f"{state.skipped_in_a_row} updates in a row were skipped{scale}: {cause}"
        batch = next(iter(self.data.train_batches(bad_step - 1, bad_step, self.seed)))
        hint = self.note_bad(bad_step, batch, skipped=False)
        raise NonFinite(f"{where}, learning rate {self.rate(bad_step):g}: {cause}", hint=hint)

    def note_bad(self, step: int, batch: Batch, *, skipped: bool) -> str:
        """Puts a bad step on disk; the command that replays it. Collective. Waits for the device."""
        samples = [index for part in collectives.gather(batch["index"].tolist()) for index in part]
        return self.recorder.bad_step(step, lr=self.rate(step), samples=samples, skipped=skipped)

    def rate(self, step: int) -> float:
        """The base rate of the update that made `step` finished ones."""
        return self.base_lr * self.schedule(step - 1)

    def judge(self, state: TrainState) -> None:
        """Raises NonFinite at the end of a run whose evaluations never gave a number: then no weights are the best."""
        if state.best is None and (count := state.evaluations_without_gain):
            what = f"val/{self.task.monitor} was not a number in any of the {count} evaluations"
            hint = "look at the task's metric, or type trainer.eval_every=never"
            raise NonFinite(f"{what}: no weights are the best", hint=hint)

    def take_stock(self, state: TrainState) -> int | None:
        """Waits for the device, reads what was measured, counts skipped updates; the first step with a bad number."""
        bad_step = None
        for row in state.window.read():
            if "skipped" in row:
                state.skipped += int(row["skipped"])
                state.skipped_in_a_row = state.skipped_in_a_row + 1 if row["skipped"] else 0
            suspects = ("loss",) if self.may_skip(state) else ("loss", "grad_norm")
            excused = self.skip_nonfinite
            if bad_step is None and not excused and not all(math.isfinite(row.get(key, 0.0)) for key in suspects):
                bad_step = int(row["step"])
        return bad_step

    def may_skip(self, state: TrainState) -> bool:
        return self.skip_nonfinite or state.scaler.is_enabled()

    def reads_norm(self, state: TrainState) -> bool:
        """Whether the gradient norm of the coming update is needed: it costs a pass over all gradients."""
        clips = self.clip_norm is not None or self.clip_value is not None or self.clip_agc is not None
        return clips or self.may_skip(state) or self.is_log_step(state.step + 1)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == torch.float32:
            return contextlib.nullcontext()  # one that is off costs a step a fifth of what the whole loop does
        return torch.autocast(self.device.type, self.precision)

    def is_log_step(self, step: int) -> bool:
        """Whether a row is logged after this step. A save leaves none: it may fall anywhere and shows no seam."""
        return self.is_due(step, self.log_every) or self.is_due(step, self.eval_every)

    def meets_host(self, step: int) -> bool:
        """From the config alone: something is logged, evaluated or saved after this step."""
        return self.is_log_step(step) or self.is_due(step, self.save_every)

    def is_due(self, step: int, every: int | None) -> bool:
        return every is not None and (step % every == 0 or step == self.steps)

    def has_ended(self, state: TrainState) -> bool:
        """All steps are done, or early stopping has had its fill."""
        if state.step == self.steps:
            return True
        return self.patience is not None and state.evaluations_without_gain >= self.patience


def to(device: torch.device, batch: Batch) -> Batch:
    """The batch on the device; copies from pinned memory do not wait."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def closing(batches: Iterator[Batch]) -> contextlib.AbstractContextManager[Iterator[Batch]]:
    """Ends what an unfinished iteration holds, data workers above all; what cannot be closed holds nothing."""
    return contextlib.closing(batches) if isinstance(batches, Generator) else contextlib.nullcontext(batches)


def momentum_at(schedule: Schedule, step: int) -> float | None:
    return schedule.momentum(step) if hasattr(schedule, "momentum") else None
