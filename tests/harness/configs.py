"""Configs as train.py would check them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plainloop.config.check.check import check
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin

ROOT = Path(__file__).resolve().parents[2]


def checked(*overrides: str) -> dict[str, Any]:
    """The resolved config that `python train.py <overrides>` hands to the run."""
    composer = Composer(ROOT / "conf")
    composed = composer.compose_or_explain(overrides)
    assert composed.config is not None, composed.problems
    return check(composed.config, origin=Origin(overrides, composer=composer), known=composed.problems).config
