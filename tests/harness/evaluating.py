"""Runs to evaluate, `python scripts/evaluate.py` in a process of its own, and what it leaves."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from plainloop.commands.evaluate import main
from tests.harness.children import Child, Ended
from tests.harness.runs import lines, train

SMALL = ("model.width=4", "optimizer=sgd", "scheduler=constant", "trainer.duration=10st", "trainer.eval_every=5st")
CLASSES = (*SMALL, "data.batch_size=240", "trainer.ema_decay=0.9", "augment=crop_flip", "augment.crop.pad=1")
MASKS = (
    *("task=segmentation", "data=digit_scenes", "model=tiny_seg", "augment=segmentation", "data.batch_size=8"),
    *("data.num_train=16", "data.num_val=12", "data.image_size=32", "optimizer=sgd", "scheduler=constant"),
    *("trainer.duration=4st", "trainer.eval_every=2st"),
)


def evaluate(*words: object, cwd: Path | None = None, python_path: Path | None = None) -> Ended:
    """`python scripts/evaluate.py <words>`, in a process of its own: it sets torch's threads and switches."""

    def typed() -> None:
        if python_path:
            sys.path.insert(0, str(python_path))
        raise SystemExit(main(list(map(str, words))))

    return Child(typed, cwd=cwd).wait()


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "samples.csv").open() as file:
        return list(csv.DictReader(file))


def trained(folder: Path, *overrides: str) -> Path:
    ended = train(folder.parent, *overrides, f"hydra.run.dir={folder}")
    assert ended.code == 0, ended.err
    return folder


def measured_by(run: Path, step: int, split: str) -> dict[str, float]:
    (row,) = [row for row in lines(run / "metrics.jsonl") if row["step"] == step]
    return {name.removeprefix(split): value for name, value in row.items() if name.startswith(split)}


def folder_of_images(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), each: int = 10) -> Path:
    generator = torch.Generator().manual_seed(0)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = torch.randint(0, 120, (20, 20, 3), generator=generator) + 100 * label
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(root / name / f"{number:03}.png")
    return root


def told(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err, ended.err
