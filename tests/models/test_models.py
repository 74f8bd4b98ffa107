"""Our models have the sizes of their papers, take any image, and say so when they have no weights to give."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from plainloop.config.build import build
from plainloop.config.durations import Clock
from plainloop.config.explain.problems import InvalidConfig
from plainloop.models.mobilenet import mobilenet
from plainloop.models.resnet_small import BasicBlock, ResNetSmall, with_small_stem
from plainloop.models.tiny import TinyNet
from tests.harness.configs import checked

OURS = ["tiny", "resnet20", "resnet32", "resnet44", "resnet56"]


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def by_hand(depth: int) -> int:
    """Weights of the paper's table 6, BatchNorm's two per channel included."""
    blocks = (depth - 2) // 6

    def conv(i: int, o: int) -> int:
        return 9 * i * o + 2 * o

    stages = ((16, 16), (16, 32), (32, 64))
    return conv(3, 16) + sum(conv(i, o) + (2 * blocks - 1) * conv(o, o) for i, o in stages) + 64 * 10 + 10


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_small_resnets_have_the_papers_layers_and_parameters(depth: int, millions: float) -> None:
    model = ResNetSmall(depth=depth, num_classes=10)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    assert num_parameters(model) == by_hand(depth)
    assert num_parameters(model) == pytest.approx(millions * 1e6, rel=0.02)


@pytest.mark.parametrize(("version", "name", "quarter"), [(1, "mobilenetv1_100", 0.47), (2, "mobilenetv2_100", 1.52)])
def test_mobilenets_are_timms_at_full_width_and_have_the_papers_parameters_at_a_quarter(version, name, quarter) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name)
        ours = {width: mobilenet(version=version, width=width, num_classes=1000) for width in (1, 0.25)}
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (ours[1], theirs)]
    assert shapes[0] == shapes[1]
    assert num_parameters(ours[0.25]) == pytest.approx(quarter * 1e6, rel=0.01)


def test_a_small_stem_keeps_the_size_of_the_image_and_has_mmpretrains_parameters() -> None:
    with torch.device("meta"):
        model = with_small_stem(model_name="resnet18", num_classes=10)
        first = model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(torch.zeros(1, 3, 32, 32))))))
    assert first.shape == (1, 64, 32, 32)
    assert num_parameters(model) == pytest.approx(11.17e6, rel=0.001)


def test_models_that_cannot_be_made_so_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.model_name=tf_efficientnet_b0 must be a ResNet of timm: resnet18"):
        with_small_stem(model_name="tf_efficientnet_b0", num_classes=10)
    with pytest.raises(ValueError, match=r"model\.width=2 must lie between 1/16 and 1, as 0\.25"):
        mobilenet(version=1, width=2, num_classes=10)


def test_a_shortcut_takes_every_second_pixel_and_fills_new_channels_with_zeros() -> None:
    block = BasicBlock(2, 4, stride=2).eval()
    nn.init.zeros_(block.conv2.weight)  # only the shortcut is left
    x = torch.rand(1, 2, 4, 4)
    expected = torch.zeros(1, 4, 2, 2)
    expected[:, 1:3] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize("depth", [2, 18, 21, -4])
def test_a_depth_that_the_paper_does_not_allow_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"model\.depth={depth} must be 6n \+ 2: 20, 32, 44, 56 or 110"):
        ResNetSmall(depth=depth, num_classes=10)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (4, 17, 9), (2, 1, 1), (3, 96, 64)])
@pytest.mark.parametrize(
    "kind", [TinyNet, lambda **settings: ResNetSmall(depth=20, **settings)], ids=["tiny", "resnet"]
)
def test_images_of_any_size_and_channels_become_logits(kind: Any, shape: tuple[int, int, int]) -> None:
    model = kind(num_classes=5, in_chans=shape[0]).eval()
    assert model(torch.rand(2, *shape)).shape == (2, 5)


def test_a_stem_of_stride_2_quarters_the_pixels_of_all_that_follows() -> None:
    image = torch.rand(1, 1, 28, 28)
    full, halved = TinyNet(num_classes=5, in_chans=1), TinyNet(num_classes=5, in_chans=1, stem_stride=2)
    assert (full.stem(image).shape, halved.stem(image).shape) == ((1, 16, 28, 28), (1, 16, 14, 14))
    assert num_parameters(full) == num_parameters(halved)
    assert halved(torch.rand(2, 1, 1, 1)).shape == (2, 5)


@pytest.mark.parametrize(
    "kind", [TinyNet, lambda **settings: ResNetSmall(depth=20, **settings)], ids=["tiny", "resnet"]
)
def test_dropout_acts_in_training_only(kind: Any) -> None:
    model, image = kind(num_classes=5, drop_rate=0.5), torch.rand(8, 3, 8, 8)
    model.eval()
    assert torch.equal(model(image), model(image))
    model.train()
    assert not torch.equal(model(image), model(image))


@pytest.mark.parametrize("name", OURS)
def test_pretrained_is_refused_where_there_are_no_weights(name: str) -> None:
    node = checked(f"model={name}")["model"] | {"pretrained": True}
    match = rf"model\.pretrained=true, but {name} has no published weights; .* init_from="
    with pytest.raises(ValueError, match=match):
        build(node, Clock(1, 1))


def test_weights_that_cannot_be_had_are_named_at_once_with_what_else_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    match = "weights timm/resnet18.a1_in1k are not in .*, and http://127.0.0.1:9 cannot be reached"
    with pytest.raises(InvalidConfig, match=match) as caught:
        checked("model=resnet18", "model.pretrained=true")
    for way in ("+model.pretrained_cfg_overlay.file=<file>", "HF_HOME=<folder>", "init_from=<"):
        assert way in str(caught.value)
    file = "+model.pretrained_cfg_overlay.file"
    with pytest.raises(InvalidConfig, match="file: does not exist, got /no/file"):
        checked("model=resnet18", "model.pretrained=true", f"{file}=/no/file")


def test_any_timm_model_goes_by_its_name() -> None:
    node = checked("model=timm", "model.model_name=test_vit", "+model.img_size=8", "+model.patch_size=4")["model"]
    assert type(build(node, Clock(1, 1))).__name__ == "VisionTransformer"
