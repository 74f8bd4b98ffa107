"""The first lines of a run: what is trained, on which data and device, and where its learning rate comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from plainloop.config.check.meta_model import model_summary
from plainloop.config.durations import clock_of, train_batch_size
from plainloop.distributed import collectives
from plainloop.loggers.numbers import amount
from plainloop.loop.optim import scaling_text


def run_lines(config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """What the config says, before anything is built."""
    facts, trainer, clock, lr = config["facts"], config["trainer"], clock_of(config), config["optimizer"].get("lr")
    batch_size, model = train_batch_size(config), model_summary(config)
    yield f"run     {folder}"
    counts = f"{facts['num_train']:,} train, {facts['num_val']:,} val, {len(facts['class_names'])} classes"
    yield f"data    {_name(config['data'])}: {counts}, images {'x'.join(map(str, facts['image_shape']))}"
    sizes = [f"{amount(model.parameters)} parameters"] if model.parameters else []
    sizes += [f"{amount(model.macs)} MACs per image"] if model.macs else []
    yield f"model   {_name(config['model'])}{': ' if sizes else ''}{', '.join(sizes)}"
    yield f"steps   {clock.total_steps:,} = {trainer['duration']}, batch {batch_size} (global), {trainer['precision']}"
    if lr is not None:
        text = scaling_text(lr, batch_size=batch_size, **trainer["lr_scaling"])
        yield f"rate    {text} (optimizer.lr), {_name(config['scheduler'])}"


def device_line(device: torch.device) -> str:
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    ranks, threads = collectives.world_size(), torch.get_num_threads()
    return (
        f"device  {name}, {f'{ranks} processes of ' if ranks > 1 else ''}{threads} thread{'s' if threads > 1 else ''}"
    )


def _name(node: Mapping[str, Any]) -> str:
    """
    >>> _name({"_target_": "timm.create_model", "model_name": "resnet18"}), _name({"_target_": "torch.optim.SGD"})
    ('resnet18', 'SGD')
    """
    return str(node.get("model_name") or node["_target_"].rpartition(".")[2])
