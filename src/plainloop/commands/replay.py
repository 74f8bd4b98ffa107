"""Looks at one step of a run again: from the newest checkpoint before it, exactly as it was trained. Writes nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils.hooks import RemovableHandle

from plainloop.config.build import build_checked, settings
from plainloop.config.durations import Clock, clock_of
from plainloop.config.settings import CheckpointSettings, TrainerSettings, with_later_keys
from plainloop.contracts import Batch, Task
from plainloop.distributed import process_group
from plainloop.errors import BadConfig, Unresumable
from plainloop.loop.micro_batches import shares_of, split
from plainloop.loop.normalize import Normalize, to_float
from plainloop.loop.state import TrainState
from plainloop.loop.trainer import Trainer
from plainloop.run import backend
from plainloop.run.parts import base_rate, build_data, build_model, build_schedule, build_state
from plainloop.run.run import loop_settings
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.recorder import Silent
from plainloop.system.signals import Preemption


@dataclass
class Findings:
    """What a step shows; nothing of it is rounded."""

    step: int
    from_step: int  # of the checkpoint that training went on from; 0 is the start
    lr: float = 0.0
    losses: dict[int, float] = field(default_factory=dict)  # sample -> its own loss
    bad_images: list[int] = field(default_factory=list)  # samples whose image is not finite before the model
    first_bad_module: str = ""  # in the order of the forward pass; "" where all outputs are finite
    norms: dict[str, float] = field(default_factory=dict)  # parameter group -> norm of its gradient, before clipping

    @property
    def bad_samples(self) -> list[int]:
        return [index for index, loss in self.losses.items() if not torch.tensor(loss).isfinite()]

    def lines(self) -> Iterator[str]:
        yield f"step {self.step}, learning rate {self.lr:g}, trained again from step {self.from_step}"
        yield f"samples with a loss that is not a number: {self.bad_samples or 'none'}"
        yield f"samples with an image that is not a number: {self.bad_images or 'none'}"
        yield f"first module with an output that is not a number: {self.first_bad_module or 'none'}"
        for name, norm in self.norms.items():
            yield f"norm of the gradient, group {name}: {norm:g}"
        yield "loss of each sample, greatest first:"
        order = sorted(self.losses, key=lambda index: (self.losses[index] == self.losses[index], -self.losses[index]))
        for index in order:
            yield f"  {index:>8}  {self.losses[index]:.6g}"


def replay(folder: Path, step: int, *, plugins: Sequence[str] = ()) -> Findings:
    """Trains the run in `folder` up to `step` and looks at that step, on one process: ranks of a larger run see their
    own shares of BatchNorm and dropout otherwise.

    Raises BadConfig when the run has no such step, or is none.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise BadConfig(f"{folder} has no config.yaml: it is no run directory")
    config = with_later_keys(yaml.safe_load(path.read_text(encoding="utf-8"))) | {"plugins": list(plugins)}
    clock = clock_of(config)
    if not 1 <= step <= clock.total_steps:
        raise BadConfig(f"the run in {folder} has steps 1 to {clock.total_steps}, and not step {step}")
    return look(config, folder, step, clock)


def look(config: dict[str, Any], folder: Path, step: int, clock: Clock) -> Findings:
    told = settings(TrainerSettings, config["trainer"], clock)
    backend.prepare(deterministic=told.deterministic, detect_anomaly=False)
    make = functools.partial(build_checked, clock=clock, plugins=config["plugins"])
    device = process_group.pick_device(config["device"])
    task: Task = make(config["task"])
    data, augment = build_data(config, make)
    model = build_model(config, told, device, make)
    state = build_state(config, told, model, device, make)
    if (saved := newest_before(folder / "checkpoints", step)) is not None:
        state.load_state_dict(saved)
    state.evaluations_without_gain = 0  # whether the run stopped early is not what is asked
    findings = Findings(step, state.step)
    told_of_loop = loop_settings(told, settings(CheckpointSettings, config["checkpoint"], clock), clock)
    unwatched = {"steps": step, "log_every": step, "eval_every": None, "save_every": None, "save_every_s": None}
    Replaying(
        task=task,
        data=data,
        augment=augment,
        schedule=build_schedule(config, make),
        prepare=to_float,
        normalize=Normalize(
            mean=config["facts"]["mean"], std=config["facts"]["std"], device=device, channels_last=told.channels_last
        ),
        recorder=Silent(folder),
        preemption=Preemption(),
        device=device,
        seed=config["seed"],
        base_lr=base_rate(config),
        findings=findings,
        **told_of_loop | unwatched | {"patience": None, "max_skips": step},
    ).fit(state, backend.wrap(model, told, device))
    return findings


def newest_before(folder: Path, step: int) -> dict[str, Any] | None:
    """The verified state of the newest checkpoint of fewer steps; None for the start."""
    checkpoints = Checkpoints(folder)
    for path in sorted(folder.glob("step_*.pt"), reverse=True):
        if int(path.name.split(".")[0].removeprefix("step_")) >= step:
            continue
        try:
            return checkpoints.load(path)
        except Unresumable:  # damaged, or never committed: the one before it is as good
            continue
    return None


@dataclass(frozen=True, kw_only=True)
class Replaying(Trainer):
    """Trains as ever, and looks at the last step instead of taking it."""

    findings: Findings

    def update(self, model: nn.Module, state: TrainState, batch: Batch) -> bool:
        if state.step + 1 < self.findings.step:
            return super().update(model, state, batch)
        self.findings.lr = self.base_lr * self.schedule(state.step)
        micro_batches = split(batch, self.accumulate)
        for micro_batch, share in zip(micro_batches, shares_of(self.task, micro_batches), strict=True):
            self.look_at(model, state, micro_batch, share)
        state.scaler.unscale_(state.optimizer)
        for number, group in enumerate(state.optimizer.param_groups):
            grads = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
            self.findings.norms[group.get("name", str(number))] = float(torch.nn.utils.get_total_norm(grads))
        state.optimizer.zero_grad()
        return False

    def look_at(self, model: nn.Module, state: TrainState, batch: Batch, share: Tensor | float) -> None:
        rows = list(enumerate(batch["index"].tolist()))
        finite = batch["image"].flatten(1).isfinite().all(1).tolist()
        self.findings.bad_images += [index for row, index in rows if not finite[row]]
        outputs: list[Any] = []
        with watched(state.model, self.findings), keeping(model, outputs), self.autocast():
            loss, _ = self.task.loss(model, batch)
        state.scaler.scale(loss * share).backward()
        with torch.no_grad(), self.autocast():
            for row, index in rows:
                cut = functools.partial(_row, row=row)
                alone = Replayed([_pytree.tree_map_only(Tensor, cut, output) for output in outputs])
                own, _ = self.task.loss(alone, {name: tensor[row : row + 1] for name, tensor in batch.items()})
                self.findings.losses[index] = float(own)


def _row(tensor: Tensor, *, row: int) -> Tensor:
    return tensor[row : row + 1]


class Replayed(nn.Module):
    """Answers with what a model has answered before, so that a sample's own loss is that of the whole batch's pass."""

    def __init__(self, outputs: Sequence[Any]) -> None:
        super().__init__()
        self.outputs = iter(outputs)

    def forward(self, *_: Any, **__: Any) -> Any:
        return next(self.outputs)


@contextmanager
def keeping(model: nn.Module, outputs: list[Any]) -> Iterator[None]:
    """Collects what the model answers."""
    handle = model.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watched(model: nn.Module, findings: Findings) -> Iterator[None]:
    """Notes the first module whose output is not finite; inner ones end before those that hold them."""

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            tensors = [leaf for leaf in _pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
            if not findings.first_bad_module and not all(bool(tensor.isfinite().all()) for tensor in tensors):
                findings.first_bad_module = f"{name or 'the model'} ({type(module).__name__})"

        return module.register_forward_hook(note)

    handles = [watch(name, module) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
