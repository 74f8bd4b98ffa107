"""timm takes a run's weights: the same logits, and its own way of validating finds the same accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.utils import accuracy

from plainloop.run.trained.open import open_run
from tests.harness.evaluating import evaluate, results, trained

MODEL = ("model=timm", "model.model_name=test_resnet", "optimizer=sgd", "scheduler=constant", "device=cpu")


def test_timm_makes_the_model_of_the_best_weights(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", *MODEL, "data.batch_size=240", "trainer.duration=6st", "trainer.ema_decay=0.9")
    theirs = timm.create_model(
        "test_resnet", num_classes=10, in_chans=1, checkpoint_path=str(run / "best.safetensors")
    ).eval()
    ours, image = open_run(run), torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(theirs(image), ours.model(image))
        new = timm.create_model("test_resnet", num_classes=10, in_chans=1).eval()
        assert not torch.equal(new(image), ours.model(image))  # the control


def write_images(root: Path, *, each: int) -> None:
    """JPEGs of many sizes; the classes differ in a hue that is often hard to see."""
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "val"):
        for label, name in enumerate(("green", "red", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                size = torch.randint(50, 90, (2,), generator=generator).tolist()
                pixels = torch.rand(*size, 3, generator=generator) * 180
                pixels[..., label] += 40 * torch.rand((), generator=generator)
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{number:03}.jpg", quality=95)


def validated_by_timm(run: Path, root: Path) -> float:
    """top1, in the steps of timm's validate.py: model, data config, data set, loader, accuracy batch by batch."""
    model = timm.create_model(f"local-dir:{run}", pretrained=True)
    config = resolve_data_config({}, model=model, use_test_size=True)
    data = create_dataset("", root=str(root), split="val")
    loader = create_loader(
        data,
        input_size=config["input_size"],
        batch_size=16,
        use_prefetcher=False,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        crop_pct=config["crop_pct"],
        num_workers=0,
    )
    model.eval()
    right = 0.0
    with torch.inference_mode():
        for image, label in loader:
            (top1,) = accuracy(model(image), label, topk=(1,))
            right += float(top1) / 100 * len(label)
    return right / len(data)


@pytest.mark.slow
def test_timms_own_way_of_validating_finds_the_same_accuracy(tmp_path: Path) -> None:
    root = tmp_path / "images"
    write_images(root, each=60)
    words = ("data=image_folder", f"data.root={root}", "data.image_size=48", "data.batch_size=30", "data.num_workers=0")
    # The metadata of the weights are lists of the folders in the order of their names, as timm's are.
    run = trained(tmp_path / "run", *MODEL, *words, "trainer.duration=8ep", "optimizer.lr=0.02")
    assert evaluate(f"run={run}", "--out", tmp_path / "out").code == 0
    found = results(tmp_path / "out")
    assert json.loads((run / "config.json").read_text())["pretrained_cfg"]["crop_pct"] == 0.875
    assert 0.5 < found["metrics"]["top1"] < 1  # neither guessed nor trivial
    assert validated_by_timm(run, root) == pytest.approx(found["metrics"]["top1"], abs=1e-9)
