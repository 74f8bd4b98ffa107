"""One class per pixel: sums of losses, auxiliary heads, evaluation at full size, mean intersection over union."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.contracts import Batch, Scalars
from plainloop.tasks import mask_losses
from plainloop.tasks.class_weights import balanced, check_class_weights
from plainloop.tasks.iou import MeanIoU

LOSSES = ("cross_entropy", "dice", "lovasz", "focal", "ohem")


class Segmentation:
    """Reads `image` (B, C, H, W) and `mask` (B, H, W): class numbers int64, and IGNORE (255) where there is no class.

    The model gives logits (B, num_classes, h, w) of any size, which are enlarged to the mask's; in training it may give
    a list, the logits first and then those of auxiliary heads. Losses and metrics are computed in float32.

    Args:
        losses: the weight of each loss in the sum; 0 leaves it out. Over ranks and micro-batches cross entropy is an
            exact mean; dice, lovasz and ohem are computed in each of these parts, and averaged; focal is exact without
            class weights.
        label_smoothing: of cross entropy, in [0, 1).
        class_weights: how many pixels one of each class counts for in cross entropy and ohem, and how many classes each
            counts for in dice and focal. "balanced": inverse to `class_counts`, with the mean 1.
        class_counts: training samples, or pixels, of each class; needed for "balanced" alone.
        focal_gamma: 0 counts all pixels alike; the paper has 2.
        ohem_threshold, ohem_min_kept: pixels whose class has at most this probability are kept, and at least this share
            of all.
        aux_weights: the weight of the loss of each auxiliary head.
        loss_at: "image" enlarges logits to the mask; "logits" reduces the mask to them, which is faster and worse.
        tta_scales, tta_flip: evaluation averages the probabilities of the image at these scales, and mirrored too.
        window: pixels; evaluation moves a square of this size over larger images. None: the image as a whole.
        window_stride: pixels from one window to the next; None: two thirds of the window.
        class_names: of the data, in the order of the classes; needed for `per_class`.
        per_class: adds iou/<class name> for each class to every evaluation.
    """

    monitor = "miou"
    mode: Literal["max", "min"] = "max"
    changes_no_result = ("class_counts",)  # the data's facts are compared

    def __init__(
        self,
        *,
        num_classes: int,
        losses: Mapping[str, float] | None = None,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        class_counts: Sequence[int] | None = None,
        focal_gamma: float = 2.0,
        ohem_threshold: float = 0.7,
        ohem_min_kept: float = 0.0625,
        aux_weights: Sequence[float] = (),
        loss_at: Literal["image", "logits"] = "image",
        tta_scales: Sequence[float] = (1.0,),
        tta_flip: bool = False,
        window: int | None = None,
        window_stride: int | None = None,
        class_names: Sequence[str] | None = None,
        per_class: bool = False,
    ) -> None:
        if not 2 <= num_classes <= 255:
            raise ValueError(f"task.num_classes={num_classes} must be 2 to 255; the background is a class, too")
        if class_weights == "balanced":
            class_weights = balanced(class_counts)
        if class_weights is not None:
            check_class_weights(class_weights, num_classes)
        weights = {"cross_entropy": 1.0} if losses is None else dict(losses)
        if unknown := weights.keys() - set(LOSSES):
            raise ValueError(f"task.losses has no {', '.join(sorted(unknown))}; it has {', '.join(LOSSES)}")
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"task.losses.{name}={weight} must be 0 or more")
        if not any(weights.values()):
            raise ValueError(f"task.losses={weights} needs one of them above 0")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing={label_smoothing} must be 0 or more and below 1; 0.1 is usual")
        for key, value in (("ohem_threshold", ohem_threshold), ("ohem_min_kept", ohem_min_kept)):
            if not 0 <= value <= 1:
                raise ValueError(f"task.{key}={value} must lie between 0 and 1")
        if focal_gamma < 0:
            raise ValueError(f"task.focal_gamma={focal_gamma} must be 0 or more; 2 is usual")
        if not tta_scales or min(tta_scales) <= 0:
            raise ValueError(f"task.tta_scales={list(tta_scales)} must be factors above 0, such as [0.75,1,1.25]")
        stride = window_stride if window_stride is not None or window is None else max(1, window * 2 // 3)
        if stride is not None and (window is None or not 1 <= stride <= window):
            raise ValueError(f"task.window_stride={stride} must lie between 1 and task.window={window}")
        if per_class and (class_names is None or len(class_names) != num_classes):
            raise ValueError(
                f"task.per_class=true needs {num_classes} names: task.class_names='${{facts.class_names}}'"
            )
        settings: dict[str, dict[str, float]] = {
            "cross_entropy": {"label_smoothing": label_smoothing},
            "focal": {"gamma": focal_gamma},
            "ohem": {"threshold": ohem_threshold, "min_kept": ohem_min_kept},
        }
        self.losses = {
            name: (weight, functools.partial(getattr(mask_losses, name), **settings.get(name, {})))
            for name, weight in weights.items()
            if weight
        }
        self.num_classes = num_classes
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.aux_weights = tuple(aux_weights)
        self.loss_at = loss_at
        self.tta_scales, self.tta_flip = tuple(tta_scales), tta_flip
        self.window, self.window_stride = window, stride
        self.names = tuple(class_names) if per_class and class_names else ()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Scalars]:
        """Scalars: "loss"; each loss by its name and "aux", where there is more than one; "pixel_accuracy"."""
        mask = batch["mask"]
        main, *auxiliary = self._outputs(model, batch["image"])
        parts = self._losses(main, mask)
        total = torch.stack([self.losses[name][0] * part for name, part in parts.items()]).sum()
        scalars = {name: part.detach() for name, part in parts.items()} if len(parts) > 1 else {}
        if auxiliary:
            of_heads = [
                weight * self.losses[name][0] * part
                for weight, logits in zip(self.aux_weights, auxiliary, strict=True)
                for name, part in self._losses(logits, mask).items()
            ]
            scalars["aux"] = torch.stack(of_heads).sum().detach()
            total = total + torch.stack(of_heads).sum()
        with torch.no_grad():
            sized = reduced(mask, main)
            right = (main.argmax(1) == sized).sum() / (sized != mask_losses.IGNORE).sum().clamp(min=1)
        return total, {"loss": total.detach()} | scalars | {"pixel_accuracy": right}

    def weight(self, batch: Batch) -> Tensor:
        """Labelled pixels, or the sum of the weights of their classes."""
        return self._pixel_weights(batch["mask"]).sum()

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (B, num_classes, H, W) of the mask's size, or of the image's where there is none; averages of several
        views are logarithms of probabilities.
        """
        image = batch["image"]
        size = tuple(batch["mask"].shape[-2:]) if "mask" in batch else tuple(image.shape[-2:])
        views = [(scale, mirrored) for scale in self.tta_scales for mirrored in (False, True)[: 1 + self.tta_flip]]
        if views == [(1.0, False)]:
            return enlarged(self._whole(model, image), size)
        total = torch.zeros((), device=image.device)
        for scale, mirrored in views:
            seen = enlarged(image, tuple(max(1, round(scale * side)) for side in image.shape[-2:]))
            logits = self._whole(model, seen.flip(-1) if mirrored else seen)
            logits = enlarged(logits.flip(-1) if mirrored else logits, size)
            total = total + logits.float().softmax(1) / len(views)
        return total.clamp(min=torch.finfo(torch.float32).tiny).log()

    def output_problem(self, output: Any, batch: Batch) -> str:
        main, *auxiliary = output if isinstance(output, list | tuple) and output else (output,)
        number, classes = batch["image"].shape[0], self.num_classes  # len() would fix the batch of an exported model
        fits = [
            isinstance(one, Tensor) and one.ndim == 4 and one.shape[:2] == (number, classes)
            for one in (main, *auxiliary)
        ]
        if not all(fits):
            got = tuple(main.shape) if isinstance(main, Tensor) else f"a {type(main).__name__}"
            return (
                f"the model gives {got} for a batch of {number} images, expected logits ({number}, {classes}, height, "
                f"width); for masks there are model=tiny_seg, unet, deeplabv3plus and others"
            )
        if auxiliary and len(auxiliary) != len(self.aux_weights):
            ones = ",".join("1" for _ in auxiliary)
            return (
                f"the model has {len(auxiliary)} auxiliary heads, and task.aux_weights={list(self.aux_weights)} has "
                f"{len(self.aux_weights)} weights; type task.aux_weights=[{ones}]"
            )
        return ""

    def results(self, prediction: Tensor, batch: Batch) -> Batch:
        """`mask` (B, H, W): the class of each pixel."""
        return {"mask": prediction.argmax(1)}

    def metrics(self) -> MeanIoU:
        return MeanIoU(self.num_classes, names=self.names)

    def _outputs(self, model: nn.Module, image: Tensor) -> list[Tensor]:
        """The model's logits and in training its auxiliary heads'. Raises ValueError where they do not fit."""
        output = model(image)
        problem = self.output_problem(output, {"image": image})
        if not problem and model.training and self.aux_weights and isinstance(output, Tensor):
            weights = list(self.aux_weights)
            problem = f"task.aux_weights={weights}, and the model has no auxiliary heads; type task.aux_weights=[]"
        if problem:
            raise ValueError(problem)
        return [logits.float() for logits in ([output] if isinstance(output, Tensor) else output)]

    def _losses(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        class_weights = self._weights_at(mask)
        if self.loss_at == "image":
            logits = enlarged(logits, tuple(mask.shape[-2:]))
        sized = reduced(mask, logits)
        parts = {name: loss(logits, sized, class_weights) for name, (_, loss) in self.losses.items()}
        if sized is mask:
            return parts
        # The loop counts a part of the batch by the pixels of its whole mask, of which the reduced one is a sample.
        counted, whole = self._pixel_weights(sized).sum() / sized.numel(), self.weight({"mask": mask}) / mask.numel()
        return {name: part * counted / mask_losses.at_least_tiny(whole) for name, part in parts.items()}

    def _whole(self, model: nn.Module, image: Tensor) -> Tensor:
        """Logits of an image, as the model gives them, or of the image's size, averaged over windows."""
        if self.window is None or self.window_stride is None or max(image.shape[-2:]) <= self.window:
            return self._outputs(model, image)[0]
        total = image.new_zeros(image.shape[0], self.num_classes, *image.shape[-2:])
        times = image.new_zeros(1, 1, *image.shape[-2:])
        for rows in windows(image.shape[-2], self.window, self.window_stride):
            for columns in windows(image.shape[-1], self.window, self.window_stride):
                part = image[..., rows, columns]
                total[..., rows, columns] += enlarged(self._outputs(model, part)[0], tuple(part.shape[-2:]))
                times[..., rows, columns] += 1
        return total / times

    def _pixel_weights(self, mask: Tensor) -> Tensor:
        return mask_losses.pixel_weights(mask, self._weights_at(mask), self.num_classes)

    def _weights_at(self, mask: Tensor) -> Tensor | None:
        """The class weights where the masks are; they move there with the first batch and stay."""
        if self.class_weights is not None and self.class_weights.device != mask.device:
            self.class_weights = self.class_weights.to(mask.device, non_blocking=True)
        return self.class_weights


def enlarged(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) of this height and width, bilinear."""
    if tuple(values.shape[-2:]) == size:
        return values
    return F.interpolate(values, size, mode="bilinear", align_corners=False)


def reduced(mask: Tensor, logits: Tensor) -> Tensor:
    """The mask (B, H, W) of the size of the logits: the class in the middle of each of their places."""
    if mask.shape[-2:] == logits.shape[-2:]:
        return mask
    return F.interpolate(mask[:, None].float(), logits.shape[-2:], mode="nearest-exact")[:, 0].long()


def windows(length: int, window: int, stride: int) -> Iterator[slice]:
    """Parts of a side, each of the window's length; the last one ends where the side ends.

    >>> [(part.start, part.stop) for part in windows(10, 4, 3)], list(windows(3, 4, 3))
    ([(0, 4), (3, 7), (6, 10)], [slice(0, 3, None)])
    """
    for start in range(0, max(length - window, 0) + stride, stride):
        start = max(0, min(start, length - window))
        yield slice(start, min(start + window, length))
        if start + window >= length:
            return
