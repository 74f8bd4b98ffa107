"""Where numbers have to lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from plainloop.config.check.findings import Case, Finding

# Key -> what lies inside, and how that is said.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "seed": (lambda v: 0 <= v < 2**63, "0 or more, below 2**63"),
    "trainer.accumulate": (lambda v: v >= 1, "1 or more"),
    "trainer.clip_norm": (lambda v: v > 0, "more than 0; null switches clipping off"),
    "trainer.clip_value": (lambda v: v > 0, "more than 0; null switches clipping off"),
    "trainer.clip_agc": (lambda v: v > 0, "more than 0, about 0.01; null switches clipping off"),
    "trainer.ema_decay": (lambda v: 0 < v < 1, "between 0 and 1, about 0.999; null switches averaging off"),
    "trainer.early_stop.patience": (lambda v: v >= 1, "1 evaluation or more; null never stops early"),
    "trainer.early_stop.min_delta": (lambda v: v >= 0, "0 or more"),
    "trainer.lr_scaling.base_batch_size": (lambda v: v >= 1, "1 or more"),
    "trainer.tuned.batch_size": (lambda v: v >= 1, "1 or more; null where it is not known"),
    "trainer.tuned.devices": (lambda v: v >= 1, "1 or more; null where it is not known"),
    "trainer.param_groups.layer_decay": (lambda v: 0 < v <= 1, "above 0, at most 1; null leaves all layers equal"),
    "trainer.timeout_s": (lambda v: v > 0, "more than 0: seconds"),
    "trainer.max_skips": (lambda v: v >= 1, "1 or more"),
    "checkpoint.keep_last": (lambda v: v >= 1, "1 or more"),
    "checkpoint.every_minutes": (lambda v: v > 0, "more than 0; null saves by steps alone"),
    "data.batch_size": (lambda v: v >= 1, "1 or more"),
    "data.batch_size_per_device": (lambda v: v >= 1, "1 or more"),
    "data.train.batch_size": (lambda v: v >= 1, "1 or more"),
    "data.val.batch_size": (lambda v: v >= 1, "1 or more"),
    "data.test.batch_size": (lambda v: v >= 1, "1 or more"),
    "data.num_workers": (lambda v: v >= 0, "0 or more, or auto"),
    "data.val_fraction": (lambda v: 0 < v < 1, "between 0 and 1"),
    "optimizer.lr": (lambda v: v > 0, "more than 0"),
    "optimizer.weight_decay": (lambda v: v >= 0, "0 or more"),
    "optimizer.momentum": (lambda v: 0 <= v < 1, "0 or more, below 1"),
    "scheduler.warmup_start_lr": (lambda v: v >= 0, "0 or more: an absolute rate"),
    "scheduler.min_lr": (lambda v: v >= 0, "0 or more: an absolute rate"),
    "scheduler.gamma": (lambda v: v > 0, "more than 0"),
    "scheduler.power": (lambda v: v > 0, "more than 0"),
    "scheduler.pct_start": (lambda v: 0 < v < 1, "between 0 and 1: the share of the run that the rise takes"),
    "scheduler.base_momentum": (lambda v: 0 <= v < 1, "0 or more, below 1"),
    "scheduler.max_momentum": (lambda v: 0 <= v < 1, "0 or more, below 1"),
    "task.label_smoothing": (lambda v: 0 <= v < 1, "0 or more, below 1"),
}


def ranges(case: Case) -> Iterator[Finding]:
    for key, (inside, expected) in _RANGES.items():
        value = case.get(key)
        if key.endswith(".batch_size") and key != "data.batch_size" and value == case.get("data.batch_size"):
            continue  # it follows from that one
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and not (math.isfinite(value) and inside(value))
        ):
            yield case.problem(key, "out of range", got=str(value), expected=expected)
