"""What a run would do, in numbers and one curve, before it does it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plainloop.config.build import build
from plainloop.config.check.probe import Probed
from plainloop.config.durations import Clock, train_batch_size
from plainloop.config.targets import locate

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 60, 6  # characters of the drawn schedule


@dataclass(frozen=True)
class Plan:
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def plan_of(config: Mapping[str, Any], clock: Clock, ranks: int, probed: Probed, warnings: Sequence[str]) -> Plan:
    """The plan of a config that has passed the check."""
    sections = (
        _length(config, clock),
        _batch(config, ranks),
        _data(config),
        _tuned(config, ranks),
        _rates(config, clock),
        _model(config, ranks, probed),
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
    facts = config["facts"]
    shape = "x".join(map(str, facts["image_shape"]))
    return [
        f"  data          {facts['num_train']} train, {facts['num_val']} val, "
        f"{facts['num_classes']} classes, images {shape}"
    ]


def _tuned(config: Mapping[str, Any], ranks: int) -> list[str]:
    """What the run does otherwise than the one that the recipe's rate was found with, and what follows for the rate."""
    from plainloop.loop.optim import scaled_lr, scaling_text

    trainer, lr = config["trainer"], config["optimizer"].get("lr")
    batch_size, before = train_batch_size(config), trainer["tuned"]["batch_size"]
    if before is None or lr is None:
        return []
    on = "" if trainer["tuned"]["devices"] is None else f" on {_devices(trainer['tuned']['devices'])}"
    lines = [f"you run batch {batch_size} on {_devices(ranks)}; the recipe was tuned at {before}{on}"]
    scaling = trainer["lr_scaling"]
    rate = scaled_lr(lr, batch_size=batch_size, **scaling)
    if scaling["rule"] != "none":
        lines.append(f"so the rate is {scaling_text(lr, batch_size=batch_size, **scaling)}, by trainer.lr_scaling")
    elif batch_size == before:
        lines.append(f"so the rate is the recipe's, {rate:g}")
    else:
        typed = "trainer.lr_scaling.rule=linear"
        if scaling["base_batch_size"] != before:
            typed += f" trainer.lr_scaling.base_batch_size={before}"
        linear = scaling_text(lr, rule="linear", batch_size=batch_size, base_batch_size=before)
        lines.append(f"the rate stays {rate:g}; in proportion to the batch it is {linear}: {typed}")
    return [f"  {'' if number else 'tuned':<13} {line}" for number, line in enumerate(lines)]


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _rates(config: Mapping[str, Any], clock: Clock) -> list[str]:
    from plainloop.loop.optim import scaled_lr, scaling_text

    scaling, lr = config["trainer"]["lr_scaling"], config["optimizer"].get("lr")
    if lr is None:
        return []
    sizes = {"batch_size": train_batch_size(config), **scaling}
    base_lr, arithmetic = scaled_lr(lr, **sizes), scaling_text(lr, **sizes)
    schedule = build(config["scheduler"], clock, plugins=config["plugins"], base_lr=base_lr)
    total = clock.total_steps
    lines = [f"  rate          {arithmetic}"]
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


def _model(config: Mapping[str, Any], ranks: int, probed: Probed) -> list[str]:
    if probed.parameters == 0:
        return ["  model         its size is known when it is built"]
    lines = [f"  model         {probed.parameters / 1e6:.3f} million parameters"]
    slots = _optimizer_slots(config)
    ema = probed.parameters + probed.buffers if config["trainer"]["ema_decay"] is not None else 0
    states = (probed.parameters * (2 + slots) + probed.buffers + ema) * 4
    text = f"weights + gradients + {slots} optimizer states{' + EMA' if ema else ''} in fp32 = {_size(states)}"
    if probed.activations is not None:
        micro = math.ceil(train_batch_size(config) / (ranks * config["trainer"]["accumulate"]))
        width = 4 if config["trainer"]["precision"] == "fp32" else 2
        kept = probed.activations * micro * width
        text += f"; + activations {probed.activations / 1e6:.3g}M x {micro} images x {width} bytes = {_size(kept)}"
        text += f"; about {_size(states + kept)} per device"
    return [*lines, f"  memory        {text}"]


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


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"
