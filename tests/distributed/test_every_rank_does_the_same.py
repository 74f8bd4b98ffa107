"""What one rank sees, all ranks act on; what one rank draws is its own; what is saved is of the plain model."""

from __future__ import annotations

import ast
import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from plainloop.config import parts
from plainloop.config.build import settings
from plainloop.config.durations import clock_of
from plainloop.config.explain.problems import InvalidConfig
from plainloop.config.settings import TrainerSettings
from plainloop.contracts import Batch
from plainloop.distributed import collectives
from plainloop.system import rng
from tests.distributed.test_one_process_would_say_the_same import wrap
from tests.harness.configs import checked
from tests.harness.ranks import on_ranks
from tests.harness.toys import toy_state, toy_trainer

SRC = Path(__file__).resolve().parents[2] / "src"


class Draws:
    """Notes what the ranks draw; rank 1 draws more often."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def __call__(self, batch: Batch, step: int) -> Batch:
        self.drawn.append(float(torch.rand(())))
        if collectives.rank() == 1:
            torch.rand(17)
        return batch


def draws() -> list[float]:
    seen, state = Draws(), toy_state()
    toy_trainer(augment=[seen]).fit(state, wrap(state.model))
    return seen.drawn


def test_each_rank_draws_its_own_numbers_and_the_same_ones_again(tmp_path: Path) -> None:
    one, other = on_ranks(tmp_path / "a", 2, draws)
    assert not set(one) & set(other)
    assert [one, other] == on_ranks(tmp_path / "b", 2, draws)


def test_equal_seeds_on_all_ranks_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = rng.fold
    monkeypatch.setattr(rng, "fold", lambda *key: fold(*key[:3]) if key[0] == rng.STEP else fold(*key))
    one, other = on_ranks(tmp_path / "meeting", 2, draws)
    assert one == other


def test_checkpoints_and_averages_are_of_the_plain_model(tmp_path: Path) -> None:
    plain = toy_state().model.state_dict().keys()

    def act() -> tuple[set[str], set[str]]:
        state, trainer = toy_state(), toy_trainer(save_every=5)
        trainer.fit(state, wrap(state.model))
        saved = trainer.recorder.saved[5]
        return set(saved["model"]), set(saved["ema"])

    assert on_ranks(tmp_path / "meeting", 2, act) == [(set(plain), set(plain))] * 2


class Partly(nn.Module):
    """Uses one of its two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.left_out = nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.used(image.flatten(1))
        return logits


def test_unused_parameters_need_the_key_that_is_there_for_them(tmp_path: Path) -> None:
    def two_steps(**told: bool) -> str:
        model = wrap(Partly(), **told)
        try:
            for _ in range(2):
                model(torch.ones(2, 1, 4, 4)).sum().backward()
        except RuntimeError as error:
            return str(error)
        return ""

    assert "find_unused_parameters=True" in on_ranks(tmp_path / "without", 2, two_steps)[0]
    assert on_ranks(tmp_path / "unused", 2, lambda: two_steps(find_unused_parameters=True)) == ["", ""]
    assert on_ranks(tmp_path / "static", 2, lambda: two_steps(static_graph=True)) == ["", ""]


def sync_batchnorms(wanted: bool) -> int:
    config = checked("model=tiny", "device=cpu")
    config["trainer"]["sync_batchnorm"] = wanted  # the check refuses it without GPUs; only a forward pass needs them
    clock = clock_of(config)
    made = settings(TrainerSettings, config["trainer"], clock)
    model = parts.build_model(config, made, torch.device("cpu"), partial(parts.make_part, config, clock))
    return sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


def test_statistics_are_over_all_ranks_by_one_key(tmp_path: Path) -> None:
    assert min(on_ranks(tmp_path / "on", 2, lambda: sync_batchnorms(True))) > 0
    assert on_ranks(tmp_path / "off", 2, lambda: sync_batchnorms(False)) == [0, 0]
    assert sync_batchnorms(True) == 0  # a process on its own has nobody to ask


def frozen(*, wanted: bool) -> tuple[bool, bool]:
    """Whether a pass in training leaves BatchNorm's buffers as they are, and gives its weights no gradient."""
    config = checked("model=tiny", "device=cpu", f"trainer.freeze_batchnorm={wanted}".lower())
    clock = clock_of(config)
    made = settings(TrainerSettings, config["trainer"], clock)
    model = parts.build_model(config, made, torch.device("cpu"), partial(parts.make_part, config, clock))
    model = copy.deepcopy(model).train()  # as the loop and its averaged model do
    before = [buffer.clone() for buffer in model.buffers()]
    model(torch.rand(4, 1, 8, 8)).sum().backward()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    same = all(torch.equal(one, other) for one, other in zip(before, model.buffers()))
    return same, all(norm.weight.grad is None for norm in norms)


def test_batchnorm_is_frozen_by_one_key() -> None:
    assert frozen(wanted=True) == (True, True)
    assert frozen(wanted=False) == (False, False)


def test_statistics_over_all_ranks_need_gpus() -> None:
    with pytest.raises(InvalidConfig, match="needs CUDA devices"):
        checked("trainer.sync_batchnorm=true", "trainer.devices=2", "device=cpu")


OBJECTS = {
    "all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "send_object_list",
    "recv_object_list", "all_gather_into_object",
}  # fmt: skip


# A command line and a sweep keep pickles of their own; nothing that ranks run together does.
RUN_BY_RANKS = [
    file
    for file in sorted((SRC / "plainloop").rglob("*.py"))
    if file.relative_to(SRC / "plainloop").parts[0] not in ("commands", "config", "sweep")
]


def calls(source: str) -> set[str]:
    """Names of functions that a source refers to, with the module they are taken from where that is written."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found |= {node.attr, f"{ast.unparse(node.value)}.{node.attr}"}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "source",
    ["dist.all_gather_object(a, b)", "from torch.distributed import broadcast_object_list", "pickle.loads(data)"],
)
def test_an_unpickling_would_be_noticed(source: str) -> None:
    assert calls(source) & (OBJECTS | {"pickle.loads"})


@pytest.mark.parametrize("file", RUN_BY_RANKS, ids=lambda file: file.stem)
def test_nothing_that_another_rank_sends_is_unpickled(file: Path) -> None:
    assert not calls(file.read_text()) & (OBJECTS | {"pickle.load", "pickle.loads", "pickle.Unpickler"})
