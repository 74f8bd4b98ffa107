"""How much each class counts for in a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence


def balanced(class_counts: Sequence[int] | None) -> list[float]:
    """Weights inverse to the counts, with the mean 1.

    >>> balanced([10, 30])
    [1.5, 0.5]
    """
    if not class_counts or 0 in class_counts:
        got = "no sample of some class" if class_counts else "no counts"
        raise ValueError(f"task.class_weights=balanced: the data set has {got}; give one number per class")
    inverse = [1 / count for count in class_counts]
    return [len(inverse) * weight / math.fsum(inverse) for weight in inverse]


def check_class_weights(class_weights: Sequence[float], num_classes: int) -> None:
    if len(class_weights) != num_classes:
        raise ValueError(f"task.class_weights has {len(class_weights)} weights, and there are {num_classes} classes")
    if not all(math.isfinite(weight) and weight > 0 for weight in class_weights):
        raise ValueError(f"task.class_weights={list(class_weights)} must be numbers above 0; 1 leaves a class as it is")
