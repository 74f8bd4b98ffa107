"""Numbers as a person reads them."""

from __future__ import annotations

import math


def digits(value: float, *, num: int = 3) -> str:
    """Losses and learning rates, with `num` digits that count.

    >>> [digits(value) for value in (0.12345, 2.3, 45.678, 1234.5, 0.0, float("nan"))]
    ['0.123', '2.30', '45.7', '1234', '0', 'nan']
    >>> digits(0.001, num=2), digits(0.1, num=2), digits(3.2e-6, num=2)
    ('0.0010', '0.10', '3.2e-6')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 10**num:
        return f"{value:.0f}" if abs(value) < 1e7 else f"{value:.{num - 1}e}".replace("e+0", "e")
    return f"{value:#.{num}g}".rstrip(".").replace("e-0", "e-")


def score(value: float) -> str:
    """A metric; accuracies show every image of 10,000, and what is less has two digits.

    >>> score(0.98125), score(1.0), score(37.42), score(0.0), score(2.1e-5)
    ('0.9812', '1.0000', '37.4', '0.0000', '2.1e-5')
    """
    if 0 < abs(value) < 1e-4:
        return digits(value, num=2)
    return f"{value:.4f}" if abs(value) <= 1 else digits(value)


def amount(value: float) -> str:
    """Counts, and images per second.

    >>> amount(950.2), amount(12_345), amount(1.5e6), amount(0.25)
    ('950', '12.3k', '1.5M', '0.25')
    """
    if not math.isfinite(value):
        return f"{value:g}"
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.1f}{unit}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """
    >>> duration(12), duration(3_723), duration(200_000)
    ('0:12', '1:02:03', '2d 7:33:20')
    """
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}:{minutes:02}:{left:02}"
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
