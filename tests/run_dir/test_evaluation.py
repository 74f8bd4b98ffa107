"""evaluation/ in a run's folder: written whole or not at all, read back as somebody else's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from plainloop.errors import BadData
from plainloop.run_dir.evaluation import read_evaluation, write_evaluation
from plainloop.run_dir.recorder import Recorder
from plainloop.system import storage
from plainloop.tasks.classification import Classification
from plainloop.tasks.segmentation import Segmentation
from tests.harness import inject, runs
from tests.harness.tensors import equal
from tests.loop.test_collect import Bare, collect, logits_and_labels, masks

LABELS = collect(Classification(num_classes=4), logits_and_labels(30))


def written(folder: Path, collected: Any = LABELS, **words: Any) -> Path:
    write_evaluation(folder, collected, **{"split": "val", "step": 5, "metrics": {"top1": 0.25}} | words)
    return folder


def test_labels_come_back_as_they_were(tmp_path: Path) -> None:
    found = read_evaluation(written(tmp_path, metrics={"top1": 0.25, "map": float("nan")}))
    assert found is not None
    assert (found.split, found.step, found.metrics) == ("val", 5, {"top1": 0.25, "map": None})
    assert found.columns == ("index", "label", "prediction", "confidence", "loss")
    assert np.allclose(found.samples, LABELS.rows.numpy(), rtol=1e-6)
    assert np.array_equal(found.column("prediction"), LABELS.rows[:, 2].numpy())
    assert found.pixels is None
    assert equal(dict(found.worst), dict(LABELS.worst))


def test_masks_come_back_as_they_were(tmp_path: Path) -> None:
    collected = collect(Segmentation(num_classes=3), masks(9))
    found = read_evaluation(written(tmp_path, collected))
    assert found is not None and found.pixels is not None and collected.pixels is not None
    assert np.array_equal(found.pixels, collected.pixels[:3].numpy())
    assert np.isnan(found.column("iou")[0])
    assert equal(dict(found.worst), dict(collected.worst))


def test_a_task_that_tells_nothing_leaves_its_metrics(tmp_path: Path) -> None:
    found = read_evaluation(written(tmp_path, collect(Bare(), logits_and_labels(5))))
    assert found is not None and found.metrics == {"top1": 0.25}
    assert sorted(file.name for file in (tmp_path / "evaluation").iterdir()) == ["results.json"]


def test_no_folder_is_no_evaluation(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path) is None


@pytest.mark.parametrize("writer", ["write_json", "write_whole"])
def test_what_was_half_written_counts_for_nothing(writer: str, tmp_path: Path, monkeypatch: Any) -> None:
    written(tmp_path)
    monkeypatch.setattr(storage, writer, _interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, step=9)
    assert read_evaluation(tmp_path) is None


def _interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_many_samples_and_classes_take_little_room(tmp_path: Path) -> None:
    samples = {"logits": torch.randn(2000, 1000), "label": torch.arange(2000) % 1000, "index": torch.arange(2000)}
    samples["image"] = torch.zeros(2000, 3, 64, 64, dtype=torch.uint8)
    written(tmp_path, collect(Classification(num_classes=1000), samples, size=500))
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "evaluation").iterdir()}
    assert sizes["samples.csv"] / 2000 * 50_000 < 3e6
    assert sizes["worst.safetensors"] < 3e6


IMAGES = {"index": torch.arange(2), "image": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "size": torch.full((2, 2), 4)}


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("results.json", b'{"split": 3, "step": 5, "metrics": {}, "columns": []}', "split is 3, expected str"),
        ("results.json", b'{"split": "val"}', "step is missing"),
        ("samples.csv", b"a,b\n1,2\n", "its first line is not index,label"),
        ("samples.csv", b"index,label,prediction,confidence,loss\n1,2\n", "it has 2 columns, expected 5"),
        ("samples.csv", b"index,label,prediction,confidence,loss\n1,2,x,4,5\n", "could not convert"),
        (
            "results.json",
            b'{"split": "val", "step": 5, "metrics": {}, "columns": ["loss"]}',
            "the first column is loss",
        ),
        ("worst.safetensors", b"no", "header"),
        ("worst.safetensors", save(IMAGES | {"index": torch.tensor([0.5, float("nan")])}), "not the images of a run"),
        ("worst.safetensors", save(IMAGES | {"size": torch.full((2, 2), 9)}), "not the images of a run"),
        ("worst.safetensors", save(IMAGES | {"index": torch.arange(3)}), "not the images of a run"),
        ("worst.safetensors", save(IMAGES | {"image": torch.zeros(2, 3, 4, 4)}), "not the images of a run"),
    ],
)
def test_what_no_run_writes_is_refused(name: str, content: bytes, wrong: str, tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "evaluation" / name).write_bytes(content)
    with pytest.raises(BadData, match=f"{name} was not written by a run: .*{wrong}"):
        read_evaluation(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    written(tmp_path)
    elsewhere = tmp_path / "elsewhere.csv"
    (tmp_path / "evaluation" / "samples.csv").rename(elsewhere)
    (tmp_path / "evaluation" / "samples.csv").symlink_to(elsewhere)
    with pytest.raises(BadData, match=r"samples.csv was not written by a run: it is a symbolic link"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize("method", ["row", "save"])
def test_a_run_that_is_killed_before_the_checkpoint_writes_the_same_again(method: str, tmp_path: Path) -> None:
    """The files of the second evaluation are on disk already, and nothing else of it, or its row."""
    arguments = (*runs.SMALL, "trainer.eval_every=3st", "trainer.save_every=never")
    arguments += ("checkpoint.monitor=loss", "checkpoint.mode=min", "optimizer=adamw", "optimizer.lr=0.01")
    undisturbed, killed = (f"hydra.run.dir={tmp_path / name}" for name in ("undisturbed", "killed"))
    assert runs.train(tmp_path, *arguments, undisturbed).code == 0
    calls = iter(range(100))
    dies = inject.during(method, lambda: inject.send(9)() if next(calls) == 1 else None, kind=Recorder)
    assert runs.train(tmp_path, *arguments, killed, prepare=dies).code == -9
    early = read_evaluation(tmp_path / "killed")
    assert early is not None and early.step == 6
    assert runs.train(tmp_path, *arguments, killed).code == 0
    files = [runs.files(tmp_path / name / "evaluation") for name in ("undisturbed", "killed")]
    assert files[0] == files[1]
    assert files[0].keys() == {"results.json", "samples.csv", "worst.safetensors"}
