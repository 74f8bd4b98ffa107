"""Loaders inherit shared settings and override them."""

import os
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from plainloop.data.digits import Digits
from plainloop.data.loaders import Loader, loaders, workers_for_this_rank

CONF = Path(__file__).resolve().parents[2] / "conf"


def test_the_sources_example_resolves_to_10_4_and_6_1_and_8_16():
    resolved = loaders(
        Loader(batch_size=8, num_workers=4),
        train={"batch_size": 10},
        val={"batch_size": 6, "num_workers": 1},
        test={"num_workers": 16},
    )
    pairs = {split: (loader.batch_size, loader.num_workers) for split, loader in resolved.items()}
    assert pairs == {"train": (10, 4), "val": (6, 1), "test": (8, 16)}


def test_the_sources_example_can_be_typed_as_overrides():
    typed = "batch_size=8 num_workers=4 train.batch_size=10 val.batch_size=6 val.num_workers=1 test.num_workers=16"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        data = compose("data/image_folder", overrides=[f"data.{pair}" for pair in typed.split()]).data
    pairs = {split: (data[split].batch_size, data[split].num_workers) for split in ("train", "val", "test")}
    assert pairs == {"train": (10, 4), "val": (6, 1), "test": (8, 16)}


def test_none_inherits():
    assert loaders(Loader(8, 4), val={"batch_size": None})["val"].batch_size == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val": {"shuffle": True}}, "data.val.shuffle is not known; its keys are batch_size, num_workers, prefetch, "),
        ({"batch_size": 0}, "data.batch_size=0 must be a whole number of at least 1"),
        ({"num_workers": -1}, "data.num_workers=-1 must be a whole number of at least 0 or auto"),
        ({"test": {"prefetch": 0}}, "data.test.prefetch=0 must be a whole number of at least 1"),
        ({"val": {"batch_size": "many"}}, "data.val.batch_size=many must be"),
        (
            {"val": {"batch_size_per_device": 0}},
            "data.val.batch_size_per_device=0 must be a whole",
        ),
        ({"train": {"batch_size_per_device": 8}}, "is for val and test only; type data.batch_size_per_device=8, and"),
        ({"train_eval_samples": -1}, "data.train_eval_samples=-1 must be at least 0; 0 switches it off"),
        ({"mean": [0.5, 0.5]}, r"data.mean=\[0.5, 0.5\] must have one value for each of the 1 channels"),
        ({"std": [0]}, r"data.std=\[0\] must be above 0"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(settings, message):
    with pytest.raises(ValueError, match=message):
        Digits.facts(**settings)


def test_auto_is_four_workers_and_no_more_than_this_ranks_share_of_the_cpus(monkeypatch):
    granted = len(os.sched_getaffinity(0))
    assert workers_for_this_rank() == min(4, granted)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(4 * granted))
    assert workers_for_this_rank() == 1
    assert Loader(8, "auto").processes() == 1
    assert Loader(8, 3).processes() == 3


def test_evaluation_takes_its_share_of_the_global_batch_or_its_own_size_per_device():
    assert loaders(Loader(8, 4))["val"].eval_batch(world_size=4) == 2
    assert loaders(Loader(2, 4))["val"].eval_batch(world_size=4) == 1
    assert loaders(Loader(8, 4), val={"batch_size_per_device": 64})["val"].eval_batch(world_size=4) == 64
