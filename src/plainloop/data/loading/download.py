"""Downloads of published data sets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from plainloop.errors import BadData


def cache_folder() -> Path:
    """Where downloads are kept if data.root is not given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "plainloop"


def download_once(fetch: Callable[[], object], into: Path) -> None:
    """Rank 0 calls `fetch`, which downloads what is missing; the other ranks wait. Collective. Raises BadData."""
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
