"""Weights come back as they were, in timm too; what does not fit is refused before anything is changed."""

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from plainloop.models.tiny import TinyNet
from plainloop.run_dir.weights import PLACES, load_weights, save_weights
from tests.harness.saved import Payload
from tests.harness.tensors import equal


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.body.weight
        self.head = nn.Linear(4, 3)


def tiny(seed: int, *, num_classes: int = 4, width: int = 8) -> TinyNet:
    torch.manual_seed(seed)
    model = TinyNet(num_classes=num_classes, in_chans=1, width=width)
    for buffer in model.buffers():
        buffer.copy_(torch.randint(1, 9, buffer.shape))
    return model


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_come_back_bit_for_bit(tmp_path: Path, layout: torch.memory_format) -> None:
    saved, model = tiny(0).to(memory_format=layout), tiny(1)
    save_weights(saved, tmp_path / "w.safetensors")
    assert load_weights(model, tmp_path / "w.safetensors") == []
    assert equal(copied(model), copied(saved))


def test_tied_weights_are_found_under_each_name_and_filled_in_where_another_writer_kept_one(tmp_path: Path) -> None:
    saved, model, strict = Tied(), Tied(), Tied()
    save_weights(saved, tmp_path / "ours.safetensors")
    safetensors.torch.save_model(saved, str(tmp_path / "theirs.safetensors"))
    assert len(safetensors.torch.load_file(tmp_path / "theirs.safetensors")) == len(saved.state_dict()) - 1
    strict.load_state_dict(safetensors.torch.load_file(tmp_path / "ours.safetensors"), strict=True)
    load_weights(model, tmp_path / "theirs.safetensors")
    assert equal(copied(model), copied(saved)) and equal(copied(strict), copied(saved))


AROUND = {
    **{str(place): lambda own, _, place=place: {place: own, "step": 3} for place in PLACES},
    "bare": lambda own, _: own,
    "averaged weights go first": lambda own, other: {"model": other, "ema": own},
    "an empty place is passed": lambda own, _: {"model": own, "ema": None},
    "names of wrappers": lambda own, _: {f"module._orig_mod.{name}": value for name, value in own.items()},
}


@pytest.mark.parametrize("around", AROUND)
def test_a_state_dict_is_found_bare_in_its_usual_places_and_under_wrapped_names(tmp_path: Path, around: str) -> None:
    saved, model = tiny(0), tiny(1)
    torch.save(AROUND[around](saved.state_dict(), tiny(2).state_dict()), tmp_path / "w.pth")
    load_weights(model, tmp_path / "w.pth")
    assert equal(copied(model), copied(saved))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_timm_loads_what_is_saved(tmp_path: Path, name: str) -> None:
    saved = timm.create_model(name, num_classes=5, in_chans=1)
    save_weights(saved, tmp_path / "w.safetensors")
    loaded = timm.create_model(name, num_classes=5, in_chans=1, checkpoint_path=str(tmp_path / "w.safetensors"))
    assert equal(copied(loaded), copied(saved))


def test_timm_starts_from_a_local_file_with_a_new_classifier_and_other_channels(tmp_path: Path) -> None:
    saved = timm.create_model("test_resnet")
    save_weights(saved, tmp_path / "w.safetensors")
    overlay = {"file": str(tmp_path / "w.safetensors")}
    model = timm.create_model("test_resnet", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5, in_chans=1)
    assert model.get_classifier().weight.shape[0] == 5
    assert torch.equal(model.layer1[0].conv1.weight, saved.layer1[0].conv1.weight)
    assert torch.equal(model.conv1[0].weight, saved.conv1[0].weight.sum(1, keepdim=True))


def test_a_run_gives_its_best_weights_and_else_its_last(tmp_path: Path) -> None:
    best, last, model = tiny(0), tiny(1), tiny(2)
    save_weights(last, tmp_path / "last.safetensors")
    load_weights(model, tmp_path)
    assert equal(copied(model), copied(last))
    save_weights(best, tmp_path / "best.safetensors")
    load_weights(model, tmp_path)
    assert equal(copied(model), copied(best))


@pytest.mark.parametrize("kind", ["tiny", "test_resnet", "test_vit"])
def test_another_number_of_classes_leaves_the_classifier_new_and_takes_all_else(tmp_path: Path, kind: str) -> None:
    def build(num_classes: int) -> nn.Module:
        return tiny(0, num_classes=num_classes) if kind == "tiny" else timm.create_model(kind, num_classes=num_classes)

    saved, model = build(4), build(7)
    before = copied(model)
    save_weights(saved, tmp_path / "w.safetensors")
    head = load_weights(model, tmp_path / "w.safetensors")
    after = copied(model)
    assert len(head) == 2
    assert equal({name: after[name] for name in head}, {name: before[name] for name in head})
    rest = after.keys() - set(head)
    assert equal({name: after[name] for name in rest}, {name: saved.state_dict()[name] for name in rest})


def test_weights_of_another_model_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    state = tiny(0, width=4).state_dict()
    state["extra"] = state.pop("fc.bias")
    torch.save(state, tmp_path / "w.pt")
    model = tiny(1)
    before = copied(model)
    with pytest.raises(
        ValueError, match=r"1 missing: fc\.bias; 1 unknown to the model: extra; .* of another shape: "
    ) as error:
        load_weights(model, tmp_path / "w.pt")
    assert "stem.0.weight (4, 1, 3, 3) instead of (8, 1, 3, 3)" in str(error.value)
    assert equal(copied(model), before)
    # A wider classifier is no new head.
    torch.save(tiny(0).state_dict() | {"fc.weight": torch.zeros(7, 99)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"1 of another shape: fc\.weight \(7, 99\) instead of \(4, 16\)"):
        load_weights(model, tmp_path / "w.pt")


def test_quantized_weights_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    model = tiny(0)
    before, saved = copied(model), copied(tiny(1))
    name = next(name for name, tensor in saved.items() if tensor.ndim == 4)
    saved[name] = (saved[name] * 100).to(torch.int8)
    safetensors.torch.save_file(saved, tmp_path / "quantized.safetensors")
    with pytest.raises(ValueError, match=f"{name} is torch.int8"):
        load_weights(model, tmp_path / "quantized.safetensors")
    assert equal(copied(model), before)
    saved[name] = saved[name].half()
    safetensors.torch.save_file(saved, tmp_path / "half.safetensors")
    assert load_weights(model, tmp_path / "half.safetensors") == []


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt is damaged, or holds more than tensors and numbers"):
        load_weights(tiny(0), tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "w.pt", weights_only=False)  # the control: it would have
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_every_truncation_is_refused(tmp_path: Path, suffix: str) -> None:
    whole, torn = tmp_path / f"whole.{suffix}", tmp_path / f"torn.{suffix}"
    model = tiny(0)
    if suffix == "pt":
        torch.save(model.state_dict(), whole)
    else:
        save_weights(model, whole)
    data = whole.read_bytes()
    for size in range(0, len(data), len(data) // 40):
        torn.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"torn\.\w+ is damaged"):
            load_weights(model, torn)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"epoch": 3, "lr": 0.1}, "holds no state dict, bare or under ema, .* but epoch, lr"),
        ([torch.zeros(2)], "holds no state dict, .* but list"),
        ({}, "holds no state dict"),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path: Path, content: object, match: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=match):
        load_weights(tiny(0), tmp_path / "w.pt")


def test_what_is_not_there_or_no_weights_says_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "w.txt").write_text("weights")
    (tmp_path / "old.pt").write_bytes(pickle.dumps([1], protocol=2))
    for name, match in (
        ("empty", r"holds neither best\.safetensors nor last\.safetensors.*resume="),
        ("gone.pt", r"gone\.pt does not exist; type a run directory or a weights file"),
        ("w.txt", r"w\.txt must end in \.safetensors, \.pt"),
        ("old.pt", r"old\.pt is damaged"),
    ):
        with pytest.raises(ValueError, match=match):
            load_weights(tiny(0), tmp_path / name)
