"""Trains vision models. `plainloop.load("<run dir>")` gives a trained one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plainloop.run.trained.predictor import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load` is imported when it is asked for: it brings torch."""
    if name != "load":
        raise AttributeError(f"module 'plainloop' has no attribute {name!r}")
    from plainloop.run.trained.predictor import load

    return load
