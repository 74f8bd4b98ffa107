"""What a run's report is made of: its files, read as somebody else's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plainloop.config.durations import Clock, clock_of
from plainloop.errors import BadConfig, BadData
from plainloop.loggers.jsonl import read_rows
from plainloop.loggers.overrides import overrides_of
from plainloop.run_dir.config_file import read_config
from plainloop.run_dir.evaluation import Evaluation, read_evaluation
from plainloop.run_dir.status import Status, read_attempts, read_status, read_summary
from plainloop.system import storage


@dataclass(frozen=True)
class Run:
    folder: Path
    config: Mapping[str, Any]
    clock: Clock
    status: Status
    rows: Sequence[Mapping[str, float]]  # of metrics.jsonl
    summary: Mapping[str, Any]  # {} before the end
    environment: Mapping[str, Any]  # {} where it is not known
    attempts: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    evaluation: Evaluation | None
    overrides: Sequence[str]  # as they were typed
    evaluation_problem: str = ""  # why there is no evaluation, where its files cannot be read

    @property
    def class_names(self) -> list[str]:
        names = self.config["facts"]["class_names"]
        return list(map(str, names)) if isinstance(names, list) else []

    def class_name(self, number: float) -> str:
        names = self.class_names
        return names[int(number)] if 0 <= number < len(names) else f"{number:g}"

    @property
    def monitor(self) -> str:
        """The metric that decides the best checkpoint, with its split: "val/top1"; "" where nothing tells it."""
        if isinstance(best := self.summary.get("best"), Mapping):
            return str(best["metric"])
        best_file = storage.read_json(self.folder / "checkpoints" / "best.json", {"metric": str}) or {}
        found = [key for row in self.rows for key in row if key.startswith("val/") and key != "val/loss"]
        return str(best_file.get("metric") or (found or ["val/loss"])[0])

    def best(self) -> tuple[int, float] | None:
        """Step and value of the best evaluation so far."""
        if isinstance(best := self.summary.get("best"), Mapping) and best["value"] is not None:
            return int(best["step"]), float(best["value"])
        row = storage.read_json(self.folder / "checkpoints" / "best.json", {"value": float | None, "step": int}) or {}
        if row.get("value") is not None and "step" in row:
            return int(row["step"]), float(row["value"])
        return None


def read_run(folder: Path) -> Run:
    """Raises BadConfig where there is no run, and BadData for files that no run writes, but for evaluation/."""
    config = read_config(folder)
    try:
        clock = clock_of(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise BadConfig(f"{folder / 'config.yaml'} cannot be used: {error}") from error
    attempts = read_attempts(folder)
    evaluation, problem = None, ""
    try:
        evaluation = read_evaluation(folder)
    except BadData as error:
        problem = str(error)
    return Run(
        folder=folder,
        config=config,
        clock=clock,
        status=read_status(folder),
        rows=read_rows(folder / "metrics.jsonl"),
        summary=read_summary(folder) or {},
        environment=storage.read_json(folder / "environment.json") or {},
        attempts=attempts,
        events=storage.read_lines(folder / "events.jsonl", {"kind": str, "time": float}),
        evaluation=evaluation,
        overrides=overrides_of(folder),
        evaluation_problem=problem,
    )
