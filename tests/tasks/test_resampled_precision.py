"""Average precision of images that count several times is that of a set which holds them several times."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plainloop.contracts import Batch
from plainloop.tasks.average_precision import AveragePrecision
from plainloop.tasks.voc_precision import VocPrecision
from tests.tasks.test_detection import as_coco_says, batches_of, coco, measured, with_masks
from tests.tasks.test_voc_precision import slow_voc

PAIRS = batches_of([0, 5, 10, 15])


def repeated(pairs: list[tuple[Batch, Batch]], times: list[int]) -> list[tuple[Batch, Batch]]:
    every = []
    for found, real in pairs:
        for row, index in enumerate(real["index"].tolist()):
            for _ in range(times[index]):
                one, other = ({name: tensor[row : row + 1] for name, tensor in side.items()} for side in (found, real))
                every.append((one, other | {"index": torch.tensor([len(every)])}))
    return every


def voc(points: str = "area") -> VocPrecision:
    return VocPrecision(4, names="0123", points=points)


KINDS = {
    "boxes": (coco, PAIRS),
    "masks": (lambda: AveragePrecision(4, kinds=("masks", "boxes")), with_masks(PAIRS[:3])),
    "voc": (voc, [(found, real | {"box_difficult": real["box_crowd"]}) for found, real in PAIRS]),
    "voc_11": (lambda: voc("11"), [(found, real | {"box_difficult": real["box_crowd"]}) for found, real in PAIRS]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_measures_what_its_images_measure(kind: str) -> None:
    make, pairs = KINDS[kind]
    metrics = make()
    for found, real in pairs:
        metrics.update(found, real)
    whole = metrics.compute()
    number = 5 * len(pairs)
    times = np.random.default_rng(1).poisson(1, (3, number))
    choices = np.concatenate([np.ones((1, number)), times, np.zeros((1, number))])
    values = metrics.resampled(lambda index: choices[:, index])
    assert values.keys() == whole.keys()

    def of_choice(choice: int) -> dict[str, float]:
        return {name: float(of_sets[choice]) for name, of_sets in values.items()}

    assert as_coco_says(of_choice(0)) == pytest.approx(as_coco_says(whole), abs=1e-12)
    for choice, how_often in enumerate(times.tolist(), start=1):
        expected = measured(make, repeated(pairs, how_often))
        if kind == "voc":
            assert expected == slow_voc(repeated(pairs, how_often))
        assert as_coco_says(of_choice(choice)) == pytest.approx(as_coco_says(expected), abs=1e-12)
        assert expected["map"] != pytest.approx(whole["map"], abs=1e-6)  # control: a choice changes it
    assert all(math.isnan(value) for value in of_choice(-1).values())
