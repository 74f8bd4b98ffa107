"""Weights say what they are: to who reads the file, and to timm, which makes the trained model of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from timm.data import resolve_data_config
from torch import nn

from plainloop.config.build import build
from plainloop.config.durations import Clock
from plainloop.run.description import describe, timm_config
from plainloop.run_dir.weights import load_weights, save_weights
from plainloop.system import storage
from tests.harness.runs import SMALL, train
from tests.harness.tensors import equal

IMAGE = {"_target_": "plainloop.data.image_folder.ImageFolder", "root": "/not/there", "batch_size": 1, "image_size": 32}


def described(model: dict[str, Any], *, channels: int = 3) -> tuple[dict[str, Any], nn.Module]:
    """A config that has what a description needs, and its model with weights that no start gives."""
    facts = {"class_names": ["cat", "café"], "image_shape": [channels, 32, 32], "mean": [0.5] * channels}
    source = IMAGE if channels == 3 else {"_target_": "plainloop.data.digits.Digits", "batch_size": 1}
    task = {"_target_": "plainloop.tasks.classification.Classification"}
    config = {"facts": facts | {"std": [0.25] * channels}, "data": source, "plugins": [], "task": task, "model": model}
    built = build(model, Clock(1, 1))
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.1)
    return config, built.eval()


TIMM = {
    "a new size and fewer channels": ({"model_name": "test_vit", "img_size": 32, "in_chans": 1}, 1),
    "weights of a start": ({"model_name": "test_resnet.r160_in1k", "pretrained_cfg_overlay": {"file": "gone"}}, 3),
    "another pooling": ({"model_name": "test_efficientnet", "global_pool": "max", "drop_rate": 0.5}, 3),
}


@pytest.mark.parametrize("kind", TIMM)
def test_timm_makes_the_trained_model_from_the_folder(tmp_path: Path, kind: str) -> None:
    arguments, channels = TIMM[kind]
    node = {"_target_": "timm.create_model", "num_classes": 2, **arguments}
    config, model = described(node, channels=channels)
    about = describe(config)
    save_weights(model, tmp_path / "best.safetensors", about)
    save_weights(build(node, Clock(1, 1)), tmp_path / "last.safetensors", about)
    storage.write_json(tmp_path / "config.json", timm_config(config, model, about))
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(2, channels, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    found = resolve_data_config({}, model=again)
    expected = {"input_size": (channels, 32, 32), "mean": (0.5,) * channels, "std": (0.25,) * channels}
    assert {key: tuple(found[key]) for key in expected} == expected
    assert (found["crop_pct"], found["interpolation"]) == (0.875 if channels == 3 else 1.0, "bilinear")
    assert list(again.pretrained_cfg["label_names"]) == ["cat", "café"]


def test_a_model_that_timm_did_not_make_has_no_config_of_timm() -> None:
    config, model = described({"_target_": "plainloop.models.tiny.TinyNet", "num_classes": 2})
    assert timm_config(config, model, describe(config)) is None


def test_a_file_says_what_it_holds_and_two_files_of_one_model_are_equal(tmp_path: Path) -> None:
    config, model = described({"_target_": "plainloop.models.tiny.TinyNet", "num_classes": 2, "width": 3})
    about = describe(config)
    files = [tmp_path / f"{number}.safetensors" for number in range(6)]
    for file in files:  # the library alone would give one of them another order
        save_weights(model, file, about)
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as file:
        metadata = dict(file.metadata())
    assert metadata.pop("format") == "pt"
    assert {key: json.loads(value) for key, value in metadata.items()} == about
    assert about["model"] == config["model"]
    assert (about["crop_fraction"], about["interpolation"], about["image_shape"]) == (0.875, "bilinear", [3, 32, 32])
    other = build(config["model"], Clock(1, 1))
    load_weights(other, files[0])
    assert equal(dict(other.state_dict()), dict(model.state_dict()))


def test_a_run_leaves_weights_that_timm_takes(tmp_path: Path, caplog: Any) -> None:
    typed = (*SMALL[1:], "model=timm", "model.model_name=test_resnet", "trainer.ema_decay=0.9", "hydra.run.dir=run")
    assert train(tmp_path, *typed).code == 0
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        model = timm.create_model(f"local-dir:{run}", pretrained=True)
    assert "Using 'best.safetensors'" in caplog.text
    saved = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    load_weights(saved, run / "best.safetensors")
    assert equal(dict(model.state_dict()), dict(saved.state_dict()))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["model"]["model_name"] == "test_resnet"
    assert (summary["crop_fraction"], summary["interpolation"]) == (None, "bilinear")
    (run / "config.json").unlink()  # as in a run of earlier code
    assert train(tmp_path, f"resume={run}", "trainer.duration=11st").code == 0
    assert (run / "config.json").exists()
