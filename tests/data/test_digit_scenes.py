"""The embedded scenes: masks are right, validation shares nothing with training, and a threshold does not do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from plainloop.data.masks.digit_scenes import CLASSES, DigitScenes, sources_of
from plainloop.data.masks.scenes import CONTRAST, make_scene
from plainloop.tasks.iou import MeanIoU

NUM = 40


@pytest.fixture(scope="module")
def scenes() -> DigitScenes:
    return DigitScenes(batch_size=8, num_train=NUM, num_val=NUM, num_digits=10, device="cpu")


def test_scenes_are_the_same_in_every_process_and_whatever_their_number(scenes: DigitScenes) -> None:
    fewer = DigitScenes(batch_size=8, num_train=3, num_val=2, num_digits=10, device="cpu").read()
    for split, number in (("train", 3), ("val", 2)):
        for name in ("image", "mask"):
            assert torch.equal(fewer[split][name], scenes.memory.splits[split][name][:number])
    train, val = (scenes.memory.splits[split]["image"] for split in ("train", "val"))
    assert not any(torch.equal(one, other) for one in train for other in val)


def test_facts_agree_with_the_scenes(scenes: DigitScenes) -> None:
    facts = DigitScenes.facts(num_train=NUM, num_val=NUM, num_digits=10)
    image, mask = scenes.memory.splits["train"].values()
    assert (facts.num_train, facts.num_val, facts.image_shape) == (NUM, NUM, tuple(image.shape[1:]))
    assert (image.dtype, mask.dtype, mask.shape) == (torch.uint8, torch.int64, (NUM, 96, 96))
    assert set(mask.unique().tolist()) == set(range(facts.num_classes)) == set(range(len(CLASSES)))
    pixels = image.double() / 255
    # Of 40 scenes, which differ: 0.06 is about four standard errors.
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(facts.mean).double(), rtol=0, atol=0.06)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.tensor(facts.std).double(), rtol=0, atol=0.06)


def test_training_and_validation_share_neither_digits_nor_places() -> None:
    train, val = (sources_of(split, 10) for split in ("train", "val"))
    assert (len(train.glyphs), len(val.glyphs)) == (1438, 359)
    for photograph, other in zip(train.photographs, val.photographs):
        columns = {photograph[:, i].tobytes() for i in range(photograph.shape[1])}
        assert not columns & {other[:, i].tobytes() for i in range(other.shape[1])}


def test_each_digit_has_its_pixels_and_no_other() -> None:
    sources = sources_of("train", 10)
    for seed in range(10):
        scene = make_scene(sources, 96, np.random.default_rng(seed))
        assert scene.pixels.sum(0).max() <= 1  # no digit lies on another
        for pixels, number in zip(scene.pixels, scene.classes):
            assert (scene.mask[pixels] == number).all()
        assert (scene.mask[~scene.pixels.any(0)] == 0).all()


def test_a_distractor_is_seen_and_has_no_class() -> None:
    """On a black photograph all colours belong to objects; some of them have no class in the mask."""
    sources = replace(sources_of("train", 10), photographs=[np.zeros((200, 200, 3), np.uint8)])
    without_class = 0
    for seed in range(10):
        scene = make_scene(sources, 96, np.random.default_rng(seed))
        coloured = scene.image.max(-1) > CONTRAST / 2
        assert (coloured & (scene.mask > 0)).sum() >= 0.9 * (scene.mask > 0).sum()
        without_class += (coloured & (scene.mask == 0)).sum()
    assert without_class > 1500  # soft edges of the digits are some 70 pixels a scene, a distractor some 500


def thresholded(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """More than a threshold can do: Otsu's level, and from the mask the better side and its commonest digit."""
    grey, digits = image.float().mean(0), mask[mask > 0]
    commonest = int(digits.mode().values) if len(digits) else 1
    shares = [(grey > level).float().mean() for level in range(256)]
    between = [
        float(share * (1 - share) * (grey[grey > level].mean() - grey[grey <= level].mean()) ** 2)
        if 0 < share < 1
        else 0
        for level, share in enumerate(shares)
    ]
    level = max(range(256), key=between.__getitem__)
    sides = [grey > level, grey <= level]
    return max(sides, key=lambda side: int((side & (mask == commonest)).sum()) / int(side.sum() + 1)) * commonest


def test_thresholding_stays_below_0_4(scenes: DigitScenes) -> None:
    image, mask = scenes.memory.splits["val"].values()
    metrics = MeanIoU(len(CLASSES))
    for one, truth in zip(image, mask):
        found = torch.nn.functional.one_hot(thresholded(one, truth), len(CLASSES)).movedim(-1, 0)
        metrics.update(found[None].float(), {"mask": truth[None]})
    assert metrics.compute()["miou"] < 0.4
    perfect = MeanIoU(len(CLASSES))
    perfect.update(torch.nn.functional.one_hot(mask, len(CLASSES)).movedim(-1, 1).float(), {"mask": mask})
    assert perfect.compute()["miou"] == 1  # the control


def test_fewer_digits_are_fewer_classes() -> None:
    data = DigitScenes(batch_size=8, num_train=30, num_val=1, num_digits=3, device="cpu")
    assert DigitScenes.facts(num_digits=3).class_names == ("background", "0", "1", "2")
    assert data.memory.splits["train"]["mask"].unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_train": 0}, r"data\.num_train=0 must be at least 1"),
        ({"num_digits": 11}, r"data\.num_digits=11 must be at most 10"),
        ({"image_size": 8}, r"data\.image_size=8 must be at least 32"),
        ({"sampler": "class_balanced"}, r"an image with a mask has no single class; type data\.sampler=shuffled"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DigitScenes(batch_size=8, **settings)
