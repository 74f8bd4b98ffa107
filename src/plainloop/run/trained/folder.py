"""Which files of a run's folder are meant, and what is wrong with a folder that has none of them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from plainloop.config.settings import with_later_keys
from plainloop.errors import BadConfig, BadData, Unresumable
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.config_file import read_config
from plainloop.run_dir.status import BEST_KINDS, command_to_continue, read_status, read_summary
from plainloop.system import storage

log = logging.getLogger("plainloop")

MOST_NAMES = 8  # in a message
_CHECKPOINT = re.compile(r"step_(\d+)(\.b)?\.pt")


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


def run_of_file(path: Path, checkpoint: str | None) -> tuple[Path, str | None]:
    """The run and the checkpoint that a file in a run's folder stands for; any other path as it is.

    >>> run_of_file(Path("tests/lifecycle/golden_run/sweep/0/last.safetensors"), None)
    (PosixPath('tests/lifecycle/golden_run/sweep/0'), 'last')
    """
    of_step = _CHECKPOINT.fullmatch(path.name)
    if of_step and path.parent.name == "checkpoints" and (path.parent.parent / "config.yaml").is_file():
        return path.parent.parent, checkpoint or str(int(of_step[1]))
    if path.name in ("best.safetensors", "last.safetensors") and (path.parent / "config.yaml").is_file():
        return path.parent, checkpoint or path.stem
    return path, checkpoint


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
        if status.state == "DONE":
            what = "is finished, and its weights are gone: there are no best.safetensors, last.safetensors, checkpoints"
            raise BadConfig(f"{folder} {what}", hint="put the files back, or train a new run")
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


def _runs_in(folder: Path) -> list[Path]:
    """The runs directly below a folder, as a sweep or outputs/<name> holds them; in the order of their numbers."""
    with contextlib.suppress(OSError):
        found = [path for path in folder.iterdir() if path.name[0] != "." and (path / "config.yaml").is_file()]
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
