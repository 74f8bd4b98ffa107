"""Segmentation models take images of any size, have the library's weights by name, and auxiliary heads in training."""

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from plainloop.config.explain.problems import InvalidConfig
from plainloop.models.encoder_decoder import EncoderDecoder
from plainloop.models.pp_liteseg import PPLiteSeg, ShortTermDense
from plainloop.models.pretrained import on_the_hub
from plainloop.models.tiny_seg import TinySeg
from tests.harness.configs import checked

SMALL = {"encoder_name": "tu-test_resnet", "num_classes": 5}


def liteseg(**settings: Any) -> nn.Module:
    return PPLiteSeg(**{"num_classes": 5, "encoder_name": "tu-test_resnet"} | settings)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 65, 33), (4, 37, 70)])
@pytest.mark.parametrize("architecture", ["unet", "fpn", "deeplabv3plus", "upernet", "segformer"])
def test_images_of_any_size_and_channels_become_logits_of_their_shape(
    architecture: str, shape: tuple[int, int, int]
) -> None:
    model = EncoderDecoder(architecture=architecture, in_chans=shape[0], **SMALL).eval()
    assert model(torch.rand(2, *shape)).shape == (2, 5, *shape[1:])


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 65, 33), (4, 7, 70)])
@pytest.mark.parametrize("kind", [TinySeg, liteseg], ids=["tiny_seg", "pp_liteseg"])
def test_ours_take_images_of_any_size_and_channels(kind: Any, shape: tuple[int, int, int]) -> None:
    logits = kind(num_classes=5, in_chans=shape[0]).eval()(torch.rand(2, *shape))
    assert logits.shape[:2] == (2, 5)
    assert all(-(-side // 8) <= size <= side for side, size in zip(shape[1:], logits.shape[2:]))


def test_padding_to_the_stride_is_cut_off_and_does_not_move_the_rest() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(architecture="unet", **SMALL).eval()
    image = torch.zeros(1, 3, 64, 64)
    image[..., :40, :40] = torch.rand(40, 40)
    assert torch.allclose(model(image[..., :40, :40]), model(image)[..., :40, :40], atol=1e-6)  # other sums


def test_weights_have_the_librarys_names_and_give_its_logits() -> None:
    ours = EncoderDecoder(architecture="unet", **SMALL).eval()
    theirs = smp.Unet(encoder_name="tu-test_resnet", encoder_weights=None, classes=5).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize(
    ("model", "heads"),
    [(lambda: EncoderDecoder(architecture="fpn", aux_stages=[-2, -1], **SMALL), 2), (liteseg, 2)],
    ids=["encoder_decoder", "pp_liteseg"],
)
def test_auxiliary_heads_give_logits_in_training_only_and_every_weight_learns(model: Any, heads: int) -> None:
    model, image = model(), torch.rand(2, 3, 64, 64)
    outputs = model(image)
    assert [output.shape[:2] for output in outputs] == [(2, 5)] * (1 + heads)
    sum(output.square().mean() for output in outputs).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert isinstance(model.eval()(image), torch.Tensor)


@pytest.mark.parametrize(("name", "millions"), [("stdc1", 5.3), ("stdc2", 9.3)])
def test_stdc_has_the_published_layers(name: str, millions: float) -> None:
    """8.4 and 12.5 million in the paper (table 2), of which 1.05 + 1.05 + 1.0 are the classifier's."""
    encoder = PPLiteSeg(num_classes=2, encoder_name=name).encoder
    assert sum(weight.numel() for weight in encoder.parameters()) == pytest.approx(millions * 1e6, rel=0.02)
    assert [x.shape[1:] for x in encoder(torch.rand(2, 3, 64, 64))] == [(256, 8, 8), (512, 4, 4), (1024, 2, 2)]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_short_term_dense_block_puts_a_half_a_quarter_and_two_eighths_together(stride: int) -> None:
    block = ShortTermDense(16, 64, stride=stride)
    assert [conv[0].out_channels for conv in (block.first, *block.rest)] == [32, 16, 8, 8]
    assert block(torch.rand(2, 16, 8, 8)).shape == (2, 64, 8 // stride, 8 // stride)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"encoder_name": "resnet19"}, r"encoder_name='resnet19' is not known, near it: .*resnet18.*tu-resnet19"),
        ({"encoder_name": "tu-resnet19"}, r"encoder_name='tu-resnet19' is not known, near it: .*tu-resnet18"),
        ({"architecture": "unett"}, "architecture='unett' must be one of unet,"),
        ({"aux_stages": [9]}, r"aux_stages=\[9\] must be stages of the encoder, from -1 \(the deepest\)"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        EncoderDecoder(**{"architecture": "unet"} | SMALL | settings)


@pytest.mark.parametrize(
    ("model", "encoder", "repository"),
    [
        ("unet", "tu-resnet18", "timm/resnet18.a1_in1k"),
        ("unet", "resnet34", "smp-hub/resnet34.imagenet"),
        ("pp_liteseg", "tu-resnet18", "timm/resnet18.a1_in1k"),
    ],
)
def test_weights_of_an_encoder_that_cannot_be_had_are_named_before_the_run(
    model: str, encoder: str, repository: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    typed = ["task=segmentation", "data=digit_scenes", f"model={model}", f"model.encoder_name={encoder}"]
    typed += ["model.pretrained=true", *(["task.aux_weights=[1,1]"] if model == "pp_liteseg" else [])]
    with pytest.raises(InvalidConfig, match=f"the weights {repository} are not in .*, and http://127.0.0.1:9 cannot"):
        checked(*typed)


def test_an_encoder_without_weights_is_refused() -> None:
    node = checked("task=segmentation", "data=digit_scenes", "model=unet", "model.encoder_name=resnet34")["model"]
    assert on_the_hub(node) == ("smp-hub/resnet34.imagenet", "")
    with pytest.raises(ValueError, match="the encoder dpn92 has no imagenet weights; leave it out, or take another"):
        on_the_hub(node | {"encoder_name": "dpn92"})


def test_weights_that_nobody_publishes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pretrained=true, but tiny_seg has no published weights"):
        TinySeg(num_classes=5, pretrained=True)
    with pytest.raises(ValueError, match=r"pretrained=true, but pp_liteseg with the encoder stdc2 has no published"):
        PPLiteSeg(num_classes=5, encoder_name="stdc2", pretrained=True)


@pytest.mark.parametrize(("pixels", "accepted"), [(96, False), (97, True)])
def test_pan_says_which_images_are_too_small_for_its_pyramid(pixels: int, accepted: bool) -> None:
    model = EncoderDecoder(architecture="pan", in_chans=3, **SMALL).eval()
    image = torch.zeros(1, 3, 128, pixels)
    if accepted:
        assert model(image).shape[-1] == pixels
        return
    with pytest.raises(ValueError, match="pan takes images of more than 96 pixels each way, got 128 x 96"):
        model(image)
