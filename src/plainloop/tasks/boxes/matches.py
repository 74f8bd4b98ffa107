"""Which objects were found, and what became of each detection: for pictures and counts, beside average precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from plainloop.contracts import Batch

OVERLAP = 0.5  # intersection over union from which on a detection is at the object's place
NEAR = 0.1  # from which on it is badly placed, and not where nothing is (TIDE, https://arxiv.org/abs/2008.08115)

# What a detection is. The last is no mistake: it covers a crowd or a difficult object, or is padding.
RIGHT, WRONG_CLASS, AGAIN, BADLY_PLACED, NOTHING_THERE, LEFT_OUT = range(6)


@dataclass(frozen=True)
class Matches:
    """Of a batch with N objects and D detections in each image. A detection's number is its place; none is D."""

    kind: Tensor  # (B, D): RIGHT, WRONG_CLASS, ...
    counted: Tensor  # (B, N) bool: objects that are neither padding nor a crowd nor difficult
    found_by: Tensor  # (B, N): the detection that finds the object
    found_score: Tensor  # (B, N): its score; -1 for none
    overlap: Tensor  # (B, N): with that detection; 0 for none
    taken_by: Tensor  # (B, N): the surest detection of another class at the object's place
    taken_score: Tensor  # (B, N)


def matches_of(found: Batch, real: Batch) -> Matches:
    """A detection finds the object of its class that it overlaps most, by OVERLAP or more; of several, the surest one.

    So the result for the detections above any score is the same without the others. Never waits for the device.
    """
    boxes, others = F.pad(found["boxes"].detach(), (0, 0, 0, 1)), F.pad(real["boxes"], (0, 0, 0, 1))  # D, N may be 0
    label, score = F.pad(found["box_label"], (0, 1)), F.pad(found["box_score"].detach().float(), (0, 1), value=-1.0)
    valid, there = (F.pad(one["box_valid"].bool(), (0, 1)) for one in (found, real))
    same = label[:, :, None] == F.pad(real["box_label"], (0, 1))[:, None]
    no = torch.zeros_like(there)
    crowd, difficult = (there & F.pad(real[key], (0, 1)).bool() if key in real else no for key in IGNORED)
    counted = there & ~crowd & ~difficult
    iou, inside = overlaps(boxes, others)
    score = torch.where(valid, score, -1.0)
    rank = (-score).argsort(dim=1, stable=True).argsort(dim=1)  # 0 for the surest
    own, nearest = torch.where(same & counted[:, None], iou, -1.0).max(2)
    other, elsewhere = torch.where(~same & counted[:, None], iou, -1.0).max(2)
    there_too = valid & (own >= OVERLAP)
    wrong = valid & ~there_too & (other >= OVERLAP)
    found_by, taken_by = surest(there_too, nearest, rank, counted), surest(wrong, elsewhere, rank, counted)
    right = there_too & (found_by.gather(1, nearest) == torch.arange(boxes.shape[1], device=boxes.device))
    ignored = ((inside >= OVERLAP) & crowd[:, None]) | ((iou >= OVERLAP) & difficult[:, None])
    kind = torch.full_like(label, NOTHING_THERE)
    for one, here in ((BADLY_PLACED, own >= NEAR), (WRONG_CLASS, wrong), (AGAIN, there_too)):
        kind = torch.where(here, one, kind)
    kind = torch.where((ignored & same).any(2) | ~valid, LEFT_OUT, kind)
    kind = torch.where(right, RIGHT, kind)
    at = iou.gather(1, found_by[:, None].clamp(max=boxes.shape[1] - 1))[:, 0]
    last = boxes.shape[1] - 1
    return Matches(
        kind=kind[:, :-1],
        counted=counted[:, :-1],
        found_by=found_by[:, :-1],
        found_score=score.gather(1, found_by)[:, :-1],
        overlap=torch.where(found_by < last, at, 0.0)[:, :-1],
        taken_by=taken_by[:, :-1],
        taken_score=score.gather(1, taken_by)[:, :-1],
    )


IGNORED = ("box_crowd", "box_difficult")  # entries of objects that count neither as found nor as missed


def mistakes(found: Batch, real: Batch) -> Tensor:
    """(B,): how much is wrong in each image: each object counts 1 less the score of the detection that finds it, and
    each other detection counts its score. Never waits for the device.
    """
    matches = matches_of(found, real)
    missed = torch.where(matches.counted, 1 - matches.found_score.clamp(min=0), 0.0).sum(1)
    invented = (matches.kind != RIGHT) & (matches.kind != LEFT_OUT)
    return missed + torch.where(invented, found["box_score"].detach().float(), 0.0).sum(1)


def surest(pointing: Tensor, to: Tensor, rank: Tensor, counted: Tensor) -> Tensor:
    """(B, N): of the detections (B, D) that point to an object, the one with the lowest rank; D - 1 for none."""
    none = rank.shape[1] - 1  # the padding, which has the last rank or one as good as that
    place = rank.argsort(dim=1)  # rank -> detection
    lowest = torch.full_like(counted, none, dtype=rank.dtype)
    lowest = lowest.scatter_reduce(1, to, torch.where(pointing, rank, none), "amin")
    taken = torch.zeros_like(counted, dtype=rank.dtype).scatter_add(1, to, pointing.to(rank.dtype)) > 0
    return torch.where(taken, place.gather(1, lowest), none)


def overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D, 4) and (B, N, 4) -> (B, D, N) each: intersection over union, and which share of the first is inside."""
    ends = torch.minimum(boxes[:, :, None, 2:], others[:, None, :, 2:])
    starts = torch.maximum(boxes[:, :, None, :2], others[:, None, :, :2])
    shared = (ends - starts).clamp(min=0).prod(-1)
    one, other = ((each[..., 2:] - each[..., :2]).clamp(min=0).prod(-1) for each in (boxes, others))
    tiny: Any = torch.finfo(shared.dtype).tiny
    union = one[:, :, None] + other[:, None] - shared
    return shared / union.clamp(min=tiny), shared / one[:, :, None].clamp(min=tiny)
