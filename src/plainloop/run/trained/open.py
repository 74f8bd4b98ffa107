"""A trained model from the folder of its run, with what belongs to it; and what is wrong with a folder that has none.

Evaluating, predicting, exporting, reports and distillation open runs here.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from plainloop.config.build import settings
from plainloop.config.device_choices import with_choices
from plainloop.config.durations import clock_of
from plainloop.config.parts import build_model, make_part
from plainloop.config.settings import TrainerSettings, with_later_keys
from plainloop.config.targets import Forbidden, authorize
from plainloop.contracts import Batch, Task
from plainloop.distributed.process_group import pick_device
from plainloop.errors import BadConfig, BadData, Unresumable
from plainloop.loop.normalize import Normalize, to_device, to_float
from plainloop.run.run import PRECISIONS
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.config_file import read_config
from plainloop.run_dir.status import BEST_KINDS, command_to_continue, read_status, read_summary
from plainloop.system import rng, storage

log = logging.getLogger("plainloop")

MOST_NAMES = 8  # in a message


@dataclass(frozen=True)
class Trained:
    """A model with the weights of one step of its run, ready to predict."""

    folder: Path  # of the run
    config: dict[str, Any]  # of the run, complete; or as the caller has changed it
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
        config = saved | {"plugins": list(plugins)}
    tensors, weights, step = weights_of(folder, checkpoint)
    built = _built(folder, config, device or _device_here(config["device"]), saved["facts"])
    try:
        built.model.load_state_dict(tensors)
    except RuntimeError as error:
        raise BadConfig(
            f"the weights of {folder} ({weights}) do not fit the model that its config builds now:\n{error}",
            hint="leave model.* out of the command; or the code of the model has changed since: take the old code",
        ) from error
    return Trained(**{**vars(built), "weights": weights, "step": step})


def saved_config(folder: Path) -> dict[str, Any]:
    """The config of a run, with the keys that were added since. Raises BadConfig, BadData for what is no run."""
    if not os.path.lexists(folder):
        raise BadConfig(f"{folder} does not exist; expected a run directory", hint=_elsewhere(folder))
    if not folder.is_dir():
        raise BadConfig(f"{folder} is a file; expected a run directory", hint=_elsewhere(folder))
    if not os.path.lexists(folder / "config.yaml"):
        if runs := _runs_in(folder):
            names = ", ".join(run.name for run in runs[:MOST_NAMES]) + (", ..." if len(runs) > MOST_NAMES else "")
            what = f"holds {len(runs)} run{'s' if len(runs) > 1 else ''} and is none itself: {names}"
            raise BadConfig(f"{folder} {what}", hint=f"type one of them: {runs[-1]}")
        raise BadConfig(f"{folder} has no config.yaml: it is no run directory", hint=_elsewhere(folder))
    return with_later_keys(read_config(folder))


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


def weights_of(folder: Path, checkpoint: str | int) -> tuple[dict[str, Tensor], str, int | None]:
    """The tensors, which ones they are in words, and their step. Raises BadConfig, BadData."""
    checkpoints = Checkpoints(folder / "checkpoints")
    steps = checkpoints.steps()
    if checkpoint == "best" and (folder / "best.safetensors").is_file():
        step = _best_step(folder)
        return _read(folder / "best.safetensors", steps, step), f"best.safetensors{_of(folder, step)}", step
    if checkpoint in ("best", "last") and steps:
        step = max(steps)
        if checkpoint == "best":
            log.warning("%s has no best weights: nothing was evaluated. Step %d is taken", folder, step)
        return _from_checkpoint(checkpoints, step), f"checkpoint{_of(folder, step)}", step
    if checkpoint in ("best", "last") and (folder / "last.safetensors").is_file():
        step = (read_summary(folder) or {}).get("steps")
        return _read(folder / "last.safetensors", steps, None), f"last.safetensors{_of(folder, step)}", step
    if checkpoint in ("best", "last"):
        status, again = read_status(folder), command_to_continue(folder)
        raise BadConfig(
            f"{folder} has no weights yet: it is {status.state} at step {status.step} of {status.total or '?'}",
            hint="wait for its first evaluation or save" if status.state == "RUNNING" else f"train it: {again}",
        )
    if not str(checkpoint).isdecimal():
        raise BadConfig(f"checkpoint={checkpoint} must be best, last or a step", hint=_there_is(folder, steps))
    if int(checkpoint) not in steps:
        raise BadConfig(f"{folder} has no checkpoint of step {checkpoint}", hint=_there_is(folder, steps))
    return _from_checkpoint(checkpoints, int(checkpoint)), f"checkpoint{_of(folder, int(checkpoint))}", int(checkpoint)


def _from_checkpoint(checkpoints: Checkpoints, step: int) -> dict[str, Tensor]:
    steps = checkpoints.steps()
    try:
        state = checkpoints.load(steps[step])
    except Unresumable as error:
        others = {other: path for other, path in steps.items() if other != step}
        raise BadData(f"damaged: {error}", hint=_there_is(checkpoints.folder.parent, others)) from error
    return dict(state["ema"] or state["model"])


def _read(path: Path, steps: Mapping[int, Path], step: int | None) -> dict[str, Tensor]:
    try:
        return load(storage.read_whole(path))
    except (OSError, SafetensorError) as error:
        same = {step: steps[step]} if step is not None and step in steps else steps
        raise BadData(
            f"damaged: {path} cannot be used: {error}", hint=_there_is(path.parent, same, but=path)
        ) from error


def _there_is(folder: Path, steps: Mapping[int, Path], *, but: Path | None = None) -> str:
    """What to type for `checkpoint` in this folder."""
    words = [f"checkpoint={step}" for step in sorted(steps)]
    files = [name for name in ("best", "last") if (path := folder / f"{name}.safetensors") != but and path.is_file()]
    words += [f"checkpoint={name}" for name in files]
    return (
        f"type {', '.join(words[:-1])}{' or ' if words[:-1] else ''}{words[-1]}" if words else "there is no other one"
    )


def _of(folder: Path, step: int | None) -> str:
    """ ", step 500 of 1000", with the state of a run that is not done."""
    status = read_status(folder)
    of = f" of {status.total}" if status.total else ""
    state = "" if status.state in ("DONE", "PENDING") else f"; the run is {status.state} at step {status.step}"
    return ("" if step is None else f", step {step}{of}") + state


def _best_step(folder: Path) -> int | None:
    row = storage.read_json(folder / "checkpoints" / "best.json", BEST_KINDS)
    row = row or (read_summary(folder) or {}).get("best")
    return row["step"] if row and "step" in row else None


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


def _device_here(name: str) -> str:
    missing = (name == "cuda" and not torch.cuda.is_available()) or (
        name == "mps" and not torch.backends.mps.is_available()
    )
    return "auto" if missing else name


def _runs_in(folder: Path) -> list[Path]:
    """The runs directly below a folder, as a sweep or outputs/<name> holds them; in the order of their numbers."""
    with contextlib.suppress(OSError):
        found = [path for path in folder.iterdir() if (path / "config.yaml").is_file()]
        return sorted(found, key=lambda path: (len(path.name) if path.name.isdecimal() else 0, path.name))
    return []


def _elsewhere(folder: Path) -> str:
    """The newest run near a wrong path."""
    for place in (folder.parent, Path("outputs")):
        if runs := [run for part in (place, *_folders_in(place)) for run in _runs_in(part)]:
            return f"the newest run in {place} is {max(runs, key=_changed)}"
    return "a run directory holds config.yaml; train.py prints its path in its first line"


def _folders_in(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if path.is_dir()]
    return []


def _changed(run: Path) -> float:
    return (run / "config.yaml").stat().st_mtime
