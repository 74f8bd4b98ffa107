"""Trains a run again up to one step, from the newest checkpoint before it, and shows that step. Writes nothing."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils.hooks import RemovableHandle

from plainloop.config.build import settings
from plainloop.config.durations import Clock, clock_of
from plainloop.config.parts import build_model, build_state, make_part
from plainloop.config.settings import TrainerSettings, with_later_keys
from plainloop.config.targets import is_no_plugin
from plainloop.contracts import Batch
from plainloop.distributed import process_group
from plainloop.errors import BadConfig, RunError, Unresumable
from plainloop.loop.micro_batches import shares_of, split
from plainloop.loop.state import TrainState
from plainloop.loop.trainer import Trainer
from plainloop.run import backend
from plainloop.run.run import build_task, build_trainer, num_threads
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.config_file import read_config
from plainloop.run_dir.recorder import Silent
from plainloop.system.processes import open_screens_of_command
from plainloop.system.signals import Preemption


@dataclass
class Findings:
    """What a step shows, with all digits."""

    step: int
    from_step: int  # the checkpoint that training began from; 0 is the start
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
    """Trains the run in `folder` up to `step` and looks at that step, in one process. A run of several ranks had other
    BatchNorm statistics and dropout.

    Raises BadConfig when the run has no such step, or the folder holds no run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise BadConfig(f"{folder} has no config.yaml: it is no run directory")
    if wrong := [name for name in plugins if is_no_plugin(name)]:
        raise BadConfig(f"--plugins {' '.join(wrong)}: no package of your own", hint="leave it out")
    config = with_later_keys(read_config(folder)) | {"plugins": list(plugins)}
    clock = clock_of(config)
    if not 1 <= step <= clock.total_steps:
        raise BadConfig(f"the run in {folder} has steps 1 to {clock.total_steps}, and not step {step}")
    return look(config, folder, step, clock)


def look(config: dict[str, Any], folder: Path, step: int, clock: Clock) -> Findings:
    args = settings(TrainerSettings, config["trainer"], clock)
    switches = {key: config["trainer"][key] for key in ("deterministic", "cudnn_benchmark", "tf32")}
    backend.prepare(detect_anomaly=False, **switches)
    make = functools.partial(make_part, config, clock)
    device = process_group.pick_device(config["device"])
    saved = newest_before(folder / "checkpoints", step)
    torch.set_num_threads(num_threads(config, folder))
    model = build_model(config | {"init_from": None} if saved else config, args, device, make)
    state = build_state(config, args, model, device, make)
    if saved:
        state.load_state_dict(saved)
    state.evaluations_without_gain = 0  # a step after an early stop is no other step
    findings = Findings(step, state.step)
    changed: dict[str, Any] = dict.fromkeys(("steps", "log_every", "max_skips"), step)
    changed |= dict.fromkeys(("eval_every", "save_every", "save_every_s", "patience"))
    changed |= {"findings": findings, "recorder": Silent(folder), "preemption": Preemption()}
    trainer, wrapped = build_trainer(config, state, build_task(config, make, device), kind=Replaying, **changed)
    trainer.fit(state, wrapped)
    return findings


def newest_before(folder: Path, step: int) -> dict[str, Any] | None:
    """The verified state of the newest checkpoint of fewer steps; None for the start."""
    checkpoints = Checkpoints(folder)
    for path in sorted(folder.glob("step_*.pt"), reverse=True):
        if int(path.name.split(".")[0].removeprefix("step_")) >= step:
            continue
        try:
            return checkpoints.load(path)
        except Unresumable:  # damaged, or not committed: an older one gives the same steps
            continue
    return None


@dataclass(frozen=True, kw_only=True)
class Replaying(Trainer):
    """Trains up to the last step and examines that one instead of making it."""

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
    """Returns the outputs that a model gave before, so that a sample's loss comes from the pass of its whole batch."""

    def __init__(self, outputs: Sequence[Any]) -> None:
        super().__init__()
        self.outputs = iter(outputs)

    def forward(self, *_: Any, **__: Any) -> Any:
        return next(self.outputs)


@contextmanager
def keeping(model: nn.Module, outputs: list[Any]) -> Iterator[None]:
    """Collects the model's outputs."""
    handle = model.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watched(model: nn.Module, findings: Findings) -> Iterator[None]:
    """Finds the first module whose output is not finite; inner modules come before those that hold them."""

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


def main(arguments: Sequence[str]) -> int:
    """`python scripts/replay_step.py`; the exit code."""
    parser = argparse.ArgumentParser(prog="replay_step.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="the run directory")
    parser.add_argument("step", type=int, help="the step, as the run's message names it")
    parser.add_argument("--plugins", nargs="*", default=[], help="packages of your own that the run's config names")
    options = parser.parse_args(arguments)
    open_screens_of_command()
    try:
        findings = replay(options.folder, options.step, plugins=options.plugins)
    except RunError as error:
        sys.stderr.write(f"{error}\n" + (f"next: {error.hint}\n" if error.hint else ""))
        return error.code
    sys.stdout.writelines(f"{line}\n" for line in findings.lines())
    return 0
