"""What a run would do, in numbers and one curve, before it does it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from plainloop.config.build import arguments_of
from plainloop.config.check.meta_model import ModelSummary
from plainloop.config.durations import Clock, clock_of, train_batch_size
from plainloop.config.parts import base_lr_of, lr_scaling_of, schedule_of
from plainloop.config.targets import locate
from plainloop.system import storage

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 60, 6  # characters of the drawn schedule
_RUNS = 20  # earlier runs that are looked at for the time


@dataclass(frozen=True)
class Plan:
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def plan_of(
    config: Mapping[str, Any],
    ranks: int,
    model: ModelSummary,
    warnings: Sequence[str] = (),
    folder: Path | None = None,
) -> Plan:
    """The plan of a config that has passed the check. `folder` is where it will be written, beside earlier runs."""
    clock = clock_of(config)
    sections = (
        _length(config, clock),
        _batch(config, ranks),
        _data(config),
        _tuned(config, ranks),
        _rates(config, clock),
        _model(config, model),
        _memory(config, ranks, model),
        _evaluation(config, clock),
        _time(config, clock, model, folder),
        _waits(config),
        [f"  warning       {warning}" for warning in warnings],
    )
    return Plan(("the plan: nothing is trained", *(line for section in sections for line in section)))


def draw(values: Sequence[float], *, height: int = _HEIGHT) -> list[str]:
    """A curve of values in [0, top] as rows of blocks, the highest row first.

    >>> draw([0.0, 0.5, 1.0], height=1), draw([0.0, 0.5, 1.0], height=2)
    ([' ▄█'], ['  █', ' ██'])
    """
    top = max(values, default=0.0) or 1.0
    eighths = [round(value / top * height * 8) for value in values]
    return ["".join(_BLOCKS[min(8, max(0, e - row * 8))] for e in eighths) for row in reversed(range(height))]


def _length(config: Mapping[str, Any], clock: Clock) -> list[str]:
    trainer, facts, batch_size = config["trainer"], config["facts"], train_batch_size(config)
    every = {key: trainer[f"{key}_every"] for key in ("log", "eval", "save")}
    spelled = ", ".join(
        f"{key} {text}{'' if text == 'never' else f' = {clock.steps(text)}'}" for key, text in every.items()
    )
    return [
        f"  steps         {clock.total_steps} = {trainer['duration']}, {clock.epochs(clock.total_steps):.4g} epochs of "
        f"{facts['num_train']} // {batch_size} = {clock.steps_per_epoch} steps",
        f"  every         {spelled} steps",
    ]


def _batch(config: Mapping[str, Any], ranks: int) -> list[str]:
    batch_size, accumulate = train_batch_size(config), config["trainer"]["accumulate"]
    micro = batch_size // (ranks * accumulate)
    return [
        f"  batch         {batch_size} (global) = {ranks} (ranks) x {accumulate} (micro-batches) x {micro} (images)"
    ]


def _data(config: Mapping[str, Any]) -> list[str]:
    facts, node = config["facts"], config["data"]
    shape = "x".join(map(str, facts["image_shape"]))
    counts = f"{facts['num_train']} train, {facts['num_val']} val, {facts['num_classes']} classes, images {shape}"
    source: Any = locate(node["_target_"], config["plugins"])
    own = source.plan_lines(**arguments_of(node)) if hasattr(source, "plan_lines") else []
    augment = ", ".join(f"{name} ({_last_name(inner)})" for name, inner in config["augment"].items())
    return [
        f"  data          {_last_name(node)}: {counts}",
        *(f"  {'':<13} {line}" for line in own),
        f"  augment       {augment or 'none'}",
    ]


def _tuned(config: Mapping[str, Any], ranks: int) -> list[str]:
    """What the run does otherwise than the one that the recipe's rate was found with, and what follows for the rate."""
    from plainloop.loop.optim import scaling_text

    trainer, lr, scaling = config["trainer"], config["optimizer"]["lr"], lr_scaling_of(config)
    batch_size, before = scaling["batch_size"], trainer["tuned"]["batch_size"]
    if before is None:
        return []
    on = "" if trainer["tuned"]["devices"] is None else f" on {_devices(trainer['tuned']['devices'])}"
    lines = [f"you run batch {batch_size} on {_devices(ranks)}; the recipe was tuned at {before}{on}"]
    if scaling["rule"] != "none":
        lines.append(f"so the rate is {scaling_text(lr, **scaling)}, by trainer.lr_scaling")
    elif batch_size == before:
        lines.append(f"so the rate is the recipe's, {lr:g}")
    else:
        typed = "trainer.lr_scaling.rule=linear"
        if scaling["base_batch_size"] != before:
            typed += f" trainer.lr_scaling.base_batch_size={before}"
        linear = scaling_text(lr, rule="linear", batch_size=batch_size, base_batch_size=before)
        lines.append(f"the rate stays {lr:g}; in proportion to the batch it is {linear}: {typed}")
    return [f"  {'' if number else 'tuned':<13} {line}" for number, line in enumerate(lines)]


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _rates(config: Mapping[str, Any], clock: Clock) -> list[str]:
    from plainloop.loop.optim import scaling_text

    schedule, base_lr, total = schedule_of(config), base_lr_of(config), clock.total_steps
    lines = [f"  rate          {scaling_text(config['optimizer']['lr'], **lr_scaling_of(config))}"]
    last = max(0, total - 1)
    shown = [schedule(round(i * last / (_WIDTH - 1))) for i in range(_WIDTH)]
    peak = max(max(shown), 0.0) * base_lr
    rows = draw(shown)
    lines += [f"  {f'{peak:.3g}' if i == 0 else '':>12}  {row}" for i, row in enumerate(rows)]
    marks = _marks(config, clock, total)
    lines += [
        f"    step {step:>8}  {schedule(step) * base_lr:.6g}{f'   {name}' if name else ''}" for step, name in marks
    ]
    return lines


def _marks(config: Mapping[str, Any], clock: Clock, total: int) -> list[tuple[int, str]]:
    """The steps at which a reader looks for the rate."""
    scheduler = config["scheduler"]
    marks = {0: "first"}
    warmup = clock.steps(scheduler.get("warmup") or 0)
    if warmup:
        marks[warmup] = "end of the warm-up"
    for milestone in scheduler.get("milestones") or ():
        marks[clock.steps(milestone)] = f"milestone {milestone}"
    size = clock.steps(scheduler.get("step_size") or 0)
    marks |= {
        step: f"{i} x {scheduler['step_size']}" for i, step in enumerate(range(size, total, size) if size else (), 1)
    }
    marks[total // 2] = marks.get(total // 2, "half-way")
    marks[total - 1] = "last"
    return sorted((step, name) for step, name in marks.items() if 0 <= step < total)[:12]


def _model(config: Mapping[str, Any], model: ModelSummary) -> list[str]:
    name, device = config["model"].get("model_name") or _last_name(config["model"]), config["device"]
    size = "its size is known when it is built"
    if model.parameters is not None:
        size = f"{model.parameters / 1e6:.3f} million parameters"
        size += "" if model.macs is None else f", {model.macs / 1e6:.3g} million MACs per image"
    if device == "auto":
        import torch

        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        device = f"{found} (auto: what is here)"
    return [
        f"  model         {name}: {size}",
        f"  device        {device}, {config['trainer']['precision']}",
    ]


def _memory(config: Mapping[str, Any], ranks: int, model: ModelSummary) -> list[str]:
    if model.parameters is None:
        return []
    slots = _optimizer_slots(config)
    ema = model.parameters + model.buffers if config["trainer"]["ema_decay"] is not None else 0
    states = (model.parameters * (2 + slots) + model.buffers + ema) * 4
    text = f"weights + gradients + {slots} optimizer states{' + EMA' if ema else ''} in fp32 = {_size(states)}"
    if model.activations is not None:
        micro = math.ceil(train_batch_size(config) / (ranks * config["trainer"]["accumulate"]))
        width = 4 if config["trainer"]["precision"] == "fp32" else 2
        kept = model.activations * micro * width
        text += f"; + activations {model.activations / 1e6:.3g}M x {micro} images x {width} bytes = {_size(kept)}"
        text += f"; about {_size(states + kept)} per device"
    return [f"  memory        {text}"]


def _evaluation(config: Mapping[str, Any], clock: Clock) -> list[str]:
    """What evaluations cost: a forward pass is about a third of a training step."""
    every, facts = config["trainer"]["eval_every"], config["facts"]
    if every == "never":
        return ["  evaluation    never"]
    times = math.ceil(clock.total_steps / max(1, clock.steps(every)))
    of_train = min(config["data"].get("train_eval_samples") or 0, facts["num_train"])
    trained = 3 * clock.total_steps * train_batch_size(config)
    shares = [f"{100 * times * images / trained:.2g} %" for images in (facts["num_val"] + of_train, of_train)]
    text = f"{times} x ({facts['num_val']} val + {of_train} train) images: about {shares[0]} of the training's work"
    if of_train:
        text += f"; the train images (train_eval) are {shares[1]}, data.train_eval_samples=0 leaves them out"
    return [f"  evaluation    {text}"]


def _time(config: Mapping[str, Any], clock: Clock, model: ModelSummary, folder: Path | None) -> list[str]:
    """As long for each step as the newest finished run beside it that had the same model, images and batch."""
    for path in sorted(folder.parent.glob("*/summary.json"), reverse=True)[:_RUNS] if folder else ():
        summary, saved = storage.read_json(path) or {}, yaml.safe_load((path.parent / "config.yaml").read_text())
        of_both = [(c["facts"]["image_shape"], train_batch_size(c), c["trainer"]["precision"]) for c in (saved, config)]
        if summary.get("parameters") == model.parameters and of_both[0] == of_both[1] and summary.get("seconds"):
            seconds = summary["seconds"] / max(1, summary["steps"]) * clock.total_steps
            shown = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
            return [f"  time          about {shown}, as {path.parent} took {summary['seconds']:.0f} s"]
    return []


def _optimizer_slots(config: Mapping[str, Any]) -> int:
    """Tensors per weight that the optimizer keeps; one for momentum methods, two for those of Adam's kind."""
    name = locate(config["optimizer"]["_target_"], config["plugins"]).__name__.lower()
    if name in ("sgd", "lion", "muon", "adagrad", "rprop"):
        return int(name != "sgd" or bool(config["optimizer"].get("momentum")))
    return 2


def _waits(config: Mapping[str, Any]) -> list[str]:
    """When the host waits for the device."""
    trainer = config["trainer"]
    waits = ["log, evaluation and save steps", "agreements at most 5 s apart"]
    if trainer["on_nonfinite"] == "skip":
        waits.append("one flag per step (on_nonfinite=skip)")
    if trainer["precision"] == "fp16" and not config["optimizer"].get("fused"):
        waits.append("one flag per step (fp16 with an optimizer that is not fused)")
    return [f"  host waits    {', '.join(waits)}"]


def _last_name(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"
