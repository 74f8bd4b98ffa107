"""A logger whose failures end nothing: neither training nor the other loggers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plainloop.contracts import Logger
from plainloop.errors import printable

log = logging.getLogger("plainloop")


class Forgiving:
    """Passes everything on. One that cannot start ends the run before its first step: what it needs is missing."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self._warned = False

    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        self.logger.start(folder, config, step)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """After a failure, warns once and tries again with the next row."""
        try:
            self.logger.log(step, scalars)
            self._warned = False
        except Exception as error:  # noqa: BLE001  # of any logger that a user may have written
            if not self._warned:
                self._warn(error, f"the row of step {step} is in metrics.jsonl")
            self._warned = True

    def finish(self, summary: Mapping[str, Any]) -> None:
        try:
            self.logger.finish(summary)
        except Exception as error:  # noqa: BLE001  # likewise
            self._warn(error, "the summary is in summary.json")

    def _warn(self, error: Exception, instead: str) -> None:
        name = type(self.logger).__name__
        log.warning(printable(f"the logger {name} has failed ({type(error).__name__}: {error}); {instead}"))
