"""Each rule of advice speaks up for one made-up run, and not for another; the check accepts what it says to type."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from plainloop.errors import BadConfig
from plainloop.report.advice import fit, rate, speed
from plainloop.report.advice.advice import RULES, advice, given, lines
from plainloop.report.advice.evidence import Evidence
from tests.harness.commands import passed
from tests.harness.runs import train
from tests.report.made_runs import Made, curve

PHOTOS = ("data=image_folder", "data.root={photos}")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(64):
                Image.new("RGB", (40, 40), (number, 0, 0)).save(root / split / name / f"{number}.png")
    return root


BOXES = ("task=detection", "data=digit_boxes", "model=yolov3", "model.backbone=tiny", "trainer.duration=2ep")
FIRED_AND_SILENT = {
    "over-fitting, boxes": (
        fit.over_fitting,
        Made(*BOXES, train=0.9, val=0.5, metric="map"),
        Made(*BOXES, "augment=detection", train=0.9, val=0.5, metric="map"),
        "augment=detection",
    ),
    "boxes, and nothing is found": (
        fit.nothing_found,
        Made(*BOXES, train=0.0, val=0.001, metric="map"),
        Made(*BOXES, train=0.0, val=0.001, metric="map", accuracy=[0.0] * 11 + [0.01]),
        "trainer.duration=6ep",
    ),
    "over-fitting, nothing augments": (
        fit.over_fitting,
        Made(train=1.0, val=0.7),
        Made(train=0.9, val=0.87),
        "augment=crop_flip",
    ),
    "over-fitting, photographs": (
        fit.over_fitting,
        Made(*PHOTOS, train=1.0, val=0.5),
        Made(*PHOTOS, train=0.70, val=0.55),  # 15 points of 128 images are not clear
        "augment=standard",
    ),
    "over-fitting, but for cutout": (
        fit.over_fitting,
        Made("augment=cutout", train=1.0, val=0.7),
        Made("augment=[crop_flip,cutout]", train=1.0, val=0.7),
        "augment=[crop_flip,cutout]",
    ),
    "over-fitting in spite of crops": (
        fit.over_fitting_still,
        Made("augment=crop_flip", train=1.0, val=0.8),
        Made("augment=[crop_flip,cutmix]", train=1.0, val=0.8),
        "augment=[crop_flip,cutmix]",
    ),
    "weight decay, more": (
        fit.weight_decay,
        Made("optimizer=sgd", "trainer.duration=300ep", train=1.0, val=0.7),
        Made("optimizer=sgd", "trainer.duration=300ep", "optimizer.weight_decay=1e-3", train=1.0, val=0.7),
        "optimizer.weight_decay=0.0005",
    ),
    "weight decay, decoupled": (
        fit.weight_decay,
        Made("optimizer.lr=0.01", train=1.0, val=0.7),
        Made("optimizer.lr=1e-4", train=1.0, val=0.7),  # 660 steps of 2e-5 shrink the weights by 1 % only
        "optimizer.weight_decay=0.2",
    ),
    "weight decay, less": (
        fit.weight_decay,
        Made("optimizer=sgd", "trainer.duration=900ep", train=0.8, val=0.8),
        Made("optimizer=sgd", "trainer.duration=900ep", train=0.8, val=0.8, parameters=25e6),
        "optimizer.weight_decay=3e-05",
    ),
    "under-fitting by augmentation": (
        fit.under_fitting,
        Made("augment=[crop_flip,cutmix,cutout]", train=0.80, val=0.81),
        Made("augment=[crop_flip,cutmix,cutout]", train=0.98, val=0.98),
        "~augment.cutmix ~augment.cutout",
    ),
    "under-fitting by dropout": (
        fit.dropout,
        Made("model.drop_rate=0.5", train=0.80, val=0.81),
        Made(train=0.80, val=0.81),
        "model.drop_rate=0.0",
    ),
    "too small, by width": (
        fit.too_small,
        Made(train=0.80, val=0.80),
        Made(train=0.80, val=0.80, val_loss=curve(2.0, 1.0)),  # first a longer run
        "model.width=32",
    ),
    "too small, by depth": (
        fit.too_small,
        Made("model=resnet20", train=0.80, val=0.80),
        Made("model=resnet56", train=0.80, val=0.80),
        "model.depth=32",
    ),
    "label smoothing off": (
        fit.label_smoothing,
        Made("task.label_smoothing=0.1", train=0.80, val=0.80),
        Made("task.label_smoothing=0.1", train=0.80, val=0.80, parameters=25e6),
        "task.label_smoothing=0.0",
    ),
    "label smoothing on": (
        fit.label_smoothing,
        Made(train=1.0, val=0.7, parameters=25e6),
        Made(train=1.0, val=0.7, parameters=11e6),
        "task.label_smoothing=0.1",
    ),
    "crop scale": (
        fit.crop_scale,
        Made(*PHOTOS, "augment=standard", train=0.5, val=0.55),
        Made(*PHOTOS, "augment=standard", "augment.crop.scale=[0.2,1]", train=0.5, val=0.55),
        "augment.crop.scale=[0.2,1]",
    ),
    "rate too high, exploding": (
        rate.rate_too_high,
        Made("optimizer.lr=1.0", loss=[2.3, 40.0, 8.0, 2.5, 2.4, 2.3, 2.3, 2.3, 2.3, 2.3]),
        Made("optimizer.lr=1.0", loss=[2.3, 3.0, 2.0, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0, 0.9]),
        "optimizer.lr=0.1",
    ),
    "rate too high, at chance": (
        rate.rate_too_high,
        Made("optimizer.lr=0.5", loss=[2.31, 2.29, 2.32, 2.30, 2.33, 2.29, 2.31, 2.30, 2.32, 2.30]),
        Made("optimizer.lr=0.5", loss=[2.31, 2.29, 2.32, 2.10, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5]),
        "optimizer.lr=0.05",
    ),
    "rate too low": (
        rate.rate_too_low,
        Made("optimizer.lr=1e-6", train=0.3, val=0.3, loss=curve(2.4, 2.2)),
        Made("optimizer.lr=1e-6", train=0.3, val=0.3, loss=curve(2.4, 1.2)),
        "optimizer.lr=1e-05",
    ),
    "not yet flat": (
        rate.not_yet_flat,
        Made(val_loss=curve(2.0, 1.0)),
        Made(val_loss=[*curve(2.0, 1.0, 6), *curve(1.0, 0.99, 6)]),
        "trainer.duration=60ep",
    ),
    "early stop": (
        rate.early_stop,
        Made(best=3, accuracy=[0.5, 0.6, 0.7, 0.8, *[0.79] * 8]),
        Made(best=9, accuracy=[*curve(0.5, 0.8, 10), 0.79, 0.79]),
        "trainer.early_stop.patience=4",
    ),
    "data-bound, workers": (
        speed.data_bound,
        Made(*PHOTOS, "data.num_workers=2", data_s=0.06, cores=8),
        Made(*PHOTOS, "data.num_workers=2", data_s=0.01, cores=8),
        "data.num_workers=4",
    ),
    "data-bound, cache": (
        speed.data_bound,
        Made(*PHOTOS, "data.num_workers=2", data_s=0.06, cores=2),
        Made("data=digits", data_s=0.06, cores=2),  # held in memory: there is nothing to set
        "data.cache=disk",
    ),
    "GPU idle": (
        speed.gpu_idle,
        Made(step_s=0.008, memory_gb=40.0),
        Made(step_s=0.008),  # on a CPU
        "trainer=fast",
    ),
    "batch small for the memory": (
        speed.small_batch,
        Made("data=fashion_mnist", memory_gb=4.0),
        Made("data=fashion_mnist", memory_gb=30.0),
        "data.batch_size=1024 optimizer.lr=0.008",
    ),
    "batch small for the memory, scaled rates": (
        speed.small_batch,
        Made("data=fashion_mnist", "trainer.lr_scaling.rule=linear", memory_gb=12.0),
        Made("data=digits", "trainer.lr_scaling.rule=linear", memory_gb=12.0),  # an epoch would have 11 steps
        "data.batch_size=512",
    ),
}


def test_every_rule_is_tried() -> None:
    assert {rule for rule, *_ in FIRED_AND_SILENT.values()} == set(RULES)


@pytest.mark.parametrize("case", FIRED_AND_SILENT)
def test_a_rule_speaks_up_for_one_run_and_not_for_another(case: str, photos: Path) -> None:
    rule, fires, silent, line = FIRED_AND_SILENT[case]
    found = rule(fires.evidence(photos))
    assert found is not None
    assert found.line == line
    assert any(char.isdigit() for char in found.evidence)
    assert rule(silent.evidence(photos)) is None


@pytest.mark.parametrize("case", FIRED_AND_SILENT)
def test_the_check_accepts_what_advice_says_to_type(case: str, photos: Path) -> None:
    _, fires, _, line = FIRED_AND_SILENT[case]
    run = fires.evidence(photos)
    (found,) = [one for one in given(run) if one.line == line]
    kept = [word for word in run.typed if word not in found.instead.split()]
    passed(*kept, *found.line.split())


def test_a_run_with_few_evaluations_is_not_called_under_fitting(photos: Path) -> None:
    short = Made(train=0.1, val=0.1, loss=[2.4, 2.3, 2.2]).evidence(photos)
    assert [rule.__name__ for rule in RULES if rule(short) is not None] == []


def test_a_loss_that_rises_at_the_end_has_not_fallen_steadily(photos: Path) -> None:
    losses = [2.02, 1.51, 1.42, 1.41, 1.18, 1.18, 1.61, 1.72]
    assert rate.rate_too_low(Made(*BOXES, train=0.0, val=0.0, metric="map", loss=losses).evidence(photos)) is None
    falling = [2.02, 1.99, 1.96, 1.93, 1.90, 1.84, 1.78, 1.72]
    assert rate.rate_too_low(Made(*BOXES, train=0.0, val=0.0, metric="map", loss=falling).evidence(photos)) is not None


def test_nothing_is_said_about_an_ordinary_run(photos: Path) -> None:
    ordinary = Made("model=resnet20", "augment=crop_flip", train=0.985, val=0.97, parameters=0.27e6).evidence(photos)
    assert [rule.__name__ for rule in RULES if rule(ordinary) is not None] == []


def test_a_loss_that_is_no_cross_entropy_is_not_compared_with_chance(photos: Path) -> None:
    up_and_down = [8.0, 6.0, 7.0, 6.5, 7.2, 6.1, 7.0, 6.2, 7.1, 6.0, 7.0, 6.1]
    detector = Made(*BOXES, train=0.5, val=0.49, metric="map", loss=up_and_down)
    assert [rule.__name__ for rule in RULES if rule(detector.evidence(photos)) is not None] == []
    assert rate.rate_too_high(Made(loss=up_and_down).evidence(photos)) is not None  # control


def written(folder: Path, evidence: Evidence, **changed: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(evidence.config)) | changed))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in evidence.rows))
    (folder / "summary.json").write_text(json.dumps(evidence.summary | {"final": {}}))
    return folder


def test_advice_is_read_from_the_files_of_a_run(photos: Path, tmp_path: Path) -> None:
    run = written(tmp_path / "run", Made("optimizer.lr=0.01", train=1.0, val=0.7).evidence(photos))
    assert [one.line for one in advice(run)] == ["augment=crop_flip", "optimizer.weight_decay=0.2"]
    told = list(lines(run))
    assert told[0].startswith("over-fitting: train_eval/top1 1.0000 is far above val/top1 0.7000")
    assert next(line for line in told if line.startswith("  try: ")) == "  try: augment=crop_flip"
    assert max(map(len, told)) <= 80 < max(len(f"{one.title}: {one.evidence}") for one in advice(run))


def test_advice_says_which_words_of_the_command_it_replaces(photos: Path, tmp_path: Path) -> None:
    run = written(tmp_path / "run", Made("augment=crop_flip", train=1.0, val=0.7).evidence(photos))
    (run / ".hydra").mkdir()
    words = {"hydra": {"overrides": {"task": ["seed=1", "augment=crop_flip", "name=a b"]}}}
    (run / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(words))
    assert (
        next(line for line in lines(run) if "try: " in line)
        == "  try: augment=[crop_flip,cutmix]   instead of augment=crop_flip"
    )


def test_a_run_without_rows_gets_no_advice(photos: Path, tmp_path: Path) -> None:
    run = written(tmp_path / "run", Made().evidence(photos))
    (run / "metrics.jsonl").unlink()
    assert advice(run) == []


def test_numbers_that_are_none_are_left_out(photos: Path, tmp_path: Path) -> None:
    run = written(tmp_path / "run", Made(train=math.nan, val=math.inf, loss=[math.nan] * 12).evidence(photos))
    assert advice(run) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"trainer": {"duration": ["30ep"]}},
        {"facts": {"num_train": 0, "num_val": 1, "class_names": [], "image_shape": [], "mean": [], "std": []}},
    ],
    ids=("duration", "facts"),
)
def test_a_config_that_no_run_has_written_is_refused(photos: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    run = written(tmp_path / "run", Made().evidence(photos), **changed)
    with pytest.raises(BadConfig, match=r"as in no run"):
        advice(run)


def test_a_run_ends_with_advice_between_its_results_and_its_folder(tmp_path: Path) -> None:
    few = ("data.max_train_samples=40", "data.batch_size=20", "trainer.duration=200st", "trainer.eval_every=100st")
    ended = train(tmp_path, *few, "optimizer.lr=0.01", "augment=none", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    said = ended.out.splitlines()
    end = said.index("run: run")
    best = next(i for i, line in enumerate(said) if line.startswith("best val/top1 "))
    what, line, more, other = (line for line in said[best + 1 : end] if line.startswith("  try: ") or line[0] != " ")
    assert what.startswith("over-fitting: train_eval/top1 1.0000 is far above val/top1 0.")
    assert line == "  try: augment=crop_flip   instead of augment=none"
    assert more.startswith("weight decay: ") and other == "  try: optimizer.weight_decay=0.2"
