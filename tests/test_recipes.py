"""Every recipe trains, at toy size and on data made here, and says where its numbers come from."""

import hashlib
import pickle
import re
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from torchvision import datasets

from plainloop.config.durations import clock_of
from plainloop.config.parts import base_lr_of, schedule_of
from plainloop.data.fashion_mnist import FILES
from plainloop.run.run import run
from tests.harness.annotated import SCENES, as_coco, write_coco, write_images
from tests.harness.commands import COMPOSER, problems
from tests.harness.configs import ROOT, checked
from tests.harness.pictures import write_pictures

RECIPES = sorted(file.stem for file in (ROOT / "conf/experiment").glob("*.yaml"))
NUM = 24  # images of each split

TOY = ("trainer.lr_scaling.rule=none", "device=cpu", "logger=none")

# Model of a recipe -> arguments that make it small: the check builds it as it is, on the meta device, before.
SMALLER: dict[str, dict[str, Any]] = {
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
    "resnet50d": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
    "deit_small_patch16_224": {"embed_dim": 12, "depth": 2, "num_heads": 3},
    "convnext_tiny": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]},
}
SMALLER_BACKBONES = {"darknet53": "tiny", "resnet50": "test_resnet"}


def write_digits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return []


def write_fashion_mnist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for (_, part), name in FILES.items():
        array = pixels(28, 28) if part == "images" else np.arange(NUM, dtype=np.uint8) % 10
        header = struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape)
        (folder / name).write_bytes(header + array.tobytes())
    return [f"data.root={folder}"]


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch, *, classes: int) -> list[str]:
    """Files in the published format; torchvision is told their checksums, which it would refuse otherwise."""
    kind = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[classes]
    labels = {10: "labels", 100: "fine_labels"}[classes]
    (folder / kind.base_folder).mkdir()

    def write(name: str, content: dict[str, Any]) -> list[str]:
        packed = pickle.dumps(content)
        (folder / kind.base_folder / name).write_bytes(packed)
        return [name, hashlib.md5(packed).hexdigest()]

    for split in ("train", "test"):
        content = {"data": pixels(3, 32, 32).reshape(NUM, -1), labels: [i % classes for i in range(NUM)]}
        monkeypatch.setattr(kind, f"{split}_list", [write(split, content)])
    name, checksum = write("names", {kind.meta["key"]: [str(i) for i in range(classes)]})
    monkeypatch.setattr(kind, "meta", kind.meta | {"filename": name, "md5": checksum})
    return [f"data.root={folder}"]


def write_image_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    write_pictures(folder, classes=2, size=40)
    return [f"data.root={folder}", "data.image_size=32", "data.num_workers=0"]


def write_mask_lists(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """PaddleSeg's optic_disc_seg in small."""
    (folder / "Annotations").mkdir()
    for split in ("train", "val"):
        names = [f"{split}{number}" for number in range(NUM if split == "train" else 1)]
        for number, name in enumerate(names):
            Image.fromarray(pixels(40, 40, 3)[number]).save(folder / f"{name}.jpg")
            Image.fromarray(pixels(40, 40)[number] % 2).save(folder / f"Annotations/{name}.png")
        lines = [f"{name}.jpg Annotations/{name}.png\n" for name in names]
        (folder / f"{split}_list.txt").write_text("".join(lines))
    return [f"data.root={folder}", "data.image_size=64", "data.num_workers=0", "model.encoder_name=stdc1"]


def write_boxes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An epoch has so few steps here that a warm-up of hundreds would not end before the first decay."""
    scenes = {f"{copy}_{name}": objects for copy in range(NUM // len(SCENES)) for name, objects in SCENES.items()}
    write_images(folder / "JPEGImages", [*scenes])
    write_coco(folder / "annotations.json", as_coco(scenes))
    return [f"data.root={folder}", "data.image_size=64", "data.num_workers=0", "scheduler.warmup=2st"]


def write_digit_scenes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["data.num_train=16", "data.num_val=4"]


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM, *shape), dtype=np.uint8)


# Data option -> writes such files and gives the overrides that lead there.
WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], list[str]]] = {
    "digits": write_digits,
    "fashion_mnist": write_fashion_mnist,
    "cifar10": partial(write_cifar, classes=10),
    "cifar100": partial(write_cifar, classes=100),
    "image_folder": write_image_folder,
    "mask_lists": write_mask_lists,
    "coco": write_boxes,
    "digit_scenes": write_digit_scenes,
    "digit_boxes": write_digit_scenes,
}


def rows_of(recipe: str) -> list[dict[str, Any]]:
    """What is published for a recipe, in its own file: what is typed, and the number."""
    return list((yaml.safe_load(text_of(recipe)).get("published") or {}).get("rows", ()))


def text_of(recipe: str) -> str:
    return (ROOT / f"conf/experiment/{recipe}.yaml").read_text()


def data_of(recipe: str) -> str:
    chosen: dict[str, str] = {}
    for entry in yaml.safe_load(text_of(recipe))["defaults"]:
        if isinstance(entry, str) and entry != "_self_":  # a recipe that this one starts from
            chosen["override /data"] = data_of(entry)
        chosen |= entry if isinstance(entry, dict) else {}
    return chosen.get("override /data", "digits")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipe is checked; then its first two steps are done, with the rates of the whole."""
    (tmp_path / "data").mkdir()
    found = WRITERS[data_of(recipe)](tmp_path / "data", monkeypatch)
    config = checked(f"experiment={recipe}", *found, "data.batch_size=8", *TOY)
    config["trainer"] |= {"duration": "2st"}
    config["model"] |= SMALLER.get(config["model"].get("model_name"), {})
    if smaller := SMALLER_BACKBONES.get(config["model"].get("backbone")):
        config["model"]["backbone"] = smaller
    if isinstance(config["model"].get("channels"), int):  # of torchvision's heads, which take most of the time
        config["model"]["channels"] = 16
    summary = run(config, tmp_path / "run")
    assert summary["steps"] == 2
    assert 0 <= summary["best"]["value"] <= 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_what_was_measured_where_it_comes_from_and_how_to_run_it(recipe: str) -> None:
    comments = re.match(r"# @package _global_\n((?:#.*\n)+)", text_of(recipe))
    assert comments is not None
    header = comments[1]
    measured = re.search(r"Measured: \S+ [\d.]+ ± [\d.]+.*, n = \d+ .*; [\d.]+ s of .*; .* torch \d", header, re.DOTALL)
    assert measured is None or measured.start() == len("# ")
    assert (measured is None) == header.startswith("# Not yet measured here.")
    assert "Source: " in header
    assert ("# Cost: " in header) >= bool(rows_of(recipe))
    assert f"#   python train.py experiment={recipe}" in header


ROWS = [(recipe, row) for recipe in RECIPES for row in rows_of(recipe)]


@pytest.mark.parametrize(("recipe", "row"), ROWS, ids=[f"{recipe} {row['overrides']}" for recipe, row in ROWS])
def test_what_is_typed_for_a_published_number_composes(recipe: str, row: dict[str, Any]) -> None:
    typed = row["overrides"].split()
    composed = COMPOSER.compose_or_explain([f"experiment={recipe}", *typed])
    assert composed.problems == []
    assert 0.3 < row["value"] < 1  # of all images, and no percents


# PaddleX's example has 800 images: 100 steps an epoch.
PADDLEX = ("data=digit_boxes", "data.num_train=800", "trainer.devices=1")


def rates(typed: Sequence[str], *marks: tuple[int, int]) -> list[float]:
    """After so many epochs and steps, each."""
    config = checked(*typed)
    schedule, per_epoch = schedule_of(config), clock_of(config).steps_per_epoch
    return [base_lr_of(config) * schedule(epochs * per_epoch + steps) for epochs, steps in marks]


@pytest.mark.parametrize(
    "typed",
    [
        ("experiment=yolov3_darknet53", *PADDLEX),
        ("experiment=schedule_yolov3", "data.batch_size=8", "trainer.devices=1"),  # as it was before there were boxes
    ],
)
def test_yolov3_rises_over_1000_steps_and_falls_at_213_and_240(typed: Sequence[str]) -> None:
    marks = [(0, 0), (0, 500), (0, 1000), (212, 0), (213, -1), (213, 0), (240, -1), (240, 0), (270, -1)]
    expected = [0.0, 0.0000625, *[0.000125] * 3, *[0.0000125] * 2, *[0.00000125] * 2]
    assert rates(typed, *marks) == pytest.approx(expected, rel=1e-12)  # products in another order


def test_an_epoch_of_paddlexs_example_has_100_steps() -> None:
    assert clock_of(checked("experiment=yolov3_darknet53", *PADDLEX)).steps_per_epoch == 100


@pytest.mark.parametrize("recipe", ["yolov3_darknet53", "schedule_yolov3"])
def test_yolov3_on_two_cards_of_8_learns_twice_as_fast(recipe: str) -> None:
    data = "data=digit_boxes" if recipe == "yolov3_darknet53" else "data=digits"
    config = checked(f"experiment={recipe}", data, "data.batch_size=16", "trainer.devices=2", "device=cpu")
    assert base_lr_of(config) == 0.00025


def test_a_warm_up_that_does_not_end_before_the_first_decay_is_refused_in_paddlexs_words() -> None:
    typed = ["experiment=yolov3_darknet53", *PADDLEX[::2]]
    (found,) = problems(*typed, "data.num_train=32").values()
    assert found.key == "scheduler.warmup"
    assert "warmup_steps should be less than 852, or lr_decay_epochs[0] greater than 250" in found.what
    assert "lr_decay_epochs[0] * num_steps_each_epoch = 213 * (32 // 8) = 852" in found.expected
    assert found.instead == "scheduler.warmup=852st"
    assert problems(*typed, "data.num_train=32", found.instead) == {}
    assert problems(*typed, "data.num_train=40") == {}  # 213 * 5 steps


@pytest.mark.parametrize(
    ("recipe", "batch_size", "rate", "first"),
    [("faster_rcnn_resnet50", 2, 0.0025, 1 / 1200), ("mask_rcnn_resnet50", 1, 1 / 800, 1 / 2400)],
)
def test_the_two_stage_recipes_rise_over_500_steps_and_fall_at_8_and_11(
    recipe: str, batch_size: int, rate: float, first: float
) -> None:
    typed = (f"experiment={recipe}", *PADDLEX, "data.image_size=96")
    assert checked(*typed)["data"]["batch_size"] == batch_size
    marks = [(0, 0), (0, 250), (0, 500), (8, -1), (8, 0), (11, -1), (11, 0), (12, -1)]
    expected = [first, (first + rate) / 2, rate, rate, rate / 10, rate / 10, rate / 100, rate / 100]
    assert rates(typed, *marks) == pytest.approx(expected, rel=1e-4)  # the recipe has five digits of the first rate
    four = checked(*typed, f"data.batch_size={4 * batch_size}")
    assert base_lr_of(four) == pytest.approx(4 * rate, rel=1e-12)


def test_mmocrs_rate_is_poly_by_epoch_and_ends_above_1e_7() -> None:
    config = checked("experiment=schedule_mmocr_textdet", "data.batch_size=64")
    clock = clock_of(config)
    schedule = schedule_of(config)
    rate = lambda epoch, step=0: 0.02 * schedule(epoch * clock.steps_per_epoch + step)  # noqa: E731
    assert rate(7) == rate(7, clock.steps_per_epoch - 1)
    assert rate(600) == pytest.approx((0.02 - 1e-7) * 0.5**0.9 + 1e-7, rel=1e-12)
    assert rate(1199) > 1e-7
    assert rate(1200) == pytest.approx(1e-7, rel=1e-9)
