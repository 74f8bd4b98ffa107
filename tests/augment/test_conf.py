"""The augment files compose, build, and never wait for the device."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from plainloop.config.explain.problems import InvalidConfig
from tests.harness.configs import checked
from tests.harness.pictures import write_pictures
from tests.harness.tensors import NoHostReads

CONF = Path(__file__).resolve().parents[2] / "conf"
FACTS = "+facts={image_shape:[3,12,10]}"


def composed(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(f"augment/{name}", overrides=list(overrides)).augment


def built(name):
    """The functions of a file, in its order."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(f"augment/{name}", overrides=[FACTS])
    return list(instantiate(config.augment, _convert_="all").values())


def test_none_is_an_empty_dictionary():
    assert composed("none") == {}


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
def test_every_file_builds_and_gives_the_size_that_the_model_sees(name):
    batch = {"image": torch.rand(4, 3, 12, 10), "label": torch.arange(4)}
    for augment in built(name):
        batch = augment(batch, 0)
    assert batch["image"].shape == (4, 3, 12, 10)


@pytest.mark.parametrize("name", ["crop_flip", "standard"])
def test_augmenting_never_waits_for_the_device(name):
    functions = built(name)
    with NoHostReads():
        for augment in functions:
            augment({"image": torch.rand(4, 3, 12, 10)}, 0)


def test_an_added_item_is_caught():
    def peeking(batch, step):
        return batch | {"image": batch["image"] / batch["image"].max().item()}

    with NoHostReads(), pytest.raises(AssertionError, match="the host reads"):
        peeking({"image": torch.rand(4, 3, 12, 10)}, 0)
