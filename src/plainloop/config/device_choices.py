"""What `auto` means on this device for the settings of trainer=fast. A run saves what was chosen, and keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from plainloop.system.gpus import first_visible

CHOSEN = ("precision", "tf32", "channels_last", "compile")  # of trainer


def with_choices(config: Mapping[str, Any], ranks: int) -> tuple[dict[str, Any], str]:
    """The config with a value for each `auto`; and what was chosen and why, "" where nothing was left to choose."""
    trainer = config["trainer"]
    left = [name for name in CHOSEN if trainer.get(name) == "auto"]
    if not left:
        return dict(config), ""
    best, why = for_device(config["device"], ranks)
    chosen = {name: best[name] for name in left}
    if trainer["detect_anomaly"] and "compile" in left:
        chosen["compile"] = False  # it looks at single operations
    typed = " ".join(f"{name}={str(value).lower()}" for name, value in chosen.items())
    return {**config, "trainer": {**trainer, **chosen}}, f"{typed} ({why})"


def for_device(device: str, ranks: int) -> tuple[dict[str, Any], str]:
    """A value for each of CHOSEN that is right there and not slower, and why.

    On a CPU of two cores channels_last saves up to a third of a step of a small convnet, compiling takes one to three
    minutes and saves little, and bf16 takes ten times as long without bf16 instructions.
    """
    import torch

    slow: dict[str, Any] = {"precision": "fp32", "tf32": False, "channels_last": False, "compile": False}
    if device in ("auto", "cuda") and torch.cuda.is_available():
        gpu = first_visible()
        capability = gpu.capability if gpu else torch.cuda.get_device_capability()
        precision = "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "fp32"
        compiles = capability >= (7, 0) and find_spec("triton") is not None
        # DDP's buckets cut the graph that would be recorded whole; they compile without recording.
        mode = "reduce-overhead" if ranks == 1 else True
        fast = {"precision": precision, "tf32": capability >= (8, 0), "channels_last": True}
        name = gpu.name if gpu else "the GPU"
        return slow | fast | {"compile": compiles and mode}, f"{name}, capability {capability[0]}.{capability[1]}"
    if device == "mps" or (device == "auto" and torch.backends.mps.is_available()):
        return slow, "MPS: nothing else has been measured there"
    return slow | {"channels_last": True}, "a CPU, where compiling takes minutes"
