"""Boxes around objects, and their masks if the model gives any: the model's own losses, average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from plainloop.contracts import Batch, Scalars
from plainloop.errors import BadConfig, BadData
from plainloop.tasks.average_precision import AveragePrecision, Kind
from plainloop.tasks.boxes.inside import inside
from plainloop.tasks.voc_precision import VocPrecision

OBJECTS = ("boxes", "box_label", "box_valid", "instance_mask")  # what a detector learns from, beside the image
KINDS: dict[str, tuple[Kind, ...]] = {"coco": ("boxes",), "masks": ("masks",), "both": ("masks", "boxes")}
MEASURES = (*KINDS, "voc", "voc_11")


class Detection:
    """Reads `image` (B, C, H, W), `boxes` (B, N, 4), `box_label` and `box_valid` (B, N), and `instance_mask`
    (B, N, H, W) where `measure` is masks or both.

    The model gives a dict of losses, each a mean over the images, for model(image, objects); and for model(image) its
    detections as a batch: the same entries, and box_score (B, N). Objects with box_crowd are not learned from.

    Args:
        losses: the weight of each of the model's losses in the sum; those that are not named weigh 1.
        measure: "coco": COCO's average precision of boxes; "masks": of instance masks; "both": of masks, and of boxes
            as box_map, box_map50 and so on; "voc": Pascal VOC's of boxes, "voc_11" as in 2007.
        class_names: of the data, in the order of the classes; for the report, and needed for `per_class`.
        per_class: adds ap/<class name> for each class to every evaluation.
    """

    monitor = "map"
    mode: Literal["max", "min"] = "max"

    def __init__(
        self,
        *,
        num_classes: int,
        losses: Mapping[str, float] | None = None,
        measure: Literal["coco", "masks", "both", "voc", "voc_11"] = "coco",
        class_names: Sequence[str] | None = None,
        per_class: bool = False,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"task.num_classes={num_classes} must be 1 or more")
        for name, weight in (losses or {}).items():
            if weight < 0:
                raise ValueError(f"task.losses.{name}={weight} must be 0 or more")
        if measure not in MEASURES:
            raise ValueError(f"task.measure={measure!r} must be one of {', '.join(MEASURES)}")
        if per_class and (class_names is None or len(class_names) != num_classes):
            raise ValueError(
                f"task.per_class=true needs {num_classes} names: task.class_names='${{facts.class_names}}'"
            )
        self.num_classes, self.losses, self.measure = num_classes, dict(losses or {}), measure
        self.class_names = tuple(class_names or ())
        self.names = self.class_names if per_class else ()
        self.has_masks = "masks" in KINDS.get(measure, ())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Scalars]:
        """Scalars: "loss", and each of the model's losses by its name. Raises BadData without masks that it needs."""
        if self.has_masks and "instance_mask" not in batch:
            raise BadData(
                f"task.measure={self.measure} measures masks of objects, and the data give only boxes",
                hint="type data.instance_masks=true; or task=detection where objects have no outlines (data=voc_boxes)",
            )
        objects = {name: batch[name] for name in OBJECTS if name in batch}
        if "box_crowd" in batch:
            objects["box_valid"] = objects["box_valid"] & ~batch["box_crowd"]
        parts: dict[str, Tensor] = model(batch["image"], objects)
        if unknown := self.losses.keys() - parts.keys():
            what = f"task.losses: the model has no {', '.join(sorted(unknown))}; it has {', '.join(parts)}"
            name = (*get_close_matches(min(unknown), parts), *parts)[0]
            raise BadConfig(what, hint=f"task.losses.{name}=0.5 weighs one of them")
        total = torch.stack([self.losses.get(name, 1.0) * part.float() for name, part in parts.items()]).sum()
        return total, {"loss": total.detach()} | {name: part.detach() for name, part in parts.items()}

    def weight(self, batch: Batch) -> Tensor:
        """Images."""
        return batch["boxes"].new_full((), len(batch["boxes"]), dtype=torch.float32)

    def predict(self, model: nn.Module, batch: Batch) -> Batch:
        """Detections, the best first, in pixels of the images; cut off at the edges of the photographs."""
        found: Batch = model(batch["image"])
        if problem := self.output_problem(found, batch):
            raise ValueError(problem)
        return inside(found, batch)

    def results(self, prediction: Batch, batch: Batch) -> Batch:
        return prediction

    def output_problem(self, output: Any, batch: Batch) -> str:
        wanted = {"boxes", "box_label", "box_score", "box_valid"} | ({"instance_mask"} if self.has_masks else set())
        if isinstance(output, dict) and wanted <= output.keys():
            return ""
        lacks = ", ".join(sorted(wanted - output.keys())) if isinstance(output, dict) else "detections"
        instead = "mask_rcnn" if self.has_masks else "yolov3"
        return f"the model gives no {lacks}, which task.measure={self.measure} needs; type model={instead}"

    def metrics(self) -> AveragePrecision | VocPrecision:
        if kinds := KINDS.get(self.measure):
            return AveragePrecision(self.num_classes, names=self.names, kinds=kinds, class_names=self.class_names)
        points: Literal["11", "area"] = "11" if self.measure == "voc_11" else "area"
        return VocPrecision(self.num_classes, names=self.names, class_names=self.class_names, points=points)
