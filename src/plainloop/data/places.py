"""Where data sets lie, and how they get there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from plainloop.errors import BadData


def cache_folder() -> Path:
    """Where downloads go when data.root names no place."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "plainloop"


def download_once(fetch: Callable[[], object], into: Path) -> None:
    """Lets rank 0 fetch while the others wait; `fetch` does nothing where all is there. Collective."""
    from plainloop.distributed import collectives

    failed = ""
    if collectives.rank() == 0:
        try:
            fetch()
        except (OSError, RuntimeError) as error:  # no network, no permission, a file that is not what was announced
            failed = str(error) or type(error).__name__
    failed = collectives.from_rank_0(failed)
    if failed:
        raise BadData(
            f"the download into {into} failed: {failed}", hint="fetch the files elsewhere and set data.root to them"
        )
