"""What a run leaves on disk while it trains: rows, checkpoints, weights, events, a summary. Rank 0 only."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from plainloop.contracts import Logger
from plainloop.errors import CannotWrite, NonFinite
from plainloop.loggers.console import Console
from plainloop.loggers.forgiving import Forgiving
from plainloop.loggers.jsonl import Jsonl
from plainloop.loop.evaluation.collect import Collected
from plainloop.loop.state import TrainState
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.environment import environment, fingerprint, fingerprint_differences
from plainloop.run_dir.evaluation import write_evaluation
from plainloop.run_dir.journal import Journal
from plainloop.run_dir.summary import summarize
from plainloop.run_dir.weights import NOTHING, save_weights, write_weights
from plainloop.system import storage

log = logging.getLogger("plainloop")


class Recorder:
    """Open for the time of its block; a block that ends well leaves the last weights and summary.json behind.

    Args:
        loggers: those that the config names, beside metrics.jsonl and the console.
        total_steps: of the whole run.
        metric: decides the best checkpoint: "val/top1".
        mode: which of its values is better, max or min.
        about: what the weights and the summary say of the model.
        timm_config: what timm reads beside the weights; None for a model that is not timm's.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        state: TrainState,
        checkpoints: Checkpoints,
        journal: Journal,
        loggers: Sequence[Logger],
        *,
        console: Console,
        total_steps: int,
        metric: str,
        mode: str = "max",
        about: Mapping[str, Any] = NOTHING,
        timm_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = journal.folder
        self.config, self.state, self.checkpoints, self.journal = config, state, checkpoints, journal
        self.metrics, self.console = Jsonl(), console
        self.loggers: list[Logger] = [Forgiving(logger) for logger in loggers]
        self.total, self.metric, self.mode = total_steps, metric, mode
        self.about, self.timm_config = about, timm_config
        self.environment = environment()
        self.summary: dict[str, Any] = {}
        kinds = {"kind": str, "why": str, "split": str, "index": int}
        events = storage.read_lines(self.folder / "events.jsonl", kinds)
        self.bad_images: dict[tuple[str, int], str] = {}  # (split, index) of each that was skipped, and why
        self.bad_images |= {(e["split"], e["index"]): e["why"] for e in events if e.get("kind") == "bad_image"}
        self._open = ExitStack()

    def __enter__(self) -> Recorder:
        self.compare_environment()
        if self.timm_config is not None:
            storage.write_json(self.folder / "config.json", self.timm_config)
        self.restore_best()
        with ExitStack() as stack:  # where one cannot start, those before it finish
            for logger in self.all_loggers():
                logger.start(self.folder, self.config, self.state.reported)
                stack.callback(self._finish, logger)
            self._open = stack.pop_all()
        self.journal.running(self.state.step, self.total)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Finishes every logger, whatever fails. What ended the block is raised, not what failed after it."""
        self.console.finish()  # first: its bar hides what is printed next
        try:
            with self._open:
                if error is None:
                    self.journal.require_same_folder()
                    self.write_last_weights()
                self.summary = self.summarize()
                if error is None:
                    storage.write_json(self.folder / "summary.json", self.summary)
        except Exception as second:  # of any logger that a user may have written
            if error is None:
                raise
            log.warning("after that, %s: %s", type(second).__name__, second)

    def all_loggers(self) -> list[Logger]:
        return [self.metrics, *self.loggers]

    def _finish(self, logger: Logger) -> None:
        logger.finish(self.summary)

    def advance(self, step: int) -> None:
        self.console.advance(step)

    def evaluating(self, split: str, rows: int) -> None:
        self.console.evaluating(split, rows)

    def evaluated(self, step: int, metrics: dict[str, float], collected: Collected) -> None:
        """Where it cannot be written, training goes on: it changes no result."""
        self.journal.require_same_folder()
        try:
            write_evaluation(self.folder, collected, split="val", step=step, metrics=metrics)
        except CannotWrite as error:
            log.warning("%s; the report will lack the samples of step %d", error, step)

    def row(self, step: int, scalars: dict[str, float], *, best: bool) -> None:
        self.journal.require_same_folder()
        for logger in self.all_loggers():
            logger.log(step, scalars)
        self.console.log(step, scalars, best=best)
        self.journal.running(step, self.total)

    def save(self, state: TrainState, windows: list[Any], *, best: bool, required: bool) -> None:
        """Writes best.safetensors before the checkpoint: a run killed in between writes the same weights again.

        If a save fails that is not required, training goes on, unless it holds a new best, which would be lost.
        """
        if not state.finite():
            raise NonFinite(
                f"after step {state.step} some weights or averages are not finite; they were not saved",
                hint=f"the last finite checkpoint is in {self.checkpoints.folder}",
            )
        self.journal.require_same_folder()
        try:
            self.metrics.sync()  # so that no checkpoint is newer than its rows, even after a power cut
            if best:
                save_weights(state.evaluated, self.folder / "best.safetensors", self.about)
            path = self.checkpoints.save(
                state.state_dict(windows),
                step=state.step,
                best=best,
                final=state.step == self.total,
                metric=self.metric,
                value=state.best,
            )
            self.journal.running(state.step, self.total, checkpoint=path.name)
        except CannotWrite as error:
            if required or best:
                raise
            log.warning("%s; training goes on, the checkpoint before stays", error)
            self.journal.event("save_failed", step=state.step, why=str(error))

    def skipped(self, step: int, samples: list[dict[str, Any]]) -> None:
        new = []
        for sample in samples:
            place = sample["split"], sample["index"]
            if place not in self.bad_images:
                self.bad_images[place] = sample["why"]
                self.journal.event("bad_image", step=step, **sample)
                new.append(sample["why"])
        if new:
            more = f", and {len(new) - 1} more: see events.jsonl" if len(new) > 1 else ""
            log.warning("skipped: %s%s", new[0], more)

    def bad_step(self, step: int, *, lr: float, samples: list[int], skipped: bool) -> str:
        self.journal.event("skipped" if skipped else "nonfinite", step=step, lr=lr, samples=samples)
        plugins = f" --plugins {shlex.join(self.config['plugins'])}" if self.config["plugins"] else ""
        command = f"python scripts/replay_step.py {shlex.quote(str(self.folder))} {step}{plugins}"
        if skipped:
            log.warning("step %d: a loss or gradient is not a number; its update was left out (%s)", step, command)
        return command

    def compare_environment(self) -> None:
        """Writes environment.json at the first start; later warns where exact results depend on what has changed."""
        path = self.folder / "environment.json"
        first = storage.read_json(path)
        if first is None:
            storage.write_json(path, self.environment)
            return
        changed = fingerprint_differences(fingerprint(first), fingerprint(self.environment))
        if changed:
            log.warning("the run began under other conditions, so the last bits may differ: %s", "; ".join(changed))
            self.journal.event("environment_changed", step=self.state.step, changes=changed)

    def restore_best(self) -> None:
        """Writes best.safetensors again where it is gone. Without that checkpoint, the next evaluation is the best."""
        path, step = self.folder / "best.safetensors", self.state.best_step
        if step is None or not self.checkpoints.save_best or path.is_file():
            return
        if (file := self.checkpoints.steps().get(step)) is not None:
            saved = self.checkpoints.load(file)
            write_weights(saved["ema"] or saved["model"], path, self.about)
            return
        log.warning("the weights of the best evaluation, at step %d, are gone; the next evaluation is the best", step)
        self.state.best = self.state.best_step = None

    def write_last_weights(self) -> None:
        """Without any evaluation the last weights are also the best."""
        for name in ("last", *(() if self.state.best is not None else ("best",))):
            save_weights(self.state.evaluated, self.folder / f"{name}.safetensors", self.about)
        if self.state.stopped_early:
            self.journal.why_done = {"reason": "early_stop", "message": self.state.stopped_early}

    def summarize(self) -> dict[str, Any]:
        best = None
        if self.state.best is not None:
            best = {"metric": self.metric, "value": self.state.best, "step": self.state.best_step, "mode": self.mode}
        return summarize(
            self.folder,
            config=self.config,
            about=self.about,
            model=self.state.model,
            best=best,
            step=self.state.step,
            stopped_early=self.state.stopped_early,
            environment=self.environment,
            bad_images=list(self.bad_images.values()),
        )


class Silent:
    """The recorder of ranks other than 0: it does nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary: dict[str, Any] = {}

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def advance(self, step: int) -> None: ...

    def evaluating(self, split: str, rows: int) -> None: ...

    def evaluated(self, step: int, metrics: dict[str, float], collected: Collected) -> None: ...

    def row(self, step: int, scalars: dict[str, float], *, best: bool) -> None: ...

    def save(self, state: TrainState, windows: list[Any], *, best: bool, required: bool) -> None: ...

    def skipped(self, step: int, samples: list[dict[str, Any]]) -> None: ...

    def bad_step(self, step: int, *, lr: float, samples: list[int], skipped: bool) -> str:
        return ""
