"""How well boxes, or instance masks, are found: COCO's average precision, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plainloop.contracts import Batch
from plainloop.distributed import collectives

# The names of COCO's twelve numbers, in its order (https://cocodataset.org/#detection-eval); None is left out.
NAMES = ("map", "map50", "map75", "map_small", "map_medium", "map_large", None, None, "mar", None, None, None)

NO_SIZE = {"height": 0, "width": 0}  # of an image: only polygons need it, and compressed masks bring their own
Image = dict[str, Any]  # plain lists, so that ranks can send them to one another as JSON


class AveragePrecision:
    """Of the boxes: map, the mean over classes and over overlaps of 0.5, 0.55, ..., 0.95; map50 and map75, at one
    overlap; map_small, map_medium and map_large, of objects of less than 32 x 32, 96 x 96 and more pixels; mar, the
    mean share that is found by 100 detections; and ap/<name> for each of `names`. NaN where there is no such object.

    The batch gives boxes (B, N, 4), box_label and box_valid (B, N), and `index`; if it has them, box_crowd (B, N), for
    groups that count neither as found nor as missed; box_area (B, N), pixels of the object itself; and image_scale
    (B,), pixels of this image for each of the image file: areas are those of the file.

    Args:
        masks: measures `instance_mask` (B, N, H, W) in place of the boxes; each batch waits for the device then.
    """

    def __init__(self, num_classes: int, *, names: Sequence[str] = (), masks: bool = False) -> None:
        self.num_classes, self.names, self.masks = num_classes, names, masks
        self._seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self._segments: list[tuple[list[list[Any]], list[list[Any]]]] = []

    def update(self, prediction: Batch, batch: Batch) -> None:
        """Keeps both where they are; only masks are packed at once, because they are large."""
        wanted = ("boxes", "box_label", "box_valid", "box_crowd", "box_area", "box_score", "image_scale", "index")
        found, real = ({name: one[name].detach() for name in wanted if name in one} for one in (prediction, batch))
        self._seen.append((found, real))
        if self.masks:
            self._segments.append((packed(prediction), packed(batch)))

    def compute(self) -> dict[str, float]:
        """Collective: every rank gets the detections of all. Waits for the device."""
        own = [image for number in range(len(self._seen)) for image in self._images(number)]
        everywhere = [image for part in collectives.gather(own) for image in part]
        images = {image["index"]: image for image in everywhere}  # in the order of the data set, whatever the ranks
        return coco_values(
            [images[index] for index in sorted(images)], self.num_classes, names=self.names, masks=self.masks
        )

    def _images(self, number: int) -> list[Image]:
        found, real = ({name: tensor.cpu() for name, tensor in one.items()} for one in self._seen[number])
        images = []
        for row in range(len(real["index"])):
            scale = float(real["image_scale"][row]) if "image_scale" in real else 1.0
            image: Image = {"index": int(real["index"][row])}
            for side, one in (("found", found), ("real", real)):
                image[side] = columns(one, row, scale)
                if self.masks:
                    image[side]["segmentation"] = self._segments[number][side == "real"][row]
            images.append(image)
        return images


def columns(objects: Mapping[str, Tensor], row: int, scale: float) -> dict[str, list[Any]]:
    """The valid objects of one image, in pixels of its file, under COCO's names."""
    valid = objects["box_valid"][row]
    boxes = objects["boxes"][row][valid].double() / scale
    sizes = boxes[:, 2:] - boxes[:, :2]
    values = {
        "bbox": torch.cat([boxes[:, :2], sizes], dim=1),
        "category_id": objects["box_label"][row][valid],
        "area": objects["box_area"][row][valid] if "box_area" in objects else sizes.prod(1),
        "iscrowd": objects["box_crowd"][row][valid].int() if "box_crowd" in objects else valid[valid].int() * 0,
    }
    if "box_score" in objects:
        values["score"] = objects["box_score"][row][valid].double()
    return {name: value.tolist() for name, value in values.items()}


def coco_values(
    images: Sequence[Mapping[str, Any]], num_classes: int, *, names: Sequence[str] = (), masks: bool = False
) -> dict[str, float]:
    from faster_coco_eval import COCO, COCOeval_faster

    annotations = [one for image in images for one in entries(image, "real")]
    for number, one in enumerate(annotations, start=1):
        one["id"] = number
    categories = [{"id": number, "name": str(number)} for number in range(num_classes)]
    real = COCO(
        {
            "images": [{"id": image["index"]} | NO_SIZE for image in images],
            "annotations": annotations,
            "categories": categories,
        }
    )
    found = real.loadRes([one for image in images for one in entries(image, "found")])
    evaluation = COCOeval_faster(real, found, iouType="segm" if masks else "bbox", print_function=silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    values = {name: known(value) for name, value in zip(NAMES, evaluation.stats, strict=False) if name}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (overlaps, recalls, classes): all sizes, 100 detections
    for number, name in enumerate(names):
        of_class = precision[:, :, number]
        values[f"ap/{name}"] = float(of_class[of_class > -1].mean()) if (of_class > -1).any() else math.nan
    return values


def silent(*_: Any) -> None:
    """In place of the table that COCO's code prints after each evaluation."""


def entries(image: Mapping[str, Any], side: str) -> list[dict[str, Any]]:
    """COCO's form: one dict for each object."""
    objects = image[side]
    return [
        {"image_id": image["index"]} | {name: values[i] for name, values in objects.items()}
        for i in range(len(objects["bbox"]))
    ]


def known(value: float) -> float:
    """COCO says -1 where there is nothing to measure."""
    return math.nan if value == -1 else float(value)


def packed(batch: Batch) -> list[list[Any]]:
    """The valid instance masks of each image in COCO's compressed form. Waits for the device."""
    from faster_coco_eval import mask

    rows = []
    for masks, valid in zip(batch["instance_mask"].cpu(), batch["box_valid"].cpu(), strict=True):
        shapes = masks[valid].to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        codes = mask.encode(np.asfortranarray(shapes)) if shapes.shape[-1] else []
        rows.append([{"size": code["size"], "counts": _text(code["counts"])} for code in codes])
    return rows


def _text(counts: Any) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts
