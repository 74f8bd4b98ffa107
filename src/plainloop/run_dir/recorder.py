"""What a run leaves on disk while it trains: rows, checkpoints, weights, events, a summary. Rank 0's alone."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from plainloop.config.durations import Clock, train_batch_size
from plainloop.contracts import Logger, Task
from plainloop.errors import CannotWrite, NonFinite
from plainloop.loggers.console import Console
from plainloop.loggers.jsonl import Jsonl
from plainloop.loop.state import TrainState
from plainloop.run_dir.checkpoints import Checkpoints
from plainloop.run_dir.environment import environment, fingerprint, fingerprint_differences
from plainloop.run_dir.journal import Journal
from plainloop.run_dir.summary import summarize
from plainloop.run_dir.weights import save_weights
from plainloop.system import storage

log = logging.getLogger("plainloop")


class Recorder:
    """Open for the time of its block; a block that ends well leaves the last weights and summary.json behind."""

    def __init__(
        self,
        config: Mapping[str, Any],
        state: TrainState,
        checkpoints: Checkpoints,
        journal: Journal,
        loggers: Sequence[Logger],
        *,
        clock: Clock,
        task: Task,
    ) -> None:
        self.folder = journal.folder
        self.config, self.state, self.checkpoints, self.journal = config, state, checkpoints, journal
        self.total, self.metric = clock.total_steps, f"val/{task.monitor}"
        self.console = Console(
            total_steps=clock.total_steps,
            steps_per_epoch=clock.steps_per_epoch,
            batch_size=train_batch_size(config),
            monitor=task.monitor,
        )
        self.loggers = [*loggers, self.console]
        self.environment = environment()
        self.summary: dict[str, Any] = {}

    def __enter__(self) -> Recorder:
        self.settle_environment()
        for logger in self.loggers:
            logger.start(self.folder, self.config, self.state.reported)
        self.journal.running(self.state.step, self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.console.finish({})  # first: while its bar is up, it hides what else is to be said
        try:
            if error is None:
                save_weights(self.state.evaluated, self.folder / "last.safetensors")
                self.settle_best()
            self.summary = self.summarize()
            if error is None:
                storage.write_json(self.folder / "summary.json", self.summary)
        finally:
            for logger in self.loggers:
                logger.finish(self.summary)

    def advance(self, step: int) -> None:
        self.console.advance(step)

    def row(self, step: int, scalars: dict[str, float], *, best: bool) -> None:
        for logger in self.loggers:
            if logger is not self.console:
                logger.log(step, scalars)
        self.console.log(step, scalars, best=best)
        self.journal.running(step, self.total)

    def save(self, state: TrainState, windows: list[Any], *, best: bool, required: bool) -> None:
        """The weights that others read go first: a run killed in between writes the same ones again.

        A save that fails and need not be ends nothing, unless it holds a new best: those weights would be lost.
        """
        if not state.finite():
            raise NonFinite(
                f"after step {state.step} some weights or averages are not finite; they were not saved",
                hint=f"the last finite checkpoint is in {self.checkpoints.folder}",
            )
        try:
            for logger in self.loggers:
                if isinstance(logger, Jsonl):
                    logger.sync()  # a checkpoint never outlives the rows before it
            if best:
                save_weights(state.evaluated, self.folder / "best.safetensors")
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

    def bad_step(self, step: int, *, lr: float, samples: list[int], skipped: bool) -> str:
        self.journal.event("skipped" if skipped else "nonfinite", step=step, lr=lr, samples=samples)
        plugins = f" --plugins {shlex.join(self.config['plugins'])}" if self.config["plugins"] else ""
        command = f"python scripts/replay_step.py {shlex.quote(str(self.folder))} {step}{plugins}"
        if skipped:
            log.warning("step %d: a loss or gradient is not a number; its update was left out (%s)", step, command)
        return command

    def settle_environment(self) -> None:
        """Writes environment.json at the first start; says what bit-exactness depends on and has changed since."""
        path = self.folder / "environment.json"
        began = storage.read_json(path)
        if began is None:
            storage.write_json(path, self.environment)
            return
        changed = fingerprint_differences(fingerprint(began), fingerprint(self.environment))
        if changed:
            log.warning("not all is as when this run began; the last bits may differ: %s", "; ".join(changed))
            self.journal.event("environment_changed", step=self.state.step, changes=changed)

    def settle_best(self) -> None:
        """Without any evaluation the last weights are the best ones."""
        if self.state.best is None:
            save_weights(self.state.evaluated, self.folder / "best.safetensors")

    def summarize(self) -> dict[str, Any]:
        best = None
        if self.state.best is not None:
            best = {"metric": self.metric, "value": self.state.best, "step": self.state.best_step}
        return summarize(
            self.folder,
            config=self.config,
            model=self.state.model,
            best=best,
            step=self.state.step,
            environment=self.environment,
        )


class Silent:
    """What ranks other than 0 have for a recorder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary: dict[str, Any] = {}

    def __enter__(self) -> Silent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def advance(self, step: int) -> None:
        pass

    def row(self, step: int, scalars: dict[str, float], *, best: bool) -> None:
        pass

    def save(self, state: TrainState, windows: list[Any], *, best: bool, required: bool) -> None:
        pass

    def bad_step(self, step: int, *, lr: float, samples: list[int], skipped: bool) -> str:
        return ""
