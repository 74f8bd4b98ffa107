"""The memory of a long run does not grow with its epochs."""

import os
from multiprocessing import active_children
from pathlib import Path

import pytest

from plainloop.augment.crop import RandomResizedCrop
from plainloop.data.image_folder import ImageFolder
from tests.harness.photos import write_photographs

EPOCHS, STEPS = 50, 7  # 28 of 36 images are for training
GROWS = 6_000_000  # bytes: a tenth of what is read again and again


def own_bytes(pid):
    """Memory that no other process shares, of which a leak is made."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Private_Clean")))


def growth(root, tmp_path, cache, transform):
    """From the tenth epoch to the last, of this process and of its worker."""
    before = set(active_children())
    data = ImageFolder(
        root=str(root), batch_size=4, image_size=64, num_workers=1, device="cpu", cache=cache,
        cache_dir=str(tmp_path / "caches"), sample_transforms=(transform,),
    )  # fmt: skip
    stream, seen = data.train_batches(0, EPOCHS * STEPS, seed=0), []
    for step, _ in enumerate(stream):
        if step in (10 * STEPS, EPOCHS * STEPS - 10):
            pids = [os.getpid(), *(worker.pid for worker in set(active_children()) - before)]
            seen.append(sum(map(own_bytes, pids)))
            assert len(pids) == 2
    return seen[1] - seen[0]


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_memory_is_flat_over_fifty_epochs(tmp_path, cache):
    root = write_photographs(tmp_path / "photographs", per_class=18)
    assert growth(root, tmp_path, cache, RandomResizedCrop(size=64).sample) < GROWS


@pytest.mark.slow
def test_images_that_are_kept_are_noticed(tmp_path):
    root, kept = write_photographs(tmp_path / "photographs", per_class=18), []

    def keep(sample):
        kept.append(sample["image"].clone())
        return sample

    assert growth(root, tmp_path, "none", keep) > GROWS
