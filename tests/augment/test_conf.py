"""The augment files compose, build, and never wait for the device."""

import pytest
import torch

from plainloop.config.build import build
from plainloop.config.durations import Clock
from plainloop.config.explain.problems import InvalidConfig
from tests.harness.configs import checked
from tests.harness.pictures import write_pictures
from tests.harness.tensors import NoHostReads


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ToPILImage", "augment.x: .*must give a .3, H, W. uint8 tensor; .* gave Image"),
        ("MixUp", "v2.MixUp refuses it"),
    ],
)
def test_a_transform_of_torchvision_is_tried_by_the_check(kind, message, tmp_path):
    pictures = ("data=image_folder", f"data.root={write_pictures(tmp_path)}", "data.image_size=16", "data.batch_size=9")
    named = f"_target_: torchvision.transforms.v2.{kind}" + ", num_classes: 3" * (kind == "MixUp")
    with pytest.raises(InvalidConfig, match=message):
        checked(*pictures, f"+augment.x={{{named}}}")
    for data in ((), pictures):
        checked(*data, "+augment.x={_target_: torchvision.transforms.v2.RandAugment}")


@pytest.mark.parametrize("name", ["crop_flip", "standard"])
def test_every_file_gives_the_size_that_the_model_sees_without_waiting_for_the_device(name):
    batch = {"image": torch.rand(4, 1, 8, 8), "label": torch.arange(4)}
    augments = [build(node, Clock(1, 1)) for node in checked(f"augment={name}")["augment"].values()]
    with NoHostReads():
        for augment in augments:
            batch = augment(batch, 0)
    assert len(augments) == 2 and batch["image"].shape == (4, 1, 8, 8)


def test_an_added_item_is_caught():
    def peeking(batch, step):
        return batch | {"image": batch["image"] / batch["image"].max().item()}

    with NoHostReads(), pytest.raises(AssertionError, match="the host reads"):
        peeking({"image": torch.rand(4, 3, 12, 10)}, 0)
