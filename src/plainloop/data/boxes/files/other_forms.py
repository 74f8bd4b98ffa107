"""Boxes in another form than that of their files: as fractions of the image, or in COCO's files as two corners."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FEW_FRACTIONS, FEW_CORNERS = 3, 10  # boxes; of fewer it is not clear
FRACTIONS = (-0.1, 1.1)  # with objects that are a little over the edge
MOST = 0.99  # of the boxes, because some are odd in every large file


def are_fractions(boxes: NDArray[np.floating[Any]]) -> bool:
    """Whether no number of any box (M, 4) is larger than a pixel: read as pixels, all are in one corner of the image.

    >>> are_fractions(np.array([[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [0.5, 0.5, 0.5, 0.25]]))
    True
    >>> are_fractions(np.array([[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [0.5, 0.5, 0.5, 2]]))
    False
    """
    some = boxes[(boxes != 0).any(1)]  # 0 0 0 0 means that there is no box
    return len(some) >= FEW_FRACTIONS and bool(((some >= FRACTIONS[0]) & (some <= FRACTIONS[1])).all())


def are_corners(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> bool:
    """Whether boxes (M, 4) fit into their images as x0 y0 x1 y1, and most of them not as x y width height.

    Args:
        sizes: (M, 2) height and width of each box's image; 0 where it is not known.

    >>> small, corners = np.full((10, 2), 100, np.int32), np.tile([40.0, 50, 70, 60], (10, 1))
    >>> are_corners(corners, small), are_corners(corners, small * 2), are_corners(corners[:9], small[:9])
    (True, False, False)
    """
    known = (sizes > 0).all(1) & (boxes != 0).any(1)
    start, end, limits = boxes[known, :2], boxes[known, 2:], sizes[known, ::-1] + 1  # a pixel for what is rounded
    if len(start) < FEW_CORNERS or (start + end > limits).any(1).mean() <= 0.5:
        return False
    return bool(((start >= -1) & (end > start) & (end <= limits)).all(1).mean() >= MOST)
