"""Going back to an earlier checkpoint of a run: what came later moves to `discarded/<number>/`."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from plainloop.errors import BadConfig
from plainloop.run_dir.checkpoint_format import FILE, MANIFEST
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.system import storage

log = logging.getLogger("plainloop")

# What belongs to the later steps, beside their checkpoints. The loggers cut their rows when they start.
RESULTS = ("summary.json", "last.safetensors", "best.safetensors", "report.html", "evaluation", "wandb")
ROWS = ("metrics.jsonl", "metrics.csv")


def require_step(checkpoints: Checkpoints, step: int) -> None:
    """Raises BadConfig when there is no checkpoint of the step, Unresumable when it is damaged."""
    steps = checkpoints.steps()
    if step not in steps:
        there = f"its checkpoints are of steps {', '.join(map(str, steps))}" if steps else "it has no checkpoints"
        hint = f"type resume_step={min(steps, key=lambda one: abs(one - step))}" if steps else "leave resume_step out"
        raise BadConfig(f"resume_step={step}: {checkpoints.folder.parent} has none of that step; {there}", hint=hint)
    checkpoints.load(steps[step])


def go_back(folder: Path, checkpoints: Checkpoints, step: int) -> Path | None:
    """Makes the checkpoint of `step` the newest. Returns the folder of what was discarded; None if nothing was.

    Everything is put into that folder before the first file is removed here, so a kill in between loses nothing, and
    the same command completes it.
    """
    later = _later_files(checkpoints.folder, step)
    if not later and not (folder / "summary.json").exists():
        return None
    discarded = folder / "discarded" / str(1 + sum(1 for _ in folder.glob("discarded/*")))
    storage.make_folder(discarded / "checkpoints")
    results = [folder / name for name in RESULTS if (folder / name).exists()]
    for path in (*later, *results):
        _copy(path, discarded / path.relative_to(folder))
    for name in ROWS:
        if (folder / name).exists():
            shutil.copyfile(folder / name, discarded / name)
    storage.sync_folder(discarded / "checkpoints")
    storage.sync_folder(discarded)
    for path in (*results, *later):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    storage.sync_folder(checkpoints.folder)
    log.info("going back to step %d; what came later is in %s", step, discarded)
    return discarded


def _later_files(checkpoints: Path, step: int) -> list[Path]:
    """The newest first, and of each step its manifest first: a file without one was never committed."""
    found = []
    for path in checkpoints.iterdir():
        match = MANIFEST.fullmatch(path.name) or FILE.fullmatch(path.name)
        if match and int(match[1]) > step:
            found.append((int(match[1]), path.suffix == ".json", path))
    return [path for *_, path in sorted(found, reverse=True)]


def _copy(path: Path, copy: Path) -> None:
    """The same file under a second name, where the file system has links."""
    if path.is_dir():
        shutil.copytree(path, copy, copy_function=_link_or_copy)
    else:
        _link_or_copy(path, copy)


def _link_or_copy(path: str | Path, copy: str | Path) -> None:
    try:
        os.link(path, copy)
    except OSError:
        shutil.copy2(path, copy)
