"""The training loop: the order of what happens to a batch, a learning rate and a signal."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from plainloop.contracts import Augment, Batch, Data, Schedule, Split, Task
from plainloop.distributed import collectives
from plainloop.errors import BadData, NonFinite, Preempted, counted
from plainloop.loop.agreement import Agreement, Decision
from plainloop.loop.augmented import augmented
from plainloop.loop.evaluation.collect import Collector
from plainloop.loop.micro_batches import fix_ddp_bucket_order, no_sync, shares_of, split
from plainloop.loop.monitor import Monitor, count_for_early_stop, require_any_best, update_best
from plainloop.loop.normalize import to_device
from plainloop.loop.optim import clip_, momentum_at, set_rate
from plainloop.loop.recorder import Recorder
from plainloop.loop.skipped import report_skipped
from plainloop.loop.state import TrainState, means
from plainloop.loop.stopwatch import Stopwatch, closing_workers
from plainloop.system import rng
from plainloop.system.signals import Preemption

SPLITS: tuple[Split, ...] = ("val", "train")  # what each evaluation measures, unless the data have `eval_splits`


class Interrupted(Exception):
    """An evaluation ended half-way because the run was asked to stop; a resume does it again."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Trains for `steps` optimizer steps. Durations are in steps; None switches off."""

    task: Task
    data: Data
    augment: Sequence[Augment]
    schedule: Schedule
    prepare: Callable[[Batch], Batch]  # images to float in [0, 1], before the augmentations
    normalize: Callable[[Batch], Batch]  # to what the model sees, after them
    recorder: Recorder
    preemption: Preemption
    device: torch.device

    seed: int
    steps: int
    steps_per_epoch: int
    base_lr: float
    best_by: Monitor  # the metric of the best evaluation
    stop_by: Monitor  # the metric of early stopping
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
    min_delta: float = 0.0  # a smaller gain does not count for `patience`; it may still be the best
    skip_nonfinite: bool = False
    max_skips: int = 10  # in a row
    thaw: Callable[[TrainState], nn.Module] | None = None  # lets state.frozen learn; returns what replaces `model`
    torch_draws_alone: bool = False  # whether nothing draws from Python's or NumPy's global generators

    def fit(self, state: TrainState, model: nn.Module) -> None:
        """Trains from `state.step` to the end. `model` runs the forward pass: state.model or its wrapper. Collective.

        Raises Preempted after saving when asked to stop, NonFinite for bad numbers, BadData when the batches end early.
        """
        agreement = Agreement(self.preemption, start=state.step, save_every_s=self.save_every_s)
        watch = Stopwatch(state.step, self.device)
        if state.reported < state.step and self.is_log_step(state.step):  # a resume from a stop during an evaluation
            self.log_evaluate_save(state, watch, Decision())
        if self.has_ended(state):
            return require_any_best(state, self.best_by, self.eval_every)
        model.train()
        first = state.step
        draws: Any = {"seed": self.seed, "device": self.device, "torch_draws_alone": self.torch_draws_alone}
        batches = self.data.train_batches(first, self.steps, self.seed)
        with contextlib.closing(watch.fetching(batches, state.optimizer)) as fetched:
            for batch in fetched:
                thaws = state.frozen is not None and state.step == state.frozen.until
                model = self.thaw(state) if self.thaw and thaws else model
                set_rate(state.optimizer, self.schedule(state.step), momentum_at(self.schedule, state.step))
                batch = augmented(batch, state.step, prepare=self.prepare, augment=self.augment, **draws)
                batch = watch.prepared(self.normalize(batch))
                if (state.step == first or thaws) and collectives.world_size() > 2:  # a sum of two has one order
                    micro_batch = split(batch, self.accumulate)[0]
                    fix_ddp_bucket_order(model, micro_batch, self.task, self.autocast, self.device)
                skipped = self.update(model, state, batch)
                state.step += 1
                self.recorder.advance(state.step)
                if skipped:
                    self.record_bad_step(state.step, batch, skipped=True)
                elif not (self.meets_host(state.step) or agreement.due(state.step)):
                    continue

                # The only place where the host waits for the device, and where ranks talk outside of an update.
                decision = agreement.synchronize(state.step, self.read_window(state))
                self.raise_if_nonfinite(state, decision.bad_step)
                self.log_evaluate_save(state, watch, decision)
                if self.has_ended(state):
                    return require_any_best(state, self.best_by, self.eval_every)
                model.train()
                agreement.restart_clock(state.step)
        hint = f"train_batches({first}, {self.steps}, seed) must give {self.steps - first} batches"
        raise BadData(f"the training data ended after step {state.step} of {self.steps}", hint=hint)

    def log_evaluate_save(self, state: TrainState, watch: Stopwatch, decision: Decision) -> None:
        """Logs, evaluates and saves what is due after this step. Raises Preempted when asked to stop."""
        report_skipped(self.data, self.recorder, state.step)
        best = self.is_log_step(state.step) and self.log_and_evaluate(state, watch)
        ended = self.has_ended(state)
        required = decision.stop or ended
        if required or decision.save or self.is_due(state.step, self.save_every) or (best and self.save_best):
            with watch.saving():
                self.save(state, best=best and self.save_best, required=required)
        if decision.stop and not ended:
            raise Preempted(state.step, self.recorder.folder)

    def update(self, model: nn.Module, state: TrainState, batch: Batch) -> bool:
        """One optimizer step on this rank's rows of the global batch. Override this to train in another way.

        Returns whether the step was skipped, where all ranks know that already.
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
        if self.needs_grad_norm(state):
            norm = clip_(state.model.parameters(), norm=self.clip_norm, value=self.clip_value, agc=self.clip_agc)
            bad = ~norm.isfinite()
            if self.skip_nonfinite:
                bad = collectives.max_((~torch.stack([norm, *losses]).isfinite()).any().float()).bool()
                skip = bool(bad)  # Waits for the device, once per step: the plan says so.
            skipped = {"skipped": bad} if self.may_skip(state) else {}
            state.window.add(state.step + 1, 1.0, {"grad_norm": norm} | skipped)
        if skip:  # BatchNorm has counted the bad batch already
            for buffer, before in zip(state.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        else:
            state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad()
        if state.ema:
            state.ema.update(state.model, state.step)
        return skip

    def evaluate(self, model: nn.Module, split: Split, collector: Collector | None = None) -> dict[str, float]:
        """The task's metrics over a split, every sample once over all ranks, with draws of their own. Collective.

        `collector` keeps more of each sample. Raises Interrupted when a process on its own is asked to stop.
        """
        metrics = collector.metrics if collector else self.task.metrics()
        model.eval()
        draws = rng.drawing_from(rng.fold(rng.EVAL, self.seed), self.device)
        with draws, torch.no_grad(), closing_workers(self.data.eval_batches(split)) as batches:
            for batch in batches:
                self.recorder.evaluating(split, len(batch["index"]) * collectives.world_size())
                batch = to_device(batch, self.device)
                image, batch = batch["image"], self.normalize(self.prepare(batch))
                with self.autocast():
                    prediction = self.task.predict(model, batch)
                    metrics.update(prediction, batch)
                    if collector:
                        collector.add(prediction, batch, image)
                if self.preemption.requested and collectives.world_size() == 1:
                    raise Interrupted
            return metrics.compute()

    def log_and_evaluate(self, state: TrainState, watch: Stopwatch) -> bool:
        """Logs the window, and evaluates if that is due. Returns whether the state is the best so far."""
        rows = [row for rows in collectives.gather(state.window.rows) for row in rows]
        row = {"epoch": state.step / self.steps_per_epoch}
        row |= {f"train/{key}": value for key, value in means(rows).items()}
        row["train/lr"] = self.rate(state.step)
        row |= watch.lap(state.step, self.data.batch_size)
        best = False
        if self.is_due(state.step, self.eval_every):
            began = time.perf_counter()
            collectives.share_buffers(state.evaluated)
            try:
                collectors = {"val": Collector(self.task)}
                splits = getattr(self.data, "eval_splits", SPLITS)
                measured = {split: self.evaluate(state.evaluated, split, collectors.get(split)) for split in splits}
            except Interrupted:
                self.save(state, required=True)
                raise Preempted(state.step, self.recorder.folder) from None
            for split, values in measured.items():
                row |= {f"{'train_eval' if split == 'train' else split}/{key}": value for key, value in values.items()}
            count_for_early_stop(state, measured["val"], self.stop_by, min_delta=self.min_delta)
            best = update_best(state, measured["val"], self.best_by)
            if best:
                self.recorder.evaluated(state.step, measured["val"], collectors["val"].collected())
            row["time/eval_s"] = time.perf_counter() - began
        state.window.clear()
        state.reported = state.step
        watch.restart(state.step)
        with watch.saving():
            self.recorder.row(state.step, row, best=best)
        return best

    def save(self, state: TrainState, *, best: bool = False, required: bool = False) -> None:
        """Puts the whole state on disk. Collective; only rank 0 writes. Only a required save may fail the run."""
        report_skipped(self.data, self.recorder, state.step)
        collectives.share_buffers(state.model)
        windows = collectives.gather(state.window.rows)
        self.recorder.save(state, windows, best=best, required=required)
        collectives.barrier()

    def raise_if_nonfinite(self, state: TrainState, bad_step: int | None) -> None:
        """Raises NonFinite for a bad step that all ranks know of, or for too many skips in a row. Collective."""
        if bad_step is None and state.skipped_in_a_row <= self.max_skips:
            return
        where, cause = f"step {bad_step}", "the loss or a gradient is not a number"
        if bad_step is None:
            bad_step = state.step - state.skipped_in_a_row + 1
            where = f"steps {bad_step} to {state.step}"
            scale = f" (scale {state.scaler.get_scale():g})" if state.scaler.is_enabled() else ""
            cause = f"{state.skipped_in_a_row} updates in a row were skipped{scale}: {cause}"
        batch = next(iter(self.data.train_batches(bad_step - 1, bad_step, self.seed)))
        hint = self.record_bad_step(bad_step, batch, skipped=False)
        raise NonFinite(f"{where}, learning rate {self.rate(bad_step):g}: {cause}", hint=hint)

    def record_bad_step(self, step: int, batch: Batch, *, skipped: bool) -> str:
        """Writes down a bad step; the command that replays it. Collective. Waits for the device."""
        samples = [index for part in collectives.gather(batch["index"].tolist()) for index in part]
        return self.recorder.bad_step(step, lr=self.rate(step), samples=samples, skipped=skipped)

    def rate(self, step: int) -> float:
        """The base rate of the update that finished step `step`."""
        return self.base_lr * self.schedule(step - 1)

    def read_window(self, state: TrainState) -> int | None:
        """Waits for the device, reads what was measured, counts skipped updates. Returns the first bad step."""
        bad_step = None
        for row in state.window.read():
            if "skipped" in row:
                state.skipped += int(row["skipped"])
                state.skipped_in_a_row = state.skipped_in_a_row + 1 if row["skipped"] else 0
            # A gradient scaler skips steps whose gradients overflow; that is no error.
            checked = ("loss",) if self.may_skip(state) else ("loss", "grad_norm")
            finite = all(math.isfinite(row.get(key, 0.0)) for key in checked)
            if bad_step is None and not finite and not self.skip_nonfinite:
                bad_step = int(row["step"])
        return bad_step

    def may_skip(self, state: TrainState) -> bool:
        return self.skip_nonfinite or state.scaler.is_enabled()

    def needs_grad_norm(self, state: TrainState) -> bool:
        """Whether the coming update needs the gradient norm, which costs a pass over all gradients."""
        clips = self.clip_norm is not None or self.clip_value is not None or self.clip_agc is not None
        return clips or self.may_skip(state) or self.is_log_step(state.step + 1)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == torch.float32:
            return contextlib.nullcontext()  # a disabled torch.autocast takes a fifth of the loop's own time
        return torch.autocast(self.device.type, self.precision)

    def is_log_step(self, step: int) -> bool:
        """Whether a row is logged after this step. Saves log none, so that the rows do not depend on them."""
        return self.is_due(step, self.log_every) or self.is_due(step, self.eval_every)

    def meets_host(self, step: int) -> bool:
        """Whether the config says that something is logged, evaluated or saved after this step."""
        return self.is_log_step(step) or self.is_due(step, self.save_every)

    def is_due(self, step: int, every: int | None) -> bool:
        return every is not None and (step % every == 0 or step == self.steps)

    def has_ended(self, state: TrainState) -> bool:
        """Whether all steps are done or training stops early; notes in the state why it does."""
        if self.patience is not None and state.evaluations_without_gain >= self.patience and state.step < self.steps:
            count = state.evaluations_without_gain
            state.stopped_early = f"no better val/{self.stop_by.metric} for {counted(count, 'evaluation')}"
        return state.step == self.steps or bool(state.stopped_early)
