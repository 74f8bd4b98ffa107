"""Refuses `pretrained=true` for models without published weights."""

from __future__ import annotations


def refuse_pretrained(pretrained: bool, name: str) -> None:
    """Raises ValueError if `pretrained` is true: with random weights instead, fine-tuning would just look bad."""
    if pretrained:
        raise ValueError(
            f"model.pretrained=true, but {name} has no published weights; leave it out, or start from weights of "
            f"your own with init_from=<run directory or weights file>"
        )
