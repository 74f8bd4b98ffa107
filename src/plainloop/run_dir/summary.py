"""summary.json: the results of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from plainloop.loggers.jsonl import read_rows

SHOWN = 10  # bad images


def summarize(
    folder: Path,
    *,
    config: Mapping[str, Any],
    about: Mapping[str, Any],
    model: nn.Module,
    best: Mapping[str, Any] | None,
    step: int,
    stopped_early: str,
    environment: Mapping[str, Any],
    bad_images: Sequence[str],
) -> dict[str, Any]:
    """Reads metrics.jsonl, so that all attempts count. Seconds and images/s are of training alone.

    `about` names the model and what images go through before it; `best` is {metric, value, step}, or None where nothing
    was evaluated; `stopped_early` says why, or is "". `bad_images` says what is wrong with each image that was skipped.
    """
    rows = read_rows(folder / "metrics.jsonl")
    final: dict[str, Any] = {}
    seconds, images, before = 0.0, 0.0, 0.0
    for row in rows:
        final |= {key: value for key, value in row.items() if "/" in key and not key.startswith("time/")}
        if "time/step_s" in row:
            steps = row["step"] - before
            seconds += steps * row["time/step_s"]
            images += steps * row["time/step_s"] * row["time/images_per_s"]
        before = row["step"]
    facts = config["facts"]
    return {
        "best": dict(best) if best else None,
        "final": final,
        "steps": step,
        "stopped_early": stopped_early,
        "seconds": round(seconds, 3),
        "images_per_s": round(images / seconds, 1) if seconds else None,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "classes": list(facts["class_names"]),
        "normalize": {"mean": list(facts["mean"]), "std": list(facts["std"])},
        "image_size": list(facts["image_shape"][1:]),
        **{key: about[key] for key in ("model", "crop_fraction", "interpolation") if key in about},
        "git": (environment.get("git") or {}).get("commit"),
        "versions": environment.get("versions"),
        **({"bad_images": {"number": len(bad_images), "first": bad_images[:SHOWN]}} if bad_images else {}),
    }
