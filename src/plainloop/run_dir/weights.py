"""Plain weights: a model's own key names and tensors. Files are written whole or not at all; reading runs no code."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from plainloop.models.freeze import classifier_names
from plainloop.run_dir.weights_file import SAFE, weights_file
from plainloop.system import storage

# Keys under which checkpoints, ours and others', hold a state dict; averaged weights first: they were evaluated.
PLACES = ("ema", "model_ema", "state_dict_ema", "state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.")  # what DDP and torch.compile put before every name
OPTIONAL = "num_batches_tracked"  # of BatchNorm, since torch 0.4.1; only momentum=None reads it
MOST_NAMES = 5  # in a message
NOTHING: Mapping[str, Any] = MappingProxyType({})


def save_weights(model: nn.Module, path: Path, about: Mapping[str, Any] = NOTHING) -> None:
    """Writes a model's state dict. Waits for the device."""
    write_weights(model.state_dict(), path, about)


def write_weights(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, Any] = NOTHING) -> None:
    """Writes safetensors, which timm.create_model(..., checkpoint_path=path) loads. Raises CannotWrite.

    Tied weights are written under each of their names, so that a strict `load_state_dict` finds all.

    Args:
        about: what the file says of itself, as its metadata: each value as JSON.
    """
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    metadata = {"format": "pt", **{key: json.dumps(value) for key, value in about.items()}}
    storage.write_whole(path, in_one_order(save(copies, metadata=metadata)))


def in_one_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted: the library writes them in another order in each process."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors must begin at a multiple of 8
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[start:]])


def load_weights(model: nn.Module, source: Path, classes: Sequence[str] = ()) -> list[str]:
    """Loads the weights of a run or a file; the classifier stays new where the number of classes differs.

    Args:
        source: a run directory (its best weights, else its last), a .safetensors file, or a file of torch.save with a
            state dict, bare or under one of the keys `PLACES`.
        classes: the names of the classes; where the file has others, or another order, the classifier stays new too.

    Returns the names that stay as initialised. Raises ValueError, before anything is changed, when
    there are no such weights or when any other name or shape differs.
    """
    _, saved, new_head = matching_weights(model, source, classes)
    model.load_state_dict(saved, strict=False)  # only the new classifier and optional buffers are missing
    return new_head


def matching_weights(
    model: nn.Module, source: Path, classes: Sequence[str] = ()
) -> tuple[Path, dict[str, Tensor], list[str]]:
    """The file, those of its tensors that the model takes, and the names that stay as initialised.

    The model may be on the meta device; nothing in it is changed. Raises ValueError as `load_weights` does.
    """
    path = weights_file(source)
    saved = read_weights(path)
    own = model.state_dict()
    fill_in_tied(saved, own)
    heads = classifier_names(model)
    new_head = sorted(name for name in heads if is_another_head(name, saved, own))
    if new_head or has_other_classes(
        path, classes
    ):  # all of the classifier: a bias of the old classes does not fit the new ones
        new_head = sorted(heads)
    saved = {name: tensor for name, tensor in saved.items() if name not in new_head}
    check_names_and_shapes(path, saved, own, but=new_head)
    check_types(path, saved, own)
    return path, saved, new_head


def has_other_classes(path: Path, classes: Sequence[str]) -> bool:
    """Whether a file names its classes, and not as these or in another order. Row i of a classifier means class i."""
    theirs = said_by(path, "classes")
    return bool(classes) and isinstance(theirs, list) and theirs not in ([], list(classes))


def said_by(path: Path, key: str) -> Any:
    """What a file that was read says of itself (see run/description.py), unchecked; None where it does not."""
    if path.suffix != SAFE:
        return None
    with safe_open(path, "pt") as file:
        try:
            return json.loads((file.metadata() or {})[key])
        except (KeyError, ValueError, RecursionError):
            return None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU. Nothing in the file is executed. Raises ValueError."""
    try:
        data = storage.read_whole(path.resolve())
    except OSError as error:
        raise ValueError(f"init_from={path} cannot be read: {error.strerror}") from error
    if path.suffix == SAFE:
        try:
            return load(data)
        except SafetensorError as error:
            raise ValueError(f"init_from={path} is damaged, or no safetensors file: {error}") from error
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(
            f"init_from={path} is damaged, or holds more than tensors and numbers, which could run code and is not "
            f"loaded ({first_line(error)}); save the state dict alone: torch.save(model.state_dict(), ...)"
        ) from error
    return without_wrappers(state_dict_in(path, content))


def state_dict_in(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict of what torch.load gave. Raises ValueError when there is none."""
    if isinstance(content, Mapping):
        for found in (*(content.get(place) for place in PLACES), content):
            if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
                return dict(found)
    keys = listing(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise ValueError(f"init_from={path} holds no state dict, bare or under {', '.join(PLACES)}, but {keys}")


def without_wrappers(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in saved):
            return without_wrappers({name.removeprefix(prefix): tensor for name, tensor in saved.items()})
    return saved


def fill_in_tied(saved: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Adds the names of tied tensors, of which safetensors.torch.save_model writes one only."""

    def storage_id(tensor: Tensor) -> tuple[int, int]:  # also on the meta device, which has no addresses
        return tensor.untyped_storage()._cdata, int(tensor.storage_offset())

    known = {storage_id(tensor): saved[name] for name, tensor in own.items() if name in saved and tensor.numel()}
    for name, tensor in own.items():
        if name not in saved and tensor.numel() and storage_id(tensor) in known:
            saved[name] = known[storage_id(tensor)]


def is_another_head(name: str, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether the shapes differ in the first dimension only, the number of classes."""
    if name not in saved:
        return False
    there, here = saved[name].shape, own[name].shape
    return there != here and there[1:] == here[1:]


def check_names_and_shapes(
    path: Path, saved: Mapping[str, Tensor], own: Mapping[str, Tensor], *, but: list[str]
) -> None:
    missing = [name for name in own if name not in saved and name not in but and not name.endswith(OPTIONAL)]
    unexpected = sorted(saved.keys() - own.keys())  # safetensors keeps no order
    shapes = [
        f"{name} {tuple(saved[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in saved and saved[name].shape != own[name].shape
    ]
    if missing or unexpected or shapes:
        found = (("missing", missing), ("unknown to the model", unexpected), ("of another shape", shapes))
        raise ValueError(
            f"init_from={path} holds the weights of another model: "
            + "; ".join(f"{len(names)} {what}: {listing(names)}" for what, names in found if names)
            + ". Choose the model that they were saved from (model=..., and its own keys)"
        )


def check_types(path: Path, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Quantized weights would be taken for weights, without a word and without their scale."""
    floating = [name for name in saved if own[name].is_floating_point()]
    if wrong := [f"{name} is {saved[name].dtype}" for name in floating if not saved[name].is_floating_point()]:
        raise ValueError(
            f"init_from={path} has no floating-point numbers where the model has them: {listing(wrong)}. "
            "If they are quantized, save the weights from before, or turn them back with their scale"
        )


def listing(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
