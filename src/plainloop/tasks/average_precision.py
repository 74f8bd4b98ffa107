"""How well boxes, instance masks, or both are found: COCO's average precision, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plainloop.contracts import Batch
from plainloop.distributed import collectives
from plainloop.tasks.boxes.details import class_precisions, details_of, precision_curves
from plainloop.tasks.boxes.resampled import coco_resampled
from plainloop.tasks.boxes.runs import Code, codes_of
from plainloop.tasks.details import BOX, Details

# The names of COCO's twelve numbers, in its order (https://cocodataset.org/#detection-eval); None is left out.
NAMES = ("map", "map50", "map75", "map_small", "map_medium", "map_large", None, None, "mar", None, None, None)
NO_SIZE = {"height": 0, "width": 0}  # of an image: only polygons need it, and compressed masks bring their own

Kind = Literal["boxes", "masks"]
Rows = NDArray[np.float64]  # (objects, COLUMNS)
COLUMNS = ("index", "label", "x", "y", "width", "height", "area", "crowd", "score")  # area: NaN if not given
Codes = list[Code]  # of masks, one for each row; empty where only boxes are measured


class AveragePrecision:
    """Of the boxes: map, the mean over classes and over overlaps of 0.5, 0.55, ..., 0.95; map50 and map75, at one
    overlap; map_small, map_medium and map_large, of objects of less than 32 x 32, 96 x 96 and more pixels; mar, the
    mean share that is found by 100 detections; and ap/<name> for each of `names`. NaN where there is no such object.

    The batch gives boxes (B, N, 4), box_label and box_valid (B, N), and `index`; if it has them, box_crowd (B, N), for
    groups that count neither as found nor as missed; box_area (B, N), pixels of the object itself; and image_scale
    (B,), pixels of this image for each of the image file: all is measured in pixels of the file.

    Args:
        kinds: "masks" measures `instance_mask` (B, N, H, W), and each image waits for the device; with both, box_map,
            box_map50 and so on are those of the boxes. Masks are brought to the file's `image_size`, if the batch has
            it, as `predict` does; and `instance_runs`, if it has them, are the objects' own outlines there.
        class_names: for `details`; numbers without them.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        names: Sequence[str] = (),
        kinds: Sequence[Kind] = ("boxes",),
        class_names: Sequence[str] = (),
    ) -> None:
        self.num_classes, self.names, self.kinds = num_classes, names, tuple(kinds)
        self.class_names = tuple(class_names) or tuple(map(str, range(num_classes)))
        self._evaluations: dict[str, Any] = {}  # of each kind, by what its names begin with; after `compute`
        self._indices: list[int] = []  # of the images, then
        self._seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self._codes: list[tuple[Codes, Codes]] = []

    def update(self, prediction: Batch, batch: Batch) -> None:
        """Keeps both where they are; only masks are packed at once, because they are large."""
        wanted = ("boxes", "box_label", "box_valid", "box_crowd", "box_area", "box_score", "image_scale", "index")
        found, real = ({name: one[name].detach() for name in wanted if name in one} for one in (prediction, batch))
        self._seen.append((found, real))
        if "masks" in self.kinds:
            self._codes.append((codes_of(prediction, batch), codes_of(batch, batch)))

    def compute(self) -> dict[str, float]:
        """Collective: every rank gets the detections of all. Waits for the device."""
        seen = [tuple({name: t.cpu() for name, t in one.items()} for one in pair) for pair in self._seen]
        index = [real["index"].double()[:, None] for _, real in seen] or [torch.zeros(0, 1, dtype=torch.float64)]
        self._indices = np.unique(collectives.gather_rows(torch.cat(index)).numpy()).astype(int).tolist()
        found, real = (
            everywhere([rows_of(pair[side], pair[1]) for pair in seen], [codes[side] for codes in self._codes])
            for side in (0, 1)
        )
        values: dict[str, float] = {}
        for kind in self.kinds:
            evaluation = coco_evaluation(self._indices, found, real, self.num_classes, kind=kind)
            prefix = BOX if kind == "boxes" and len(self.kinds) > 1 else ""
            values |= {prefix + name: value for name, value in values_of(evaluation, names=self.names).items()}
            self._evaluations[prefix] = evaluation
        return values

    def details(self) -> Details:
        """Collective. Precision is that of the first kind; objects are found by their boxes, also with masks."""
        evaluation = next(iter(self._evaluations.values()))
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # as in `values_of`
        recalls, of_masks = evaluation.params.recThrs.tolist(), self.kinds[0] == "masks"
        of_class = {"AP 0.5": precision[:1], "AP 0.75": precision[5:6], "AP": precision}
        lines = {overlap: class_precisions(precision[i], self.class_names) for overlap, i in ((0.5, 0), (0.75, 5))}
        return details_of(
            self._seen,
            self.class_names,
            average_precision={
                name: [mean_of_known(part[:, :, i]) for i in range(self.num_classes)] for name, part in of_class.items()
            },
            curves=[
                precision_curves(one, recalls, overlap=overlap, of_masks=of_masks)
                for overlap, one in lines.items()
                if one
            ],
            of_masks=of_masks,
        )

    def resampled(self, times: Callable[[Any], Any]) -> dict[str, Any]:
        how_often = times(np.array(self._indices))
        values: dict[str, Any] = {}
        for prefix, evaluation in self._evaluations.items():
            found = coco_resampled(evaluation, self._indices, how_often, self.names)
            values |= {prefix + name: of_sets for name, of_sets in found.items()}
        return values


def rows_of(objects: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> Tensor:
    """(n, COLUMNS): the valid objects of a batch, image by image, in pixels of the files. `real` has the index."""
    scale = real["image_scale"].double() if "image_scale" in real else real["index"].new_ones((), dtype=torch.float64)
    corners = objects["boxes"].double() / scale.view(-1, 1, 1)
    none = torch.zeros_like(corners[..., 0])
    columns = (
        real["index"][:, None] + none,
        objects["box_label"],
        *corners[..., :2].unbind(-1),
        *(corners[..., 2:] - corners[..., :2]).unbind(-1),
        objects.get("box_area", none + math.nan),
        objects.get("box_crowd", none),
        objects.get("box_score", none),
    )
    return torch.stack([column.double() for column in columns], dim=-1)[objects["box_valid"]]


def everywhere(rows: Sequence[Tensor], codes: Sequence[Codes]) -> tuple[Rows, Codes]:
    """Of all batches of all ranks, in the order of the data set, whatever the ranks. Collective."""
    every = collectives.gather_rows(torch.cat([torch.zeros(0, len(COLUMNS), dtype=torch.float64), *rows])).numpy()
    masks = [one for part in collectives.gather([one for batch in codes for one in batch]) for one in part]
    order = every[:, 0].argsort(kind="stable")
    return every[order], [masks[i] for i in order] if masks else []


def coco_evaluation(
    images: Sequence[int], found: tuple[Rows, Codes], real: tuple[Rows, Codes], num_classes: int, *, kind: Kind
) -> Any:
    """COCO's own code, after it has measured these images."""
    from faster_coco_eval import COCO, COCOeval_faster

    objects = entries(*real, kind=kind)
    for number, one in enumerate(objects, start=1):
        one["id"] = number
    categories = [{"id": number, "name": str(number)} for number in range(num_classes)]
    truth = COCO(
        {"images": [{"id": index} | NO_SIZE for index in images], "annotations": objects, "categories": categories}
    )
    detections = entries(*found, kind=kind)
    areas = [one["area"] for one in detections]
    result = truth.loadRes(detections)
    for one, area in zip(result.dataset["annotations"], areas, strict=True):  # it has put those of boxes there
        one["area"] = area
    type_ = "segm" if kind == "masks" else "bbox"
    evaluation = COCOeval_faster(truth, result, iouType=type_, print_function=silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def entries(rows: Rows, codes: Codes, *, kind: Kind) -> list[dict[str, Any]]:
    """COCO's form: one dict for each object."""
    from faster_coco_eval import mask

    sizes = mask.area(codes) if kind == "masks" and codes else rows[:, 4] * rows[:, 5]
    areas = np.where(np.isnan(rows[:, 6]), sizes, rows[:, 6]).tolist()
    objects = [
        {"image_id": int(row[0]), "category_id": int(row[1]), "bbox": row[2:6], "area": area}
        | {"iscrowd": int(row[7]), "score": row[8]}
        for row, area in zip(rows.tolist(), areas, strict=True)
    ]
    if kind == "masks":
        for one, code in zip(objects, codes, strict=True):
            one["segmentation"] = code
    return objects


def values_of(evaluation: Any, *, names: Sequence[str] = ()) -> dict[str, float]:
    values = {name: known(value) for name, value in zip(NAMES, evaluation.stats, strict=False) if name}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (overlaps, recalls, classes): all sizes, 100 detections
    for number, name in enumerate(names):
        values[f"ap/{name}"] = mean_of_known(precision[:, :, number])
    return values


def mean_of_known(precision: Any) -> float:
    """Over overlaps and recalls; NaN where there is no object."""
    return float(precision[precision > -1].mean()) if (precision > -1).any() else math.nan


def known(value: float) -> float:
    """COCO says -1 where there is nothing to measure."""
    return math.nan if value == -1 else float(value)


def silent(*_: Any) -> None:
    """In place of the table that COCO's code prints after each evaluation."""
