"""Several views of each image at test time (TTA): mirrored, at several scales, parts of it. Their outputs are averaged.

`Views` is a model around the model: it serves every task whose model gives one tensor, a row for each image, or a map
of the image. A task that averages views in its own way has the arguments `tta_flip` and `tta_scales`, and gets those.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.config.check.meta_model import example_batch
from plainloop.config.durations import clock_of
from plainloop.config.parts import make_part
from plainloop.config.targets import locate
from plainloop.config.types import signature_of
from plainloop.errors import BadConfig
from plainloop.run.trained.open import Trained

KINDS = ("flip", "multi_scale", "crops")
SCALES = (0.75, 1.0, 1.25)
OF_A_TASK: dict[str, dict[str, Any]] = {"flip": {"tta_flip": True}, "multi_scale": {"tta_scales": list(SCALES)}}
PART = 0.875  # of each side that a crop has; it is enlarged to the whole size, which every model takes


@dataclass(frozen=True)
class View:
    """One way to look at an image."""

    mirrored: bool = False
    scale: float = 1.0
    corner: int | None = None  # which part: one of four corners, 4 the middle; None: the whole image

    def of(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if self.mirrored:
            image = image.flip(-1)
        if self.corner is not None:
            rows, columns = max(1, round(PART * height)), max(1, round(PART * width))
            down, right = height - rows, width - columns
            top, left = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))[self.corner]
            image = image[..., top : top + rows, left : left + columns]
        return resized(image, tuple(max(1, round(self.scale * side)) for side in (height, width)))


def kinds_of(text: str | None) -> tuple[str, ...]:
    """What `tta=` names, in the order of KINDS. Raises BadConfig.

    >>> kinds_of("crops,flip"), kinds_of(None)
    (('flip', 'crops'), ())
    """
    named = [word.strip() for word in (text or "").strip("[]").split(",") if word.strip() not in ("", "none", "null")]
    if wrong := [word for word in named if word not in KINDS]:
        raise BadConfig(
            f"tta={text}: {', '.join(wrong)} is not known; expected {', '.join(KINDS)}, or several of them",
            hint="type tta=flip, or tta=flip,crops for ten crops",
        )
    return tuple(kind for kind in KINDS if kind in named)


def views_of(kinds: Sequence[str]) -> list[View]:
    """All combinations of the kinds."""
    mirrored = (False, True) if "flip" in kinds else (False,)
    scales = SCALES if "multi_scale" in kinds else (1.0,)
    corners = range(5) if "crops" in kinds else (None,)
    return [View(*view) for view in itertools.product(mirrored, scales, corners)]


class Views(nn.Module):
    """The mean of a model's outputs over views of the same images."""

    def __init__(self, model: nn.Module, kinds: Sequence[str]) -> None:
        super().__init__()
        self.model, self.kinds, self.views = model, kinds, views_of(kinds)

    def forward(self, image: Tensor) -> Tensor:
        total: Tensor | None = None
        for view in self.views:
            output = self._output(view, image)
            total = output if total is None else total + output
        assert total is not None
        return total / len(self.views)

    def _output(self, view: View, image: Tensor) -> Tensor:
        output = self.model(view.of(image))
        shown = f"tta={','.join(self.kinds)}"
        if not isinstance(output, Tensor) or output.ndim not in (2, 4):
            what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise BadConfig(
                f"{shown} averages outputs (B, C) or (B, C, H, W), and this model gives {what}",
                hint="leave tta out; a task of your own can average views, by arguments tta_flip and tta_scales",
            )
        if output.ndim == 2:
            return output.float()
        if view.corner is not None:
            raise BadConfig(
                f"{shown}: a part of an image has no map of the whole image, which this model gives",
                hint="type tta=flip or tta=multi_scale",
            )
        output = resized(output.float(), tuple(image.shape[-2:]))
        return output.flip(-1) if view.mirrored else output


def with_views(trained: Trained, kinds: Sequence[str]) -> Trained:
    """The model that averages such views; or its task, where that does it in its own way. Raises BadConfig."""
    config = trained.config
    if "boxes" in (example_batch(config) or {}):
        raise BadConfig(
            f"tta={','.join(kinds)}: there are no views for objects: boxes of several views have no mean",
            hint=f"leave tta={','.join(kinds)} out",
        )
    node = dict(config["task"])
    known = signature_of(locate(node["_target_"], config["plugins"])).parameters
    own = {kind: settings for kind, settings in OF_A_TASK.items() if settings.keys() <= known.keys()}
    if not own:
        return replace(trained, model=Views(trained.model, kinds))
    if other := [kind for kind in kinds if kind not in own]:
        raise BadConfig(
            f"tta={','.join(other)} is nothing that this task can average; it can average {' and '.join(own)}",
            hint=f"type tta={','.join(own)}",
        )
    for kind in kinds:
        node |= own[kind]
    config = config | {"task": node}
    return replace(trained, config=config, task=make_part(config, clock_of(config), "task"))


def is_trained_with_flips(config: Mapping[str, Any]) -> bool:
    """Whether some augmentation mirrors images left to right, as far as its name tells."""
    targets = [str(node.get("_target_", "")) for node in config["augment"].values() if isinstance(node, Mapping)]
    names = [target.rpartition(".")[2].lower() for target in targets]
    return any("flip" in name and "vertical" not in name for name in names)


def resized(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, C, H, W) of this height and width, bilinear, smoothed where it becomes smaller."""
    if tuple(values.shape[-2:]) == size:
        return values
    return F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)
