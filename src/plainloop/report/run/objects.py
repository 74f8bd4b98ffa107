"""Pictures of objects beside what was detected, with what was found, missed and invented in colours of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from plainloop.contracts import Sample
from plainloop.report.pictures import NOT_COUNTED, UNCOUNTED, Colour, drawn, not_drawn
from plainloop.run_dir.evaluation import Evaluation
from plainloop.tasks.boxes.matches import LEFT_OUT, RIGHT, matches_of

# Which colour-blind people can tell apart (Okabe and Ito 2008).
FOUND, MISSED, INVENTED = (86, 180, 233), (213, 94, 0), (240, 228, 66)
KEY = ((FOUND, "found"), (MISSED, "missed"), (INVENTED, "invented"), (UNCOUNTED, NOT_COUNTED))
ABOUT = (
    "On the left the objects, on the right the detections. The worst image has the most missed and invented: each "
    "object counts 1 less the score of the detection that finds it, and each other detection counts its score."
)

NEEDED = {"boxes": 3, "box_label": 2, "box_valid": 2, "predicted_boxes": 3, "predicted_box_label": 2}
NEEDED |= {"predicted_box_score": 2, "predicted_box_valid": 2}
OPTIONAL = ("box_crowd", "box_difficult")


def has_objects(found: Evaluation) -> bool:
    """Whether its worst images can be drawn so; the file may be somebody else's."""
    worst = found.worst
    fits = all(name in worst and worst[name].ndim == ndim for name, ndim in NEEDED.items())
    fits = fits and worst["boxes"].shape[-1] == worst["predicted_boxes"].shape[-1] == 4
    for kind in ("", "predicted_"):
        shapes = (
            {worst[name].shape[:2] for name in NEEDED if name.startswith("predicted_") == bool(kind)} if fits else ()
        )
        fits = fits and len(set(shapes)) == 1
    return fits and all(worst[name].shape == worst["boxes"].shape[:2] for name in OPTIONAL if name in worst)


def pair(
    found: Evaluation, row: int, sample: Sample, class_names: Sequence[str], *, side: int
) -> tuple[list[Image.Image], list[str]]:
    """The objects and the detections of one of the worst images, and what to say of them."""
    real: dict[str, Tensor] = {name: found.worst[name][row] for name in (*OPTIONAL, *NEEDED) if name in found.worst}
    said = {name: real.pop(f"predicted_{name}") for name in ("boxes", "box_label", "box_valid", "box_score")}
    real, said = _of_classes(real, len(class_names)), _of_classes(said, len(class_names))
    said["box_valid"] &= said["box_score"] >= (found.details.least_score or 0.0)
    matches = matches_of(*({name: entry[None] for name, entry in one.items()} for one in (said, real)))
    found_by, counted, kind = matches.found_by[0], matches.counted[0], matches.kind[0]
    is_found = counted & (found_by < len(said["boxes"]))
    of_objects = [_colour(bool(hit), bool(here)) for hit, here in zip(is_found, counted, strict=True)]
    of_said = [{RIGHT: FOUND, LEFT_OUT: UNCOUNTED}.get(int(one), INVENTED) for one in kind]
    size = (slice(0, sample["image"].shape[-2]), slice(0, sample["image"].shape[-1]))
    pictures = []
    for one, colours, name in ((real, of_objects, "instances"), (said, of_said, "predicted_instances")):
        numbers = found.worst.get(name)
        masks = {}
        if numbers is not None and numbers.shape[1:] == found.worst["image"].shape[-2:]:
            masks = {"instance_mask": numbers[row][size] == torch.arange(1, len(one["boxes"]) + 1)[:, None, None]}
        pictures.append(drawn(sample | one | masks, class_names, side=side, colours=colours))
    invented = int(((kind != RIGHT) & (kind != LEFT_OUT)).sum())
    num_found, num_objects = int(is_found.sum()), int(counted.sum())
    words = [f"{num_objects - num_found} of {num_objects} missed, {invented} invented"]
    return pictures, words + not_drawn(int(said["box_valid"].sum()))


def _of_classes(objects: Sample, num_classes: int) -> dict[str, Any]:
    """Without labels of no class."""
    label = objects["box_label"]
    valid = objects["box_valid"].bool() & (label >= 0) & (label < num_classes)
    boxes = objects["boxes"].float().nan_to_num(0.0, 0.0, 0.0).clamp(-1e5, 1e5)
    return {**objects, "boxes": boxes, "box_label": label.long().clamp(0, max(0, num_classes - 1)), "box_valid": valid}


def _colour(is_found: bool, is_counted: bool) -> Colour:
    return FOUND if is_found else MISSED if is_counted else UNCOUNTED
