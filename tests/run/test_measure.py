"""Runs are compared on the same samples or not at all; the confusion matrix counts what has a class."""

from __future__ import annotations

import pytest
import torch

from plainloop.contracts import IGNORE
from plainloop.errors import BadConfig
from plainloop.run.trained.measure import Measured, keep_confusion, require_same_samples

SAMPLES = {("val", 0): ("cat/a.jpg", 1), ("val", 1): ("dog/b.jpg", 2)}


@pytest.mark.parametrize(
    ("other", "how"),
    [
        ({("val", 0): ("cat/a.jpg", 1)}, "one has 2 and other has 1; val 1 is in one alone"),
        (SAMPLES | {("val", 2): ("", 0)}, "one has 2 and other has 3; val 2 is in other alone"),
        (SAMPLES | {("val", 1): ("dog/c.jpg", 2)}, "val 1 is dog/b.jpg in one and dog/c.jpg in other"),
        (SAMPLES | {("val", 1): ("dog/b.jpg", 3)}, "val 1 is of other classes"),
    ],
)
def test_other_samples_are_told(other: dict[tuple[str, int], tuple[str, int]], how: str) -> None:
    require_same_samples(Measured(samples=dict(SAMPLES)), Measured(samples=dict(SAMPLES)), ("one", "other"))
    with pytest.raises(BadConfig) as caught:
        require_same_samples(Measured(samples=dict(SAMPLES)), Measured(samples=other), ("one", "other"))
    assert str(caught.value) == f"these runs were not measured on the same samples: {how}"


def test_the_confusion_of_pixels_grows_with_the_classes_that_are_met() -> None:
    found = Measured()
    for true, said in (([[0, 1, IGNORE]], [[0, 0, 5]]), ([[2, 2, IGNORE]], [[2, 1, 0]])):
        keep_confusion(found, {"mask": torch.tensor([said])}, {"mask": torch.tensor([true])})
    assert found.confusion is not None and found.counted == "pixels"
    assert found.confusion[:3, :3].tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]] and found.confusion.sum() == 4


def test_the_confusion_of_labels_has_all_classes_of_the_model() -> None:
    found = Measured()
    keep_confusion(found, {"label": torch.eye(3)[[0, 2]]}, {"label": torch.tensor([0, 1])})
    assert found.confusion is not None
    assert found.confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]] and found.counted == "samples"
