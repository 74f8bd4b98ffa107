"""The keys of the closed groups: these fields are what conf/train.yaml, conf/trainer and conf/checkpoint may hold.

Values live in the YAML files alone. A default here belongs to a key that was added later: it says what the code before
did, so that a run whose saved config lacks the key goes on as it began.
"""

from __future__ import annotations

import copy
import functools
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal

from plainloop.config.types import fields_of
from plainloop.contracts import Steps


@dataclass(frozen=True)
class Range:
    """Where a number has to lie, and how a message says it."""

    inside: Callable[[float], bool]
    expected: str

    def excludes(self, value: Any) -> bool:
        """Whether this is a number outside."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and not (math.isfinite(value) and self.inside(value))


def at_least(least: float, note: str = "") -> Range:
    return Range(lambda value: value >= least, f"{least} or more{note}")


def above(low: float, note: str = "") -> Range:
    return Range(lambda value: value > low, f"more than {low}{note}")


def between(note: str = "") -> Range:
    return Range(lambda value: 0 < value < 1, f"between 0 and 1{note}")


_NO_CLIPPING = "; null switches clipping off"
_NOT_KNOWN = "; null where it is not known"
_SHARE = Range(lambda value: 0 <= value < 1, "0 or more, below 1")


@dataclass(frozen=True)
class RootSettings:
    seed: Annotated[int, Range(lambda value: 0 <= value < 2**63, "0 or more, below 2**63")]
    name: str  # the folder under outputs/
    device: Literal["auto", "cpu", "cuda", "mps"]
    resume: str | None  # a run directory, or "auto"; None starts a new run
    init_from: str | None  # a run directory or a weights file, weights only; None starts from the model's own
    check: bool  # print the plan and leave
    plugins: list[str]  # packages whose objects `_target_` may name
    threads: Annotated[Literal["auto"] | int, at_least(1, ", or auto")] = "auto"  # that compute, of each process
    resume_step: Annotated[int | None, at_least(0)] = None  # of the checkpoint to go on from; None is the newest
    report: Literal["auto", "always", "never"] = "never"  # report.html at the end; auto: of single runs
    published: dict[str, Any] | None = None  # of a recipe: what scripts/reproduce.py compares with; changes nothing


@dataclass(frozen=True)
class EarlyStop:
    patience: Annotated[int | None, at_least(1, " evaluation; null never stops early")]  # evaluations without a gain
    min_delta: Annotated[float, at_least(0)]  # what counts as an improvement of the monitored metric
    monitor: str | None = None  # without its split: "loss"; None is the task's
    mode: Literal["max", "min"] | None = None  # which is better; None is the task's


@dataclass(frozen=True)
class LrScaling:
    rule: Literal["none", "linear", "sqrt"]
    base_batch_size: Annotated[int, at_least(1)]  # global: the batch size that optimizer.lr was written for


@dataclass(frozen=True)
class Tuned:
    batch_size: Annotated[int | None, at_least(1, _NOT_KNOWN)]  # global, of the run that optimizer.lr was found with
    devices: Annotated[int | None, at_least(1, _NOT_KNOWN)]  # of that run


@dataclass(frozen=True)
class ParamGroups:
    no_decay: list[str]  # "norm", "bias", or a glob on parameter names
    layer_decay: Annotated[  # rate of each layer relative to the one above it; None leaves them equal
        float | None, Range(lambda value: 0 < value <= 1, "above 0, at most 1; null leaves all layers equal")
    ]
    lr_scale: dict[str, float]  # glob on parameter names -> factor of the rate


@dataclass(frozen=True)
class TrainerSettings:
    duration: Steps
    devices: Literal["auto"] | int | list[int]
    precision: Literal["fp32", "bf16", "fp16", "auto"]  # auto, here and below: what suits the device
    accumulate: Annotated[int, at_least(1)]  # micro-batches per optimizer step; samples per step stay the same
    clip_norm: Annotated[float | None, above(0, _NO_CLIPPING)]  # total gradient norm
    clip_value: Annotated[float | None, above(0, _NO_CLIPPING)]  # each gradient element
    clip_agc: Annotated[float | None, above(0, f", about 0.01{_NO_CLIPPING}")]  # gradient norm over weight norm
    ema_decay: Annotated[float | None, between(", about 0.999; null switches averaging off")]
    compile: bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs", "auto"]
    channels_last: bool | Literal["auto"]
    deterministic: bool
    detect_anomaly: bool  # names the operation that made a gradient not a number; slow
    log_every: Steps  # counted in steps: takes a bare number too
    eval_every: Steps | Literal["never"]
    save_every: Steps | Literal["never"]
    early_stop: EarlyStop
    lr_scaling: LrScaling
    tuned: Tuned  # changes nothing: the plan compares it with the run
    param_groups: ParamGroups
    sync_batchnorm: bool
    timeout_s: Annotated[float, above(0, ": seconds")]  # without an answer from another rank
    find_unused_parameters: bool
    static_graph: bool
    on_nonfinite: Literal["raise", "skip"]
    max_skips: Annotated[int, at_least(1)]  # in a row
    tf32: bool | Literal["auto"] = False  # of matrix products in fp32, on GPUs that have it
    cudnn_benchmark: Literal["auto"] | bool = "auto"  # auto: unless deterministic
    freeze_batchnorm: bool = False  # its statistics, weights and biases
    freeze: str | list[str] | None = None  # backbone, or globs on parameter names: what does not learn
    freeze_until: Steps | None = None  # finished steps; None is the whole run
    bucket_cap_mb: Annotated[float | None, above(0, "; null is torch's own size")] = None  # of DDP's all-reduces
    profile_steps: Annotated[int | None, at_least(1, "; null profiles none")] = None  # that torch's profiler records


@dataclass(frozen=True)
class CheckpointSettings:
    keep_last: Annotated[int, at_least(2, ": a damaged one needs another behind it")]
    save_best: bool
    every_minutes: Annotated[float | None, above(0, "; null saves by steps alone")]  # beside trainer.save_every
    monitor: str | None = None  # without its split: "loss"; None is the task's
    mode: Literal["max", "min"] | None = None  # which is better; None is the task's


# Where each group of settings sits in the config; "" is the root.
SETTINGS: dict[str, type] = {"": RootSettings, "trainer": TrainerSettings, "checkpoint": CheckpointSettings}

# The same for keys of the open groups that mean one thing in all their options.
OPEN_RANGES: dict[str, Range] = {
    **{f"data{split}.batch_size": at_least(1) for split in ("", ".train", ".val", ".test")},
    "data.batch_size_per_device": at_least(1),
    "data.num_workers": at_least(0, ", or auto"),
    "data.max_train_samples": at_least(1, "; null is all"),
    "data.val_fraction": between(),
    "data.repeats": at_least(1),
    "task.window": at_least(1, "; null is the image as a whole"),
    "optimizer.lr": above(0),
    "optimizer.weight_decay": at_least(0),
    "optimizer.momentum": _SHARE,
    "augment.randaugment.num_ops": at_least(1, ": operations for each image; ~augment.randaugment leaves it out"),
    "scheduler.warmup_start_lr": at_least(0, ": an absolute rate"),
    "scheduler.min_lr": at_least(0, ": an absolute rate"),
    "scheduler.gamma": above(0),
    "scheduler.power": above(0),
    "scheduler.div_factor": above(0),
    "scheduler.final_div_factor": above(0),
    "scheduler.base_momentum": _SHARE,
    "scheduler.max_momentum": _SHARE,
}

# Keys of the open groups that were added later -> what a config without them means: a run or sweep of earlier code is
# still the same run when its command is typed again.
LATER_OPEN_KEYS: dict[str, Any] = {
    "augment.scale_crop.fit": False,
    "augment.scale_crop.min_visible": 0.1,
    "augment.scale_crop.scale_step": None,
    **{f"data{split}.labels": None for split in ("", ".train", ".val", ".test")},
    "data.cache": "none",
    "data.cache_dir": None,
    "data.cache_gb": 20,
    "data.cache_size": "auto",
    "data.max_train_samples": None,
    "data.only_classes": None,
    "data.instance_masks": False,
    "data.folds": None,
    "data.fold": 0,
    "data.group_column": None,
    "data.repeats": 1,
    "data.sampler": "shuffled",
    "model.backbone_weights": None,
    "model.channels": 256,
}


@functools.cache
def ranges() -> dict[str, Range]:
    """Key -> its range, of all groups."""
    found = {
        path + name: extra
        for path, kind in _all_kinds()
        for name, hint in typing.get_type_hints(kind, include_extras=True).items()
        for extra in getattr(hint, "__metadata__", ())
        if isinstance(extra, Range)
    }
    return found | OPEN_RANGES


@functools.cache
def later_keys() -> dict[str, Any]:
    """Keys that were added later -> what a config without them means."""
    return {
        path + field.name: field.default
        for path, kind in _all_kinds()
        for field in fields(kind)
        if field.default is not MISSING
    }


def with_later_keys(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config with the keys that were added since it was written, at the values that the code then had."""
    whole = copy.deepcopy(dict(saved))
    for key, value in later_keys().items():
        *parents, last = key.split(".")
        node: Any = whole
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.setdefault(last, value)
    return whole


def annotation_of(key: str) -> Any | None:
    """The type of a key of the closed groups; None for any other.

    >>> annotation_of("trainer.tuned.devices"), annotation_of("seed"), annotation_of("model.width")
    (int | None, <class 'int'>, None)
    """
    return _annotations().get(key)


@functools.cache
def _annotations() -> dict[str, Any]:
    return {path + name: field.annotation for path, kind in _all_kinds() for name, field in fields_of(kind).items()}


def _all_kinds() -> Iterator[tuple[str, type]]:
    """Every dataclass of settings, with the beginning of its keys: ("trainer.tuned.", Tuned)."""
    for path, kind in SETTINGS.items():
        prefix = f"{path}." if path else ""
        yield prefix, kind
        for name, field in fields_of(kind).items():
            if is_dataclass(field.annotation):
                yield f"{prefix}{name}.", field.annotation  # type: ignore[misc]
