"""What models without published weights answer when they are asked for them."""

from __future__ import annotations


def refuse_pretrained(pretrained: bool, name: str) -> None:
    """Raises ValueError if true: starting from random weights instead would look like a bad fine-tuning run."""
    if pretrained:
        raise ValueError(
            f"model.pretrained=true, but {name} has no published weights; leave it out, or start from weights of "
            f"your own with init_from=<run directory or weights file>"
        )
