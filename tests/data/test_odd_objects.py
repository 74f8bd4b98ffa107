"""Entries of annotation files that would be learned wrongly without a word, or end in a traceback."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from plainloop.data.boxes.coco import CocoBoxes
from plainloop.errors import BadData
from tests.data.test_odd_boxes import coco
from tests.harness.annotated import SIZE, as_coco
from tests.harness.photos import photograph


def turned_by_exif(root: Path) -> Image.Image:
    picture = photograph(SIZE)
    exif = picture.getexif()
    exif[0x0112] = 6
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.jpg"):
        picture.save(root / "JPEGImages" / name, exif=exif, quality=95)
    return picture


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_boxes_are_for_pixels_as_stored_whatever_exif_says(cache: Any, tmp_path: Path) -> None:
    picture = turned_by_exif(coco(tmp_path, as_coco()))
    data = CocoBoxes(
        root=str(tmp_path), batch_size=1, num_workers=0, image_size=80, device="cpu", cache=cache, val_fraction=0.3
    )
    stored = pil_to_tensor(picture)
    for batch in data.eval_batches("val"):
        assert (batch["image"][0, :, :60].float() - stored).abs().mean() < 8


def test_sizes_of_the_turned_image_end_the_run_and_the_message_names_exif(tmp_path: Path) -> None:
    content = as_coco()
    for image in content["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    turned_by_exif(coco(tmp_path, content))
    data = CocoBoxes(root=str(tmp_path), batch_size=1, num_workers=0, device="cpu", val_fraction=0.3)
    with pytest.raises(BadData, match=r"has 80 x 60 pixels, which its EXIF turns on the side, and .* for 60 x 80") as e:
        list(data.eval_batches("val"))
    assert "mogrify -auto-orient" in e.value.hint
