"""The keys of the closed groups: these fields are what conf/train.yaml, conf/trainer and conf/checkpoint may hold.

Values live in the YAML files alone; ranges and what must agree with what are in `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from typing import Any, Literal

from plainloop.config.types import fields_of
from plainloop.contracts import Steps


@dataclass(frozen=True)
class RootSettings:
    seed: int
    name: str  # the folder under outputs/
    device: Literal["auto", "cpu", "cuda", "mps"]
    resume: str | None  # a run directory, or "auto"; None starts a new run
    init_from: (
        str | None
    )  # a run directory or a weights file to start from, weights only; None starts from the model's own
    check: bool  # print the plan and leave
    plugins: list[str]  # packages whose objects `_target_` may name


@dataclass(frozen=True)
class EarlyStop:
    patience: int | None  # evaluations without improvement; None never stops early
    min_delta: float  # what counts as an improvement of the monitored metric


@dataclass(frozen=True)
class LrScaling:
    rule: Literal["none", "linear", "sqrt"]
    base_batch_size: int  # global: the batch size that optimizer.lr was written for


@dataclass(frozen=True)
class Tuned:
    batch_size: int | None  # global, of the run that optimizer.lr was found with; None where nobody has said it
    devices: int | None  # of that run; None where nobody has said it


@dataclass(frozen=True)
class ParamGroups:
    no_decay: list[str]  # "norm", "bias", or a glob on parameter names
    layer_decay: float | None  # rate of each layer relative to the one above it; None leaves them equal
    lr_scale: dict[str, float]  # glob on parameter names -> factor of the rate


@dataclass(frozen=True)
class TrainerSettings:
    duration: Steps
    devices: Literal["auto"] | int | list[int]
    precision: Literal["fp32", "bf16", "fp16"]
    accumulate: int  # micro-batches per optimizer step; samples per step stay the same
    clip_norm: float | None  # total gradient norm
    clip_value: float | None  # each gradient element
    clip_agc: float | None  # gradient norm relative to the weight norm
    ema_decay: float | None
    compile: bool
    channels_last: bool
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
    timeout_s: float  # without an answer from another rank
    find_unused_parameters: bool
    static_graph: bool
    on_nonfinite: Literal["raise", "skip"]
    max_skips: int  # in a row


@dataclass(frozen=True)
class CheckpointSettings:
    keep_last: int
    save_best: bool
    every_minutes: float | None  # in addition to trainer.save_every; None saves by steps alone


# Where each group of settings sits in the config; "" is the root.
SETTINGS: dict[str, type] = {"": RootSettings, "trainer": TrainerSettings, "checkpoint": CheckpointSettings}


def annotation_of(key: str) -> Any | None:
    """The type of a key of the closed groups; None for any other.

    >>> annotation_of("trainer.tuned.devices"), annotation_of("seed"), annotation_of("model.width")
    (int | None, <class 'int'>, None)
    """
    kind: Any = RootSettings
    *parents, last = key.split(".")
    for number, name in enumerate(parents):
        field = fields_of(kind).get(name) if number else None
        kind = SETTINGS.get(name) if number == 0 else field and field.annotation
        if not is_dataclass(kind):
            return None
    field = fields_of(kind).get(last)
    return field and field.annotation
