"""The sweep of the segmentation tricks: each job has its trick and no other, and all of them train."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from plainloop.sweep import outcome
from tests.harness.sweeps import run

TOY = (
    *("experiment=segmentation_quick", "data.num_train=8", "data.num_val=4", "data.image_size=32", "data.batch_size=4"),
    *("data.train_eval_samples=0", "model.width=4", "trainer.duration=2st", "trainer.eval_every=1ep", "threads=1"),
)
SPACE = ("search=segmentation_tricks_small", "trick.size=24", "trick.larger_size=32", "seed=0")
WEIGHTS = "../alone"
KEYS = {
    "none": {},
    "multi_scale": {"task.tta_scales": [0.75, 1.0, 1.25]},
    "flip": {"task.tta_flip": True},
    "other_weights": {"init_from": WEIGHTS},
    "larger_crop": {"augment.scale_crop.size": 32},
    "loss_at_image": {"task.loss_at": "image"},
    "frozen_batchnorm": {"init_from": WEIGHTS, "trainer.freeze_batchnorm": True},
}
BASELINE = {
    "task.tta_scales": [1.0],
    "task.tta_flip": False,
    "init_from": None,
    "augment.scale_crop.size": 24,
    "task.loss_at": "logits",
    "trainer.freeze_batchnorm": False,
}


def value_at(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and the sweep that may begin with its weights."""
    root = tmp_path_factory.mktemp("tricks")
    code, said = run(root, *TOY, "hydra.run.dir=alone")
    assert code == 0, said
    (root / "work").mkdir()
    code, said = run(root / "work", "-m", *TOY, *SPACE, f"trick.weights={WEIGHTS}", "hydra.sweep.dir=sweep")
    assert code == 0, said
    return root / "work" / "sweep"


def test_each_job_switches_its_trick_on_and_no_other(folder: Path) -> None:
    rows = outcome.rows(folder)
    assert [(row.state, outcome.varying(rows)[row.number]) for row in rows] == [
        ("DONE", f"trick={trick}") for trick in KEYS
    ]
    for row, changed in zip(rows, KEYS.values(), strict=True):
        config = yaml.safe_load((row.folder / "config.yaml").read_text())
        assert {key: value_at(config, key) for key in BASELINE} == BASELINE | changed


def test_tricks_of_evaluation_alone_leave_the_weights_as_they_are_and_the_others_change_them(folder: Path) -> None:
    weights = {trick: (folder / str(i) / "last.safetensors").read_bytes() for i, trick in enumerate(KEYS)}
    assert weights["multi_scale"] == weights["flip"] == weights["none"]
    # loss_at_image: the logits of tiny_seg have the size of the image
    others = {weights[trick] for trick in ("none", "other_weights", "larger_crop", "frozen_batchnorm")}
    assert len(others) == 4 and weights["loss_at_image"] == weights["none"]


def test_the_same_command_finds_all_jobs_done_and_a_further_list_adds_some(folder: Path) -> None:
    typed = ("-m", *TOY, *SPACE, f"trick.weights={WEIGHTS}", "hydra.sweep.dir=sweep")
    code, said = run(folder.parent, *typed, "trick=none,flip,[flip,multi_scale]")
    assert code == 0, said
    rows = {row.overrides[0]: (row.number, row.status.attempt) for row in outcome.rows(folder)}
    assert rows["trick=none"] == (0, 1) and rows["trick=flip"] == (2, 1) and rows["trick=[flip,multi_scale]"] == (7, 1)


def test_weights_that_are_not_given_are_asked_for(tmp_path: Path) -> None:
    code, said = run(tmp_path, "-m", *TOY, *SPACE, "trick=none,other_weights")
    assert code == 64
    assert "init_from=<given by trick.weights=...> does not exist; type a run directory or a weights file" in said
    assert not any(tmp_path.iterdir())
