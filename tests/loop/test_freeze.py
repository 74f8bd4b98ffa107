"""trainer.freeze: what does not learn, until when, and that nothing else of the run depends on it."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from plainloop.models.encoder_decoder import EncoderDecoder
from plainloop.models.freeze import Frozen, backbone_names, frozen_names
from plainloop.models.tiny import TinyNet
from plainloop.models.tiny_seg import TinySeg
from plainloop.run.run import run
from plainloop.run_dir.checkpoints import Checkpoints
from tests.harness import ranks
from tests.harness.configs import checked
from tests.harness.runs import SMALL, differences, remains, start_config

# Weight decay and momentum would move whatever has a gradient; the thawing step falls between two saves.
FROZEN = (
    *(
        *SMALL,
        "model.drop_rate=0.2",
        "trainer.clip_norm=1.0",
        "trainer.ema_decay=0.95",
        "device=cpu",
        "optimizer=adamw",
        "optimizer.weight_decay=0.5",
    ),
    *("trainer.freeze=[stem*,conv1*]", "trainer.freeze_until=5st"),
)


def states(folder: Path) -> dict[int, dict[str, Any]]:
    checkpoints = Checkpoints(folder / "checkpoints")
    return {step: checkpoints.load(path) for step, path in checkpoints.steps().items()}


def trained(folder: Path, *overrides: str) -> dict[int, dict[str, Any]]:
    assert start_config(checked(*FROZEN, "checkpoint.keep_last=9", *overrides), folder).wait().code == 0
    return states(folder)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untouched") / "run"
    trained(folder)
    return folder


def test_frozen_weights_averages_and_statistics_do_not_move_by_a_bit_until_they_thaw(untouched: Path) -> None:
    saved = states(untouched)
    for kind in ("model", "ema"):
        first, before, after = (saved[step][kind] for step in (2, 4, 6))
        moved = {name for name in first if not torch.equal(first[name], before[name])}
        assert moved and not {name for name in moved if name.startswith(("stem", "conv1"))}
        assert {name for name in first if not torch.equal(before[name], after[name])} == set(first)


def test_the_optimizer_keeps_nothing_of_frozen_parameters(untouched: Path) -> None:
    saved = states(untouched)
    assert len(saved[4]["optimizer"]["state"]) == 8 and len(saved[6]["optimizer"]["state"]) == 14
    assert saved[4]["optimizer"]["param_groups"][0]["params"] == saved[6]["optimizer"]["param_groups"][0]["params"]


def test_without_freezing_the_same_run_moves_them(tmp_path: Path) -> None:
    saved = trained(tmp_path, "trainer.freeze=null", "trainer.freeze_until=null", "trainer.duration=4st")
    assert not torch.equal(saved[2]["model"]["stem.0.weight"], saved[4]["model"]["stem.0.weight"])


@pytest.mark.parametrize("stopped_at", [4, 5, 6])
def test_a_run_killed_around_the_thawing_step_ends_with_the_same_bits(
    tmp_path: Path, untouched: Path, stopped_at: int
) -> None:
    config = checked(*FROZEN, "checkpoint.keep_last=9", "trainer.save_every=1st")
    codes = ranks.wait(ranks.start_run(config, tmp_path / "run", 1, at_step=ranks_killer(stopped_at)))
    assert codes != [0]
    assert start_config(config, tmp_path / "run").wait().code == 0
    assert differences(remains(untouched), remains(tmp_path / "run")) == []


def ranks_killer(step: int) -> ranks.AtStep:
    import os
    import signal

    def at_step(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return at_step


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_thaw_together_and_go_on_from_any_step_with_the_same_bits(tmp_path: Path, world_size: int) -> None:
    config = checked(*FROZEN, "trainer.save_every=1st", "trainer.duration=7st", "checkpoint.keep_last=9")
    for name in ("whole", "cut"):
        assert ranks.wait(ranks.start_run(config, tmp_path / name, world_size)) == [0] * world_size
    for path in (tmp_path / "cut" / "checkpoints").glob("step_*"):
        if int(path.name[5:13]) > 5:
            path.unlink()
    assert ranks.wait(ranks.start_run(config, tmp_path / "cut", world_size)) == [0] * world_size
    before, after = (states(tmp_path / name)[7] for name in ("whole", "cut"))
    assert differences(before, after) == []
    assert not torch.equal(before["model"]["stem.0.weight"], states(tmp_path / "whole")[5]["model"]["stem.0.weight"])


def test_layer_decay_gives_the_same_rates_with_and_without_frozen_layers() -> None:
    from plainloop.loop.optim import param_groups

    model = timm.create_model("test_resnet", num_classes=3)
    frozen = frozen_names(model, ["conv1*", "bn1*", "layer1*"])

    def rates(without: list[str]) -> dict[str, float]:
        groups = param_groups(model, lr=1.0, layer_decay=0.5, without=without)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}

    every = rates([])
    assert frozen and rates(frozen) == {name: lr for name, lr in every.items() if name not in frozen}


def test_the_backbone_is_all_but_the_classifier_or_the_encoder_of_a_model_of_masks() -> None:
    tiny = TinyNet(num_classes=3)
    assert set(dict(tiny.named_parameters())) - set(backbone_names(tiny)) == {"fc.weight", "fc.bias"}
    vit = timm.create_model("test_vit", num_classes=3)
    assert set(dict(vit.named_parameters())) - set(backbone_names(vit)) == {"head.weight", "head.bias"}
    seg = TinySeg(num_classes=3)
    assert {name.partition(".")[0] for name in backbone_names(seg)} == {"down"}
    unet = EncoderDecoder(architecture="unet", encoder_name="resnet18", num_classes=3)
    assert {name.partition(".")[0] for name in backbone_names(unet)} == {"encoder"}


def test_batchnorm_frozen_for_another_reason_stays_frozen() -> None:
    from plainloop.models.freeze import freeze_batchnorm

    model = TinyNet(num_classes=3)
    freeze_batchnorm(model)
    frozen = Frozen(model, frozen_names(model, "backbone"), until=1)
    frozen.thaw()
    model.train()
    assert not model.stem[1].training and not model.stem[1].weight.requires_grad and model.stem[0].weight.requires_grad


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["trainer.freeze=stm*"], "'stm*' matches no parameter; the nearest is 'stem.1.bias'"),
        (["trainer.freeze=*"], "leaves no parameter to learn"),
        (["trainer.freeze_until=5ep"], "needs what is frozen so long"),
        (["trainer.freeze=stem*", "trainer.freeze_until=100%"], "is 660 steps, and the run has 660"),
    ],
)
def test_what_cannot_be_frozen_is_told(typed: list[str], message: str) -> None:
    with pytest.raises(Exception, match=re.escape(message)):
        checked(*typed)


def test_a_run_whose_encoder_is_frozen_throughout_trains_the_rest(tmp_path: Path) -> None:
    summary = run(
        checked(*SMALL, "device=cpu", "trainer.duration=3st", "trainer.freeze=backbone", "logger=none"), tmp_path
    )
    saved = states(tmp_path)
    moved = {name for name in saved[2]["model"] if not torch.equal(saved[2]["model"][name], saved[3]["model"][name])}
    assert moved == {"fc.weight", "fc.bias"} and summary["steps"] == 3
