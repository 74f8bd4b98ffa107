"""What fits an annotation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch

from plainloop.config.settings import SETTINGS, later_keys, with_later_keys
from plainloop.config.types import fields_of, misfit, signature_of
from plainloop.contracts import Steps
from tests.harness.commands import passed


def names_what_is_not_imported(batch: "dict[str, Tensor]", *, until: "Steps | None" = None) -> None:  # noqa: F821
    pass


def test_an_annotation_that_cannot_be_resolved_hides_no_other() -> None:
    parameters = signature_of(names_what_is_not_imported).parameters
    assert misfit("abc", parameters["batch"].annotation) is None
    assert misfit("abc", parameters["until"].annotation) is not None


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (0.1, float), (1, float), (3, int), (True, bool), ("a", str), ("a/b", Path), (None, None), (None, float | None),
        (0.1, float | torch.Tensor), ([0.9, 0.999], tuple[float, float]), ([0.9, 0.999], tuple[float, ...]),
        ([1, 2], list[int]), ({"a": 1.0}, dict[str, float]), ("max", Literal["max", "min"]),
        ("5ep", Steps), (0, Steps),
        (["5ep", "10%"], Sequence[Steps]), ("x", torch.Tensor), (object(), torch.nn.Module),
        ([1], list[int] | None),
    ],
)  # fmt: skip
def test_what_fits(value: object, annotation: object) -> None:
    assert misfit(value, annotation) is None


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("abc", float, "a number"),
        ("0.1", float, "a number"),
        (True, float, "a number"),
        (True, int, "a whole number"),
        (1.5, int, "a whole number"),
        (1, bool, "true or false"),
        ("true", bool, "true or false"),
        (1, str, "text"),
        (None, float, "a number"),
        ("abc", float | torch.Tensor, "a number"),
        ([0.9], tuple[float, float], "a list of 2"),
        ([0.9, "x"], tuple[float, float], "a list of which each is a number"),
        ({"a": "x"}, dict[str, float], "a mapping whose values are each a number"),
        ("mean", Literal["max", "min"], "one of max, min"),
        (5, Steps, "a duration with its unit: 5ep or 5st"),
        ([30, 60], Sequence[Steps], "a list of which each is a duration with its unit: 30ep or 30st"),
        ("5 epochs", Steps, "a duration: 5ep (epochs), 1000st (optimizer steps) or 10% (of the run, 100% at most)"),
    ],
)
def test_what_does_not_fit_says_what_would(value: object, annotation: object, expected: str) -> None:
    assert misfit(value, annotation) == expected


def test_a_bare_number_is_steps_only_where_the_name_says_so() -> None:
    assert misfit(50, Steps, bare_steps=True) is None
    assert misfit(50, Steps, bare_steps=False) is not None


def test_signatures_tell_what_the_run_gives_from_what_the_config_gives() -> None:
    found = signature_of(torch.optim.SGD)
    assert found.parameters["params"].required
    assert not found.parameters["lr"].required
    assert not found.open


@pytest.mark.parametrize("kind", SETTINGS.values())
def test_every_setting_says_its_type(kind: type) -> None:
    assert all(field.annotation is not None for field in fields_of(kind).values())


def test_a_config_saved_before_a_key_existed_has_it_as_conf_gives_it() -> None:
    now = passed().config
    assert later_keys()["trainer.early_stop.monitor"] is None
    old = {key: value for key, value in now.items() if key != "threads"}
    old |= {"checkpoint": {key: value for key, value in now["checkpoint"].items() if key not in ("monitor", "mode")}}
    assert with_later_keys(old) == now
