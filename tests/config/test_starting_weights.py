"""What the plan and the first lines of a run say of the weights that a model starts from."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from plainloop.config.check.meta_model import built_model
from plainloop.config.starting_weights import start_lines
from plainloop.models.tiny import TinyNet
from plainloop.run_dir.weights import load_weights, save_weights
from tests.harness.configs import checked

DETECTOR = ("model=yolov3", "model.backbone=tiny")


def lines_of(*overrides: str) -> dict[str, str]:
    config = checked(*overrides)
    return dict(start_lines(config, built_model(config)))


def test_a_model_that_starts_anew_has_no_lines() -> None:
    assert lines_of() == {}


def test_the_names_that_start_anew_are_those_that_the_file_does_not_give(tmp_path: Path) -> None:
    save_weights(TinyNet(num_classes=4, in_chans=1), tmp_path / "w.safetensors")
    found = lines_of(f"init_from={tmp_path / 'w.safetensors'}", "optimizer=adamw")
    assert found == {"weights": f"{tmp_path / 'w.safetensors'}: 24 of 26 tensors; anew: fc.bias, fc.weight"}
    save_weights(TinyNet(num_classes=10, in_chans=1), tmp_path / "same.safetensors")
    assert lines_of(f"init_from={tmp_path / 'same.safetensors'}")["weights"].endswith(": 26 of 26 tensors")


@pytest.mark.parametrize(("order", "taken"), [((0, 1, 2), 26), ((1, 0, 2), 24)])
def test_classes_of_other_names_or_in_another_order_start_anew(
    tmp_path: Path, order: tuple[int, ...], taken: int
) -> None:
    file, names = tmp_path / "w.safetensors", checked()["facts"]["class_names"]
    theirs = [names[i] for i in order] + names[3:]
    save_weights(before := TinyNet(num_classes=10, in_chans=1), file, {"classes": theirs})
    model = TinyNet(num_classes=10, in_chans=1)
    load_weights(model, file, names)
    assert torch.equal(model.fc.weight, before.fc.weight) == (taken == 26)
    assert torch.equal(model.state_dict()["stem.0.weight"], before.state_dict()["stem.0.weight"])
    said = lines_of(f"init_from={file}")["weights"]
    assert f": {taken} of 26 tensors" in said and (f"in another order: {theirs[0]}, {theirs[1]}, " in said) == (
        taken == 24
    )


def test_keys_of_the_model_that_were_others_are_named(tmp_path: Path) -> None:
    file, config = tmp_path / "w.safetensors", checked("task=detection", "data=digit_boxes", *DETECTOR)
    about = {"classes": config["facts"]["class_names"], "model": config["model"]}
    save_weights(built_model(config).to_empty(device="cpu"), file, about)
    typed = ("task=detection", "data=digit_boxes", *DETECTOR, f"init_from={file}")
    assert "another" not in lines_of(*typed)["weights"]
    said = lines_of(*typed, "model.anchors=[[9,9],[9,8],[8,9],[7,7],[6,6],[5,5],[8,8],[16,16],[32,32]]")
    assert said["weights"].endswith("; it was trained with another model.anchors")


def test_of_published_weights_timm_loads_what_the_line_says(tmp_path: Path) -> None:
    published, file = timm.create_model("test_resnet"), tmp_path / "published.safetensors"
    save_file(published.state_dict(), file)
    typed = ("model=timm", "model.model_name=test_resnet", "model.pretrained=true", "data=fashion_mnist")
    found = lines_of(*typed, f"+model.pretrained_cfg_overlay.file={file}")
    arguments = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1, **arguments)
    before, after = published.state_dict(), model.state_dict()
    same = [name for name in after if torch.equal(before[name], after[name])]
    new = sorted(set(after) - set(same) - {"conv1.0.weight"})  # fitted to one channel
    assert new == ["fc.bias", "fc.weight"]
    text = f"test_resnet, published: {len(after) - 2} of {len(after)} tensors; anew: fc.bias, fc.weight"
    assert found["weights"] == f"{text}; the first layer is fitted to 1 channel"


@pytest.mark.parametrize(("until", "when"), [("null", "the whole run"), ("10%", "until step 66 (10%)")])
def test_what_is_frozen_is_counted(until: str, when: str) -> None:
    found = lines_of("trainer.freeze=backbone", f"trainer.freeze_until={until}")["frozen"]
    assert found == f"backbone, {when}: 12 of 14 parameters with 16,464 numbers; fc.weight, fc.bias learn"


@pytest.mark.parametrize(("images", "rate"), [(100, 0.001), (10_000, 0.00316), (60_000, 0.00775)])
def test_the_recipe_takes_the_rate_of_the_size_of_the_data_and_says_why(
    tmp_path: Path, images: int, rate: float
) -> None:
    save_weights(TinyNet(num_classes=10, in_chans=1), tmp_path / "w.safetensors")
    typed = ("experiment=finetune", "data=fashion_mnist", f"data.max_train_samples={images}", "data.batch_size=64")
    config = checked(*typed, f"init_from={tmp_path / 'w.safetensors'}")
    assert config["optimizer"]["lr"] == pytest.approx(rate, rel=0.005)
    why = dict(start_lines(config, built_model(config)))[""]
    assert f"fine-tuning {images:,} images: {rate:g} at batch 256" in why and why.endswith("and so it is here")
    assert checked(*typed, "optimizer.lr=0.5")["optimizer"]["lr"] == 0.5
