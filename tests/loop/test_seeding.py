"""Which generators the loop seeds at every step."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from plainloop.loop.state import TrainState
from plainloop.run.run import torch_draws_alone
from tests.harness.tensors import equal
from tests.harness.toys import Memory, toy_state, toy_trainer

PYTHON = {"random": random.random, "numpy": np.random.rand}


def ended(draw: Any, state: TrainState, recorder: Memory, **changed: Any) -> dict[str, Any]:
    """A run whose images become brighter by what `draw` gives."""

    def augment(batch: Any, step: int) -> Any:
        return batch | {"image": batch["image"] + draw()}

    toy_trainer(recorder, augment=(augment,), save_every=5, **changed).fit(state, state.model)
    return state.state_dict()


def goes_on_exactly(draw: Any, **changed: Any) -> bool:
    recorder = Memory()
    undisturbed = ended(draw, toy_state(), recorder, **changed)
    state = toy_state(seed=5)
    state.load_state_dict(recorder.saved[5])
    return equal(ended(draw, state, Memory(), **changed), undisturbed)


@pytest.mark.parametrize("name", PYTHON)
def test_what_draws_from_pythons_or_numpys_generator_goes_on_exactly(name: str) -> None:
    assert goes_on_exactly(PYTHON[name])
    assert not goes_on_exactly(PYTHON[name], torch_draws_alone=True)


def test_torchs_generators_are_seeded_in_either_case() -> None:
    assert goes_on_exactly(lambda: torch.rand(()), torch_draws_alone=True)


OURS = {"_target_": "plainloop.augment.geometry.horizontal_flip"}
CASES: dict[str, tuple[dict[str, Any], list[str], bool]] = {
    "ours": ({"flip": OURS}, [], True),
    "torchvision": ({"x": {"_target_": "torchvision.transforms.v2.AugMix"}}, [], True),
    "timm's mixing draws from NumPy": ({"x": {"_target_": "timm.data.Mixup"}}, [], False),
    "torchvision's first transforms draw from Python": (
        {"x": {"_target_": "plainloop.x", "inner": [{"_target_": "torchvision.transforms.RandomOrder"}]}},
        [],
        False,
    ),
    "somebody's package": ({"flip": OURS}, ["mine"], False),
}


@pytest.mark.parametrize(("augment", "plugins", "alone"), CASES.values(), ids=CASES)
def test_pythons_and_numpys_generators_are_left_out_where_nobody_draws_from_them(
    augment: dict[str, Any], plugins: list[str], alone: bool
) -> None:
    parts = {"task": {"_target_": "plainloop.tasks.X"}, "model": {"_target_": "timm.create_model"}}
    assert torch_draws_alone({**parts, "augment": augment, "plugins": plugins}) is alone
