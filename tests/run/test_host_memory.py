"""The memory of a long run on a set in memory does not grow with its epochs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from tests.harness import inject
from tests.harness.runs import SMALL, train

EPOCHS, STEPS = 50, 5
GROWS = 4_000_000  # bytes, of arenas and caches; the images of ten epochs are 900 kB


def resident_bytes() -> int:
    """With shared pages: the run is a fork, and what it shares with the test becomes its own as it is used."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(folder: Path, kept: int) -> int:
    """From the tenth epoch to the last, where every step keeps `kept` bytes."""

    def prepare() -> None:
        leak: list[torch.Tensor] = []
        seen: list[int] = []

        def act(finished: int, batch: object) -> None:
            leak.append(torch.ones(kept, dtype=torch.uint8))
            if finished in (10 * STEPS, EPOCHS * STEPS - 1):
                seen.append(resident_bytes())
                Path("seen.json").write_text(json.dumps(seen))

        inject.before_updates(act)

    folder.mkdir()
    more = (f"trainer.duration={EPOCHS}ep", "trainer.save_every=25ep", "augment=[crop_flip,random_erasing,cutmix]")
    ended = train(folder, *SMALL, *more, prepare=prepare)
    assert ended.code == 0, ended.err
    first, last = json.loads((folder / "seen.json").read_text())
    return last - first


# 100 MB are kept: what the imports have freed holds some ten.
@pytest.mark.slow
def test_memory_is_flat_over_fifty_epochs_and_a_leak_is_noticed(tmp_path: Path) -> None:
    assert growth(tmp_path / "plain", 0) < GROWS < growth(tmp_path / "leaking", 500_000)
