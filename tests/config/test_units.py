"""Durations and the clock: the sources' own numbers."""

import pytest

from plainloop.config.durations import Clock, clock_of, parse


def config(num_train: int, batch_size: int, duration: str, **data: object) -> dict:
    return {
        "facts": {"num_train": num_train},
        "data": {"batch_size": batch_size, **data},
        "trainer": {"duration": duration},
    }


def test_an_epoch_is_the_whole_batches_of_the_data() -> None:
    assert clock_of(config(800, 8, "10ep")) == Clock(steps_per_epoch=100, total_steps=1000)
    assert clock_of(config(807, 8, "10ep")) == Clock(steps_per_epoch=100, total_steps=1000)  # the rest is dropped


def test_an_epoch_counts_the_training_loaders_batches() -> None:
    assert clock_of(config(800, 8, "1ep", train={"batch_size": 10})).steps_per_epoch == 80
    assert clock_of(config(800, 8, "1ep", train={"batch_size": None})).steps_per_epoch == 100


@pytest.mark.parametrize(
    ("text", "steps"),
    [("213ep", 21300), ("1000st", 1000), ("10%", 2700), ("0.5ep", 50), ("2.5%", 675), (" 3 ep ", 300), (7, 7)],
)
def test_every_unit_is_steps(text: str, steps: int) -> None:
    assert Clock(steps_per_epoch=100, total_steps=27000).steps(text) == steps


def test_steps_are_epochs_again() -> None:
    assert Clock(100, 1000).epochs(250) == 2.5


@pytest.mark.parametrize("text", ["5", "ep", "5 epochs", "-5ep", "1.5st", "5ep,6ep", "", "1e3st", "5Ep"])
def test_what_is_no_duration_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"5ep|whole number"):
        parse(text)
