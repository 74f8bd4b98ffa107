"""Where published weights come from, and clear errors where there are none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from plainloop.errors import BadData

IMAGENET = "imagenet"  # segmentation_models_pytorch's name for the weights of its encoders
TIMEOUT_S = 5.0  # to reach the server of the weights; huggingface_hub itself tries for a minute


def refuse_pretrained(pretrained: bool, name: str) -> None:
    """Raises ValueError if true: a run from random weights instead would look like a bad fine-tuning run."""
    if pretrained:
        raise ValueError(
            f"model.pretrained=true, but {name} has no published weights; leave it out, or start from weights of "
            f"your own with init_from=<run directory or weights file>"
        )


def require_weights(node: Mapping[str, Any]) -> None:
    """Raises BadData within seconds if the weights that a model asks for cannot be had.

    Without a network the cache is used at once.
    """
    if not node.get("pretrained"):
        return
    if file := node.get("backbone_weights") or (node.get("pretrained_cfg_overlay") or {}).get("file"):
        if not Path(file).is_file():
            raise BadData(f"{file_key(node).removeprefix('+')}={file} does not exist")
        return
    from huggingface_hub import constants, try_to_load_from_cache

    published, name = on_the_hub(node)
    if not published or constants.HF_HUB_OFFLINE or is_reachable(constants.ENDPOINT):
        return
    constants.HF_HUB_OFFLINE = True
    names = (name, "model.safetensors", "pytorch_model.bin")
    if not any(isinstance(try_to_load_from_cache(published, name), str) for name in names if name):
        raise BadData(
            f"model.pretrained: the weights {published} are not in {constants.HF_HUB_CACHE}, and "
            f"{constants.ENDPOINT} cannot be reached from here",
            hint=otherwise(node),
        )


def file_key(node: Mapping[str, Any]) -> str:
    """What is typed for published weights that are in a file."""
    return "model.backbone_weights" if "backbone_weights" in node else "+model.pretrained_cfg_overlay.file"


def otherwise(node: Mapping[str, Any]) -> str:
    """Where else a model's weights can come from."""
    return (
        f"take them from a file with {file_key(node)}=<file>, or from a cache that was filled on another machine with "
        "HF_HOME=<folder> before the command, or start from weights of your own with init_from=<run directory or "
        "weights file>"
    )


def on_the_hub(node: Mapping[str, Any]) -> tuple[str, str]:
    """The repository of the weights of a model, its encoder or its backbone, and the file's name; "" where not known.

    Raises ValueError for an encoder without weights.
    """
    import timm

    encoder, backbone = node.get("encoder_name", ""), node.get("backbone", "")
    if node["_target_"] == "timm.create_model" or encoder.startswith("tu-") or backbone:
        name = backbone or encoder.removeprefix("tu-") or node["model_name"]
        config = timm.get_pretrained_cfg(name)
        return (config.hf_hub_id or "", config.hf_hub_filename or "") if config else ("", "")
    if not node["_target_"].startswith("plainloop.models.encoder_decoder."):
        return "", ""
    from segmentation_models_pytorch.encoders import encoders

    settings = encoders[encoder]["pretrained_settings"]
    if IMAGENET not in settings:
        raise ValueError(
            f"model.pretrained=true: the encoder {encoder} has no {IMAGENET} weights; leave it out, or take another "
            "encoder, such as model.encoder_name=tu-resnet34"
        )
    return settings[IMAGENET]["repo_id"], ""


def is_reachable(url: str) -> bool:
    try:
        urlopen(url, timeout=TIMEOUT_S).close()
    except HTTPError:
        return True
    except (URLError, TimeoutError, ConnectionError):
        return False
    return True
