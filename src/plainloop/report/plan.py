"""What a run would do, in numbers and one curve, before it does it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from plainloop.config.build import arguments_of
from plainloop.config.check.check import Checked
from plainloop.config.check.meta_model import ModelSummary, built_model
from plainloop.config.device_choices import with_choices
from plainloop.config.durations import Clock, clock_of, train_batch_size
from plainloop.config.parts import base_lr_of, largest_size, lr_scaling_of, schedule_of
from plainloop.config.starting_weights import start_lines
from plainloop.config.targets import locate
from plainloop.errors import BadConfig, BadData
from plainloop.run_dir.config_file import read_config
from plainloop.run_dir.status import read_summary

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 60, 6  # characters of the drawn schedule
_RUNS = 20  # earlier runs that are looked at for the time

Lines = Iterator[tuple[str, str]]  # label, text; a label that begins with a space is the whole line


def plan_of(checked: Checked, *, width: int = 0) -> str:
    """The plan in lines of `width` characters; 0 breaks none."""
    (config, chosen), ranks, model = with_choices(checked.config, checked.ranks), checked.ranks, checked.model
    clock, built = clock_of(config), built_model(config)
    lines = [
        ("the plan", "nothing is trained"),
        *_length(config, ranks, clock),
        *_data(config),
        *_tuned(config, ranks),
        *_rates(config, clock),
        *_model(config, ranks, model),
        *(("note", line) for line in (built.plan_lines() if hasattr(built, "plan_lines") else ())),
        *start_lines(config, built),
        *([("chosen", chosen)] if chosen else []),
        *_evaluation(config, clock, model.views),
        *_time(config, clock, model, checked.folder),
        *_waits(config, built),
        *(("warning", warning) for warning in checked.warnings),
    ]
    return "\n".join(_shown(label, text, width) for label, text in lines)


def _shown(label: str, text: str, width: int) -> str:
    if label[:1] == " ":
        return label + text
    head = f"  {label:<13} "
    if not width:
        return head + text
    return fill(text, width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)


def draw(values: Sequence[float], *, height: int = _HEIGHT) -> list[str]:
    """A curve of values in [0, top] as rows of blocks, the highest row first.

    >>> draw([0.0, 0.5, 1.0], height=1), draw([0.0, 0.5, 1.0], height=2)
    ([' ▄█'], ['  █', ' ██'])
    """
    top = max(values, default=0.0) or 1.0
    eighths = [round(value / top * height * 8) for value in values]
    return ["".join(_BLOCKS[min(8, max(0, e - row * 8))] for e in eighths) for row in reversed(range(height))]


def _length(config: Mapping[str, Any], ranks: int, clock: Clock) -> Lines:
    trainer, num_train, batch_size = config["trainer"], config["facts"]["num_train"], train_batch_size(config)
    epochs = f"{clock.epochs(clock.total_steps):.4g} epochs of {num_train} // {batch_size} = {clock.steps_per_epoch}"
    yield "steps", f"{clock.total_steps} = {trainer['duration']}, {epochs} steps"
    every = {key: trainer[f"{key}_every"] for key in ("log", "eval", "save")}
    spelled = (f"{key} {text}" + ("" if text == "never" else f" = {clock.steps(text)}") for key, text in every.items())
    yield "every", f"{', '.join(spelled)} steps"
    micro = batch_size // (ranks * trainer["accumulate"])
    shares = f"{ranks} (ranks) x {trainer['accumulate']} (micro-batches) x {micro} (images)"
    yield "batch", f"{batch_size} (global) = {shares}"


def _data(config: Mapping[str, Any]) -> Lines:
    facts, node = config["facts"], config["data"]
    shape = "x".join(map(str, facts["image_shape"]))
    counts = f"{facts['num_train']} train, {facts['num_val']} val, {facts['num_classes']} classes, images {shape}"
    yield "data", f"{_name(node)}: {counts}"
    source: Any = locate(node["_target_"], config["plugins"])
    for line in source.plan_lines(**arguments_of(node)) if hasattr(source, "plan_lines") else ():
        yield "", line
    yield "augment", ", ".join(f"{name} ({_name(inner)})" for name, inner in config["augment"].items()) or "none"


def _tuned(config: Mapping[str, Any], ranks: int) -> Lines:
    """What the run does otherwise than the one that the recipe's rate was found with, and what follows for the rate."""
    from plainloop.loop.optim import scaling_text

    lr, scaling, tuned = config["optimizer"]["lr"], lr_scaling_of(config), config["trainer"]["tuned"]
    batch_size, before = scaling["batch_size"], tuned["batch_size"]
    if before is None:
        return
    on = "" if tuned["devices"] is None else f" on {_devices(tuned['devices'])}"
    yield "tuned", f"you run batch {batch_size} on {_devices(ranks)}; the recipe was tuned at {before}{on}"
    if scaling["rule"] != "none":
        yield "", f"so the rate is {scaling_text(lr, **scaling)}, by trainer.lr_scaling"
    elif batch_size == before:
        yield "", f"so the rate is the recipe's, {lr:g}"
    else:
        base = "" if scaling["base_batch_size"] == before else f" trainer.lr_scaling.base_batch_size={before}"
        linear = scaling_text(lr, rule="linear", batch_size=batch_size, base_batch_size=before)
        yield (
            "",
            (f"the rate stays {lr:g}; in proportion to the batch it is {linear}: trainer.lr_scaling.rule=linear{base}"),
        )


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _rates(config: Mapping[str, Any], clock: Clock) -> Lines:
    from plainloop.loop.optim import scaling_text

    schedule, base_lr, last = schedule_of(config), base_lr_of(config), clock.total_steps - 1
    yield "rate", scaling_text(config["optimizer"]["lr"], **lr_scaling_of(config))
    shown = [schedule(round(i * last / (_WIDTH - 1))) for i in range(_WIDTH)]
    peak = f"{max(*shown, 0.0) * base_lr:.3g}"
    for i, row in enumerate(draw(shown)):
        yield f" {'' if i else peak:>11}  ", row
    for step, name in _marks(config, clock):
        yield f"    step {step:>8}  {schedule(step) * base_lr:.6g}", f"   {name}"


def _marks(config: Mapping[str, Any], clock: Clock) -> list[tuple[int, str]]:
    """The steps at which a reader looks for the rate."""
    scheduler, total = config["scheduler"], clock.total_steps
    marks = {0: "first"}
    if warmup := clock.steps(scheduler.get("warmup") or 0):
        marks[warmup] = "end of the warm-up"
    marks |= {clock.steps(milestone): f"milestone {milestone}" for milestone in scheduler.get("milestones") or ()}
    if size := clock.steps(scheduler.get("step_size") or 0):
        marks |= {step: f"{i} x {scheduler['step_size']}" for i, step in enumerate(range(size, total, size), 1)}
    marks[total // 2] = marks.get(total // 2, "half-way")
    marks[total - 1] = "last"
    return sorted((step, name) for step, name in marks.items() if 0 <= step < total)[:12]


def _model(config: Mapping[str, Any], ranks: int, model: ModelSummary) -> Lines:
    trainer, device, size = config["trainer"], config["device"], "its size is known when it is built"
    if model.parameters is not None:
        macs = "" if model.macs is None else f", {float(f'{model.macs / 1e6:.3g}'):,g} million MACs per image"
        size = f"{model.parameters / 1e6:.3f} million parameters{macs}"
    yield "model", f"{config['model'].get('model_name') or _name(config['model'])}: {size}"
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        device += " (auto: what is here)"
    yield "device", f"{device}, {trainer['precision']}"
    if model.parameters is None:
        return
    slots = _optimizer_slots(config)
    ema = model.parameters + model.buffers if trainer["ema_decay"] is not None else 0
    states = (model.parameters * (2 + slots) + model.buffers + ema) * 4
    text = f"weights + gradients + {slots} optimizer states{' + EMA' if ema else ''} in fp32"
    if trainer["precision"] != "fp32":  # autocast's copies
        states += 2 * model.parameters
        text += f" + weights in {trainer['precision']}"
    text += f" = {_size(states)}"
    if model.activations is not None:
        micro = math.ceil(train_batch_size(config) / (ranks * trainer["accumulate"]))
        width = 4 if trainer["precision"] == "fp32" else 2
        kept: float = model.activations * micro * width
        text += f"; + activations {model.activations / 1e6:.3g}M"
        if sides := largest_size(config):
            larger = math.prod(sides) / math.prod(config["facts"]["image_shape"][-2:])
            kept *= larger
            text += f" x {larger:.3g}, for the largest images that augment gives, {sides[0]}x{sides[1]},"
        text += f" x {micro} images x {width} bytes = {_size(kept)}"
        text += f"; about {_size(states + kept)} per device"
    yield "memory", text


def _optimizer_slots(config: Mapping[str, Any]) -> int:
    """Tensors per weight that the optimizer keeps; one for momentum methods, two for those of Adam's kind."""
    name = _name(config["optimizer"]).lower()
    if name in ("sgd", "lion", "muon", "adagrad", "rprop"):
        return int(name != "sgd" or bool(config["optimizer"].get("momentum")))
    return 2


def _evaluation(config: Mapping[str, Any], clock: Clock, views: int) -> Lines:
    """What evaluations cost: a forward pass is about a third of a training step."""
    every, facts = config["trainer"]["eval_every"], config["facts"]
    if every == "never":
        return
    times = math.ceil(clock.total_steps / max(1, clock.steps(every)))
    of_train = min(config["data"].get("train_eval_samples") or 0, facts["num_train"])
    trained = 3 * clock.total_steps * train_batch_size(config)
    percent = [100 * times * views * images / trained for images in (facts["num_val"] + of_train, of_train)]
    shares = [f"{float(f'{number:.2g}'):g} %" for number in percent]  # 470, and not 4.7e+02
    each = f", each in {views} views" if views > 1 else ""
    text = (
        f"{times} x ({facts['num_val']} val + {of_train} train) images{each}: about {shares[0]} of the training's work"
    )
    more = f"; the train images (train_eval) are {shares[1]}, data.train_eval_samples=0 leaves them out"
    yield "evaluation", text + (more if of_train else "")


def _time(config: Mapping[str, Any], clock: Clock, model: ModelSummary, folder: Path | None) -> Lines:
    """Each step as long as in the newest run beside it that had the same model, images and batch."""
    for path in sorted(folder.parent.glob("*/summary.json"), reverse=True)[:_RUNS] if folder else ():
        try:
            summary, saved = read_summary(path.parent) or {}, read_config(path.parent)
        except (BadConfig, BadData):
            continue
        both = [(c["facts"]["image_shape"], train_batch_size(c), c["trainer"]["precision"]) for c in (saved, config)]
        if summary.get("parameters") == model.parameters and both[0] == both[1] and summary.get("seconds"):
            seconds = summary["seconds"] / max(1, summary["steps"]) * clock.total_steps
            shown = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
            yield "time", f"about {shown}, by the steps of {path.parent}"
            return


def _waits(config: Mapping[str, Any], model: Any) -> Lines:
    """When the host waits for the device."""
    waits = ["log, evaluation and save steps", "agreements at most 5 s apart"]
    if getattr(model, "waits_each_step", False):
        waits.append("each step, by the model's own code")
    if config["trainer"]["on_nonfinite"] == "skip":
        waits.append("one flag per step (on_nonfinite=skip)")
    if config["trainer"]["precision"] == "fp16" and not config["optimizer"].get("fused"):
        waits.append("one flag per step (fp16 with an optimizer that is not fused)")
    yield "host waits", ", ".join(waits)


def _name(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _size(num_bytes: float) -> str:
    """
    >>> _size(269_000), _size(2.5e9)
    ('269 kB', '2.5 GB')
    """
    power = min(3, int(math.log(max(1, num_bytes), 1000)))
    return f"{num_bytes / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"
