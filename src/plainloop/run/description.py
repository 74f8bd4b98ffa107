"""What the weights of a run say about themselves: to a reader of the file, to summary.json, and to timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from plainloop.config.build import arguments_of
from plainloop.config.parts import preprocessing_of
from plainloop.errors import BadData

# Arguments of timm.create_model that say where weights come from, not what the model is.
OF_A_START = ("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model with its arguments, the classes, and what an image goes through before it; all plain values.

    `crop_fraction` and `interpolation` are None where images cannot be read from files. `letterboxed` is there where
    one factor resizes both sides, and the image stands in the top left.
    """
    facts, node = config["facts"], config["model"]
    try:
        preprocessing = preprocessing_of(config)
        how: dict[str, Any] = {
            "crop_fraction": preprocessing.crop_fraction,
            "interpolation": preprocessing.interpolation,
        }
        how |= {"letterboxed": True} if preprocessing.letterboxed else {}
    except BadData:
        how = {"crop_fraction": None, "interpolation": None}
    sources = OF_A_START[1:] if node["_target_"] == "timm.create_model" else ()
    return {
        "task": config["task"]["_target_"],
        "model": {key: value for key, value in node.items() if key not in sources},
        "classes": list(facts["class_names"]),
        "image_shape": list(facts["image_shape"]),
        "normalize": {"mean": list(facts["mean"]), "std": list(facts["std"])},
        **how,
    }


def timm_config(config: Mapping[str, Any], model: nn.Module, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """What timm reads from config.json in a folder: `timm.create_model("local-dir:<folder>", pretrained=True)`.

    timm takes best.safetensors there, the first of its kind. None for models that timm did not make.
    """
    source = getattr(model, "pretrained_cfg", None)
    if config["model"]["_target_"] != "timm.create_model" or not source:
        return None
    arguments = arguments_of(config["model"]) | getattr(model, "_model_args", {})  # with those of a model of the hub
    return {
        "architecture": source["architecture"],
        "num_classes": len(about["classes"]),
        "label_names": about["classes"],
        "model_args": {name: value for name, value in arguments.items() if name not in OF_A_START},
        "pretrained_cfg": {
            "architecture": source["architecture"],
            "custom_load": False,
            "num_classes": len(about["classes"]),
            "input_size": about["image_shape"],
            "fixed_input_size": source.get("fixed_input_size", False),
            "interpolation": about["interpolation"] or "bilinear",
            "crop_pct": about["crop_fraction"] or 1.0,
            "crop_mode": "center",
            **about["normalize"],
            "first_conv": source.get("first_conv"),
            "classifier": source.get("classifier"),
        },
    }
