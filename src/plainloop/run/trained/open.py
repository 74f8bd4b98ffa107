"""A trained model from the folder of its run, with what belongs to it; and what is wrong with a folder that has none.

Evaluating, predicting, exporting, reports and distillation open runs here.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plainloop.config.build import settings
from plainloop.config.device_choices import with_choices
from plainloop.config.durations import clock_of
from plainloop.config.parts import build_model, make_part
from plainloop.config.settings import TrainerSettings
from plainloop.config.targets import Forbidden, authorize, locate
from plainloop.config.types import signature_of
from plainloop.contracts import Batch, Task
from plainloop.distributed.process_group import pick_device
from plainloop.errors import BadConfig
from plainloop.loop.normalize import Normalize, to_device, to_float
from plainloop.run.run import PRECISIONS
from plainloop.run.trained.folder import saved_config, weights_of
from plainloop.run_dir.status import quote_for_hydra
from plainloop.run_dir.weights import load_weights
from plainloop.system import rng, storage


@dataclass(frozen=True)
class Trained:
    """A model with the weights of one step of its run, ready to predict."""

    folder: Path  # of the run
    config: dict[str, Any]  # of the run, complete; or as the caller has changed it
    checkpoint: str  # best, last, or a step; a weights file's name
    weights: str  # which ones, for people: "best.safetensors, step 500 of 1000"
    step: int | None  # finished optimizer steps; None where no file says it
    model: nn.Module  # on the device, in eval mode, without gradients
    task: Task
    device: torch.device
    normalize: Normalize  # with the mean and std that the run was trained with
    precision: torch.dtype

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.config["facts"]["class_names"])

    def prepare(self, batch: Batch) -> Batch:
        """A batch as data give it becomes what the model sees: on the device, float32, normalized."""
        return self.normalize(to_float(to_device(batch, self.device)))

    @contextlib.contextmanager
    def predicting(self) -> Iterator[None]:
        """The block computes as the run's evaluations did: without gradients, in the run's precision."""
        half = self.precision != torch.float32
        with torch.no_grad(), torch.autocast(self.device.type, self.precision) if half else contextlib.nullcontext():
            yield

    def predict(self, batch: Batch) -> Any:
        """The task's prediction for a batch as data give it."""
        with self.predicting():
            return self.task.predict(self.model, self.prepare(batch))


def open_run(
    folder: Path | str,
    checkpoint: str | int = "best",
    *,
    config: Mapping[str, Any] | None = None,
    device: str | None = None,
    plugins: Sequence[str] = (),
) -> Trained:
    """The model of a run, built by the functions that the run itself uses.

    The run may be unfinished, and nothing in its folder is changed. The generators of random numbers stay as they are.

    Args:
        checkpoint: best, last, or the step of a checkpoint. Averaged weights (EMA) where the run has them.
        config: the run's config with changes, checked; None: as the run has saved it, with keys that were added since.
        device: `auto`, `cuda`, `cpu` or `mps`; None: the run's, or `auto` where this machine lacks that.
        plugins: packages of the user's own that the config may name.

    Raises BadConfig and BadData, which name what is wrong with the folder and what to type instead.
    """
    folder = Path(folder)
    saved = saved_config(folder)
    if config is None:
        require_plugins(saved, plugins)
        config = on_this_machine(saved) | {"plugins": list(plugins)}
    tensors, weights, step = weights_of(folder, checkpoint)
    built = _built(folder, config, device or config["device"], saved["facts"])
    try:
        built.model.load_state_dict(tensors)
    except RuntimeError as error:
        raise BadConfig(
            f"the weights of {folder} ({weights}) do not fit the model that its config builds now:\n{error}",
            hint="leave model.* out of the command; or the code of the model has changed since: take the old code",
        ) from error
    return replace(built, checkpoint=str(checkpoint), weights=weights, step=step)


def open_weights(file: Path, config: Mapping[str, Any]) -> Trained:
    """The model of a checked config with the weights of a file. Raises BadConfig where they do not fit."""
    built = _built(file, config, config["device"], config["facts"])
    try:
        new = load_weights(built.model, file)
    except ValueError as error:
        raise BadConfig(str(error).removeprefix("init_from="), hint=_model_said_by(file, config["model"])) from error
    if new:
        number = len(config["facts"]["class_names"])
        raise BadConfig(
            f"the classifier in {file} has other classes than the data, which have {number}: {', '.join(new)} differ",
            hint="type the data that it was trained for: data=... data.root=...",
        )
    return replace(built, checkpoint=file.stem, weights=f"weights of {file.name}")


def _model_said_by(file: Path, typed: Mapping[str, Any]) -> str:
    """What to type for the model, where a weights file tells which one it holds, as those of runs do."""
    try:
        data = storage.read_whole(file.resolve())
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        said = json.loads(header["__metadata__"]["model"])
        other = {key: value for key, value in said.items() if typed.get(key) != value}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    if "_target_" in other:
        return f"the file says that its model is {said.get('model_name') or other['_target_']}"
    words = [f"model.{key}={quote_for_hydra(value)}" for key, value in other.items()]
    return f"the file says of its model: type {' '.join(words)}" if words else ""


def require_plugins(
    saved: Mapping[str, Any], plugins: Sequence[str], *, groups: Sequence[str] = ("model", "task")
) -> None:
    """Raises BadConfig where a part of these groups comes from a package that was not allowed now."""
    for group in groups:
        try:
            authorize(saved[group]["_target_"], plugins)
        except (Forbidden, KeyError) as error:
            own = ",".join(saved.get("plugins") or [str(saved[group].get("_target_")).partition(".")[0]])
            raise BadConfig(
                f"the run's {group} is {saved[group].get('_target_')}, which is not Plainloop's own code",
                hint=f"if you trust that package, add plugins=[{own}]",
            ) from error


def require_same_classes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises BadConfig where the classes of the data are not those of the run, name by name."""
    before, after = saved["facts"]["class_names"], now["facts"]["class_names"]
    if list(before) == list(after):
        return
    gone, new = [name for name in before if name not in after], [name for name in after if name not in before]
    how = [f"only in the run: {_listed(gone)}"] if gone else []
    how += [f"only in the data: {_listed(new)}"] if new else []
    if not how:
        number = next(number for number, name in enumerate(before) if name != after[number])
        how = [f"class {number} is {before[number]} in the run and {after[number]} in the data"]
    named = (
        "leave data.class_names out"
        if "class_names" in now["data"]
        else "a list of the images can name them: data.labels=<file>"
    )
    raise BadConfig(
        f"the data have {len(after)} classes, and the run {len(before)}: {'; '.join(how)}",
        hint=f"the classes must have the run's names and order; {named}",
    )


def with_each_class(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the metrics of each class, for a task that has the argument `per_class`."""
    task = dict(config["task"])
    known = signature_of(locate(task["_target_"], config["plugins"])).parameters
    if "per_class" in known:
        names = {"class_names": list(config["facts"]["class_names"])} if "class_names" in known else {}
        task |= {"per_class": True} | names
    return {**config, "task": task}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _built(folder: Path, config: Mapping[str, Any], device: str, facts: Mapping[str, Any]) -> Trained:
    """The parts, the model with its initial weights: those of the run or a file are loaded over them."""
    config, _ = with_choices(config, 1)
    clock = clock_of(config)
    args = settings(TrainerSettings, config["trainer"], clock)
    make = functools.partial(make_part, config, clock)
    try:
        place = pick_device(device)
    except ValueError as error:
        raise BadConfig(str(error)) from error
    model = config["model"] | ({"pretrained": False} if config["model"].get("pretrained") else {})
    plain = config | {"init_from": None, "model": model}
    with rng.drawing_from(config["seed"], place):
        built = build_model(plain, args, place, functools.partial(make_part, plain, clock))
    return Trained(
        folder=folder,
        config=config,
        checkpoint="",
        weights="",
        step=None,
        model=built.eval().requires_grad_(False),
        task=make("task"),
        device=place,
        normalize=Normalize(
            mean=facts["mean"], std=facts["std"], device=place, channels_last=args.channels_last is True
        ),
        precision=PRECISIONS[args.precision],
    )


def on_this_machine(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with device=auto, for its data, too, where this machine lacks the device."""
    name = _device_here(config["device"])
    data = config["data"] | ({"device": name} if "device" in config["data"] else {})
    return {**config, "device": name, "data": data}


def _device_here(name: str) -> str:
    missing = (name == "cuda" and not torch.cuda.is_available()) or (
        name == "mps" and not torch.backends.mps.is_available()
    )
    return "auto" if missing else name
