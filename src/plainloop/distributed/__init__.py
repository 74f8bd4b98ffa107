"""One run on many processes. `from plainloop import distributed` has the collectives: `distributed.sum_(counts)`."""

from typing import Any

_COLLECTIVES = ("rank", "world_size", "sum_", "max_", "barrier", "from_rank_0", "share_buffers", "gather")


def __getattr__(name: str) -> Any:
    """Imports the collectives at their first use, because they load torch: `ranks` answers without it."""
    if name not in _COLLECTIVES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from plainloop.distributed import collectives

    return getattr(collectives, name)
