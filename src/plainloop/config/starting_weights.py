"""What a model starts from: which of its tensors were trained before, which start anew, and which do not learn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

SMALL, LARGE = (1_000, 0.001), (100_000, 0.01)  # images, and the rate of SGD at the batch size below
BASE_BATCH_SIZE = 256
MOST_NAMES = 6  # in a line
OF_A_START = ("num_classes", "pretrained", "backbone_weights")  # keys that do not change what weights mean


def finetune_lr(num_train: int) -> float:
    """The rate of SGD for so many training images, at batch 256: `experiment=finetune` begins with it.

    0.001 up to a thousand, lest it destroy the trained weights, 0.01 from a hundred thousand (section 9 of PaddleClas's
    training tricks, https://paddleclas.readthedocs.io/en/latest/models/Tricks_en.html); in between by the logarithm.

    >>> [finetune_lr(count) for count in (100, 1_000, 10_000, 100_000, 10**6)]
    [0.001, 0.001, 0.00316, 0.01, 0.01]
    """
    (few, low), (many, high) = SMALL, LARGE
    share = min(1.0, max(0.0, math.log(num_train / few) / math.log(many / few)))
    return float(f"{low * (high / low) ** share:.3g}")


def rate_line(config: Mapping[str, Any]) -> str:
    """Which rate is usual for a model that was trained before; "" for optimizers for which no such rule is known."""
    if not str(config["optimizer"]["_target_"]).endswith(".SGD"):
        return ""
    num_train, lr = config["facts"]["num_train"], config["optimizer"]["lr"]
    usual = finetune_lr(num_train)
    rule = f"{SMALL[1]} up to {SMALL[0]:,}, {LARGE[1]} from {LARGE[0]:,}, in between by the logarithm"
    here = "and so it is here" if lr == usual else f"and optimizer.lr={lr:g} here"
    return f"fine-tuning {num_train:,} images: {usual:g} at batch {BASE_BATCH_SIZE} is usual ({rule}), {here}"


def weights_line(config: Mapping[str, Any], model: nn.Module) -> str:
    """How many tensors come from where, and the names of the others; "" for a model that starts anew.

    The model may be on the meta device. Raises ValueError where init_from cannot be used.
    """
    total = len(model.state_dict())
    if config["init_from"]:
        from plainloop.run_dir.weights import matching_weights

        path, saved, new = matching_weights(model, Path(config["init_from"]), config["facts"]["class_names"])
        return f"{path}: {_of(total, len(saved), new)}{_otherwise(config, path)}"
    source = config["model"].get("backbone_weights") or ("published" if config["model"].get("pretrained") else "")
    if not source:
        return ""
    own, published = list(model.state_dict()), getattr(model, "pretrained_cfg", None)
    if published:  # timm's
        from plainloop.models.freeze import classifier_names

        here, there = config["facts"]["num_classes"], published.get("num_classes")
        new = sorted(classifier_names(model)) if here != there else []
        text = f"{config['model'].get('model_name')}, published: {_of(total, total - len(new), new)}"
        channels = config["facts"]["image_shape"][0]
        return text + (
            f"; the first layer is fitted to {channels} channel{'s' * (channels != 1)}" if channels != 3 else ""
        )
    from plainloop.models.freeze import inner_model

    place, inner = inner_model(model)
    if inner is None:
        return str(source)
    inside = {id(tensor) for tensor in (*inner.parameters(), *inner.buffers())}
    tensors = dict((*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)))
    new = [name for name in own if id(tensors[name]) not in inside]
    return f"the {place}, {source}: {_of(total, total - len(new), new)}"


def frozen_line(config: Mapping[str, Any], model: nn.Module) -> str:
    """What does not learn, and until when; "" where all does. Raises ValueError as `frozen_names` does."""
    from plainloop.config.durations import clock_of
    from plainloop.models.freeze import frozen_names

    freeze, until = config["trainer"]["freeze"], config["trainer"]["freeze_until"]
    names = frozen_names(model, freeze)
    if not names:
        return ""
    parameters = dict(model.named_parameters())
    learning = [name for name in parameters if name not in names]
    count = sum(parameters[name].numel() for name in names)
    when = "the whole run" if until is None else f"until step {clock_of(config).steps(until)} ({until})"
    return (
        f"{freeze}, {when}: {len(names)} of {len(parameters)} parameters with {count:,} numbers; "
        f"{listing(learning)} learn"
    )


def _otherwise(config: Mapping[str, Any], path: Path) -> str:
    """The classes of a weights file, and the keys of its model, that are others here."""
    from plainloop.errors import printable
    from plainloop.run_dir.weights import has_other_classes, said_by

    text, theirs, here = "", said_by(path, "model"), config["model"]
    if has_other_classes(path, config["facts"]["class_names"]):
        names = [printable(str(name)) for name in said_by(path, "classes")]
        text += f"; its classes are others, or in another order: {listing(names)}"
    if isinstance(theirs, Mapping) and theirs.get("_target_") == here["_target_"]:
        keys = [f"model.{key}" for key in here if key not in OF_A_START and theirs.get(key, here[key]) != here[key]]
        text += f"; it was trained with another {listing(keys)}" if keys else ""
    return text


def _of(total: int, loaded: int, new: Sequence[str]) -> str:
    return f"{loaded} of {total} tensors" + (f"; anew: {listing(new)}" if new else "")


def listing(names: Sequence[str]) -> str:
    """
    >>> listing(["a", "b"]), listing([f"w{i}" for i in range(9)])
    ('a, b', 'w0, w1, w2, w3, w4, w5 and 3 more')
    """
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def start_lines(config: Mapping[str, Any], model: nn.Module | None) -> Iterator[tuple[str, str]]:
    """A label and a text for each of these that there is."""
    if model is not None:
        weights = weights_line(config, model)
        lines = {"weights": weights, "": rate_line(config) if weights else "", "frozen": frozen_line(config, model)}
        yield from ((label, text) for label, text in lines.items() if text)
