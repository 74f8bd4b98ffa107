"""Runs on masks in which something is missing: a class, the labels of an image, or all labels of a split."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainloop.contracts import IGNORE
from tests.harness.commands import problems
from tests.harness.runs import Ended, lines, train

LOSSES = "task.losses={cross_entropy:1,dice:1,lovasz:1,focal:1,ohem:1}"
TYPED = (
    *("task=segmentation", "data=mask_folder", "data.root=set", "data.class_names=[sky,road,car]", "model=tiny_seg"),
    *("model.width=4", "data.image_size=16", "data.batch_size=2", "data.num_workers=0", "data.train_eval_samples=0"),
    *("trainer.duration=4st", "trainer.eval_every=2st", "trainer.log_every=1st", "task.per_class=true", LOSSES),
    *("threads=1", "hydra.run.dir=run"),
)


def write(folder: Path, train_masks: Any, val_masks: Any) -> None:
    """One image for each mask, which is one class or a column for each of several."""
    generator = np.random.default_rng(0)
    for split, masks in (("train", train_masks), ("val", val_masks)):
        for number, values in enumerate(masks):
            mask = np.resize(np.array(values, np.uint8), (16, 16))
            image = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            for kind, pixels in (("images", image), ("masks", mask)):
                path = folder / "set" / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


def run(folder: Path, train_masks: Any, val_masks: Any) -> Ended:
    write(folder, train_masks, val_masks)
    return train(folder, *TYPED)


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [row for row in lines(folder / "run/metrics.jsonl") if "val/miou" in row]


def test_a_class_that_never_occurs_is_learned_and_left_out_where_it_is_not_predicted(tmp_path: Path) -> None:
    ended = run(tmp_path, [[0, 1]] * 4, [[0, 1]] * 2)
    assert ended.code == 0, ended.err
    for row in evaluations(tmp_path):
        seen = [row[f"val/iou/{name}"] for name in ("sky", "road", "car")]
        assert seen[2] in (0.0, "nan")  # predicted somewhere, or nowhere
        counted = [iou for iou in seen if iou != "nan"]
        assert row["val/miou"] == pytest.approx(sum(counted) / len(counted))
        assert row["val/macc"] <= 1 and row["val/loss"] > 0
    assert all(math.isfinite(row["train/loss"]) for row in lines(tmp_path / "run/metrics.jsonl") if "train/loss" in row)


def test_images_without_a_labelled_pixel_train_nothing_and_count_for_nothing(tmp_path: Path) -> None:
    """Half of the images have none: batches of two then have two, one or none."""
    ended = run(tmp_path, [IGNORE, IGNORE, [0, 1, 2], IGNORE], [[0, 1, 2], IGNORE])
    assert ended.code == 0, ended.err
    losses = [row["train/loss"] for row in lines(tmp_path / "run/metrics.jsonl") if "train/loss" in row]
    assert 0.0 in losses and max(losses) > 0


def test_a_validation_set_without_labels_ends_the_run_with_one_message(tmp_path: Path) -> None:
    ended = run(tmp_path, [[0, 1]] * 4, [IGNORE, IGNORE])
    assert ended.code != 0 and "Traceback" not in ended.err
    assert "val/miou was not a number in any of the 2 evaluations: no weights are the best" in ended.err + ended.out
    assert [row["val/miou"] for row in evaluations(tmp_path)] == ["nan", "nan"]


def test_balanced_weights_ask_for_numbers_where_nobody_has_counted(tmp_path: Path) -> None:
    write(tmp_path, [[0, 1]] * 4, [[0, 1]])
    typed = [f"data.root={tmp_path}/set" if word.startswith("data.root") else word for word in TYPED[:-1]]
    told = problems(*typed, "task.class_weights=balanced")["task.class_weights"]
    assert "the data set has no counts; give one number per class" in str(told)
