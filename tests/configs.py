"""Configs as train.py would check them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plainloop.config.check import check
from plainloop.config.compose import Composer
from plainloop.config.origin import Origin

ROOT = Path(__file__).resolve().parent.parent


def checked(*overrides: str) -> dict[str, Any]:
    """The resolved config that `python train.py <overrides>` hands to the run."""
    composer = Composer(ROOT / "conf")
    composed = composer.compose_or_explain(overrides)
    assert composed.config is not None, composed.problems
    return check(composed.config, origin=Origin(overrides, composer=composer), known=composed.problems).config
