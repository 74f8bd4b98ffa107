"""The samples that a model does worst on, kept small and where the batches are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.contracts import IGNORE, Batch
from plainloop.distributed import collectives

MOST = 12
SIDE = 256  # pixels of the longer side of a kept image
MASKS, BOXES, INSTANCE_MASKS, INSTANCES = (
    [f"{kind}{name}" for kind in ("", "predicted_")] for name in ("mask", "boxes", "instance_mask", "instances")
)


class Worst:
    """The samples with the highest scores; of equal ones, those with the lowest index. Below 0, none is kept."""

    def __init__(self) -> None:
        self._kept: Batch = {}  # what was added, `score`, and `size`: height and width within the padded image

    def add(self, score: Tensor, entries: Batch) -> None:
        """`score` (B,); `entries` with `index` (B,) and `image` (B, C, H, W), uint8 or float in [0, 1]. Never waits.

        An entry instance_mask (B, N, H, W) is kept as one map `instances` (B, H, W) of the objects' numbers.
        """
        size, entries = _small_size(*entries["image"].shape[-2:]), dict(entries)
        for masks, name in zip(INSTANCE_MASKS, INSTANCES, strict=True):
            if masks in entries:
                entries[name] = numbered(entries.pop(masks), size)
        order = _order(score, entries["index"])[:MOST]
        chosen = {name: tensor[order] for name, tensor in entries.items()} | {"score": score[order].float()}
        chosen["image"] = _as_bytes(chosen["image"])
        chosen = _shrunk(chosen)
        if self._kept:
            both = {name: _joined(self._kept[name], chosen[name]) for name in chosen}
            order = _order(both["score"], both["index"])[:MOST]
            chosen = {name: tensor[order] for name, tensor in both.items()}
        self._kept = chosen

    def gathered(self) -> dict[str, Tensor]:
        """Those of all ranks, on the host, the worst first; {} for none. Waits for the device. Collective."""
        mine = {name: tensor.cpu() for name, tensor in self._kept.items()}
        there = mine["score"] >= 0 if mine else torch.zeros(0, dtype=torch.bool)
        mine = {name: tensor[there] for name, tensor in mine.items()}
        if collectives.world_size() == 1:
            return mine if mine and len(mine["index"]) else {}
        places = list(zip(mine["score"].tolist(), mine["index"].tolist())) if mine else []
        forms = {name: [str(tensor.dtype).removeprefix("torch."), *tensor.shape[1:]] for name, tensor in mine.items()}
        told = collectives.gather([places, forms])
        best = sorted((tuple(place) for places, _ in told for place in places), key=lambda place: (-place[0], place[1]))
        best = best[:MOST]
        # Each rank fills the places of its own samples; the sum has them all.
        slots = {index: slot for slot, (_, index) in enumerate(best)}
        rows = [(slots[index], row) for row, (_, index) in enumerate(places) if index in slots]
        found = {}
        for name in next((forms for _, forms in told if forms), {}):
            kinds = [forms[name] for _, forms in told if forms]
            shape = [max(sizes) for sizes in zip(*(kind[1:] for kind in kinds))]
            filled = torch.zeros(len(best), *shape, dtype=getattr(torch, kinds[0][0]))
            for slot, row in rows:
                part = mine[name][row]
                whole = tuple(slice(0, size) for size in part.shape)
                filled[slot][whole] = part
            found[name] = collectives.sum_(filled)
        return found if best else {}


def _order(score: Tensor, index: Tensor) -> Tensor:
    by_index = index.argsort()
    return by_index[torch.sort(score[by_index], descending=True, stable=True).indices]


def _as_bytes(image: Tensor) -> Tensor:
    return image if image.dtype == torch.uint8 else (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _shrunk(batch: Batch) -> Batch:
    """Large images are made smaller, with their masks, which become bytes, and boxes; `size`: how large they are."""
    height, width = batch["image"].shape[-2:]
    size = _small_size(height, width)
    sized = batch["index"].new_full((len(batch["index"]), 2), size[0])
    sized[:, 1] = size[1]
    small = batch | {"size": sized}
    for name, entry in small.items():
        if entry.dtype == torch.bool:
            small[name] = entry.to(torch.uint8)  # which ranks can add up
    for name in BOXES:
        if name in small:
            small[name] = small[name].float() * small[name].new_tensor([size[1] / width, size[0] / height] * 2)
    if size != (height, width):
        image = F.interpolate(batch["image"].float(), size, mode="bilinear", antialias=True, align_corners=False)
        small["image"] = image.round().clamp(0, 255).to(torch.uint8)
    for name in MASKS:
        if name in batch:
            mask = batch[name].to(torch.uint8)
            if tuple(mask.shape[-2:]) != size:
                mask = F.interpolate(mask[:, None].float(), size, mode="nearest-exact")[:, 0].to(torch.uint8)
            small[name] = mask
    return small


def _small_size(height: int, width: int) -> tuple[int, int]:
    factor = min(1.0, SIDE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def numbered(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, N, H, W) bool -> (B, *size) uint8: the number, from 1, of the first mask that has the pixel; 0 for none."""
    for side, length in zip((-2, -1), size, strict=True):  # first, because so many large masks need much memory
        if length != masks.shape[side]:
            places = (torch.arange(length, device=masks.device) + 0.5) * (masks.shape[side] / length)
            masks = masks.index_select(side, places.long())
    masks = masks[:, :254]
    none = masks.new_full((len(masks), 1, *size), 255, dtype=torch.uint8)  # for images without any mask, too
    numbers = torch.arange(1, masks.shape[1] + 1, dtype=torch.uint8, device=masks.device)[:, None, None]
    first = torch.cat([torch.where(masks, numbers, none), none], dim=1).amin(1)
    return torch.where(first == 255, 0, first)


def _joined(one: Tensor, other: Tensor) -> Tensor:
    """Both batches as one, filled up to the larger size where their images differ in size."""
    sizes = [max(pair) for pair in zip(one.shape[1:], other.shape[1:])]
    return torch.cat([_filled(one, sizes), _filled(other, sizes)])


def _filled(tensor: Tensor, sizes: list[int]) -> Tensor:
    if list(tensor.shape[1:]) == sizes:
        return tensor
    missing = [number for size, now in zip(reversed(sizes), reversed(tensor.shape[1:])) for number in (0, size - now)]
    return F.pad(tensor, missing, value=IGNORE if tensor.dtype == torch.uint8 and tensor.ndim == 3 else 0)
