from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tests.harness.runs import SMALL, remains, train


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What a run leaves that nobody touches, by what is added to the small command."""

    @cache
    def left(*more: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("undisturbed")
        ended = train(folder, *SMALL, *more, "hydra.run.dir=run")
        assert ended.code == 0, ended.err
        return remains(folder / "run")

    return left
