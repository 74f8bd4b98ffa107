"""Laws of every option of conf/augment, so that a new one is held to them too: ranks, chance, kills."""

import functools
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from plainloop.augment.multi_scale import MultiScale
from plainloop.config.durations import Clock
from plainloop.config.parts import build_data, make_part
from plainloop.distributed import collectives
from plainloop.system import rng
from tests.augment.batches import CPU
from tests.harness import inject
from tests.harness.commands import ROOT, passed
from tests.harness.runs import SMALL, TASKS, differences, lines, remains, train

OPTIONS = sorted(path.stem for path in (ROOT / "conf/augment").glob("*.yaml"))
NOT_RANDOM = ("first_batch", "none")
# Their partners come from the rank's own rows: those of other ranks would have to be sent.
MIXING = ("cutmix", "mixup", "mixup_or_cutmix")
OF_BOXES = ("mosaic", "mixup_boxes")  # their partners likewise; they refuse what has one label
ALIKE = ("multi_scale",)  # for all images of a batch
RANDOM = [name for name in OPTIONS if name not in (*NOT_RANDOM, *ALIKE)]
NUM = 256


@functools.cache
def option(name):
    """The option's functions as a run on photographs of 32 x 32 pixels in memory calls them; with boxes, of 96 x 96."""
    photographs = ("data=cifar10", "data.download=true")
    boxes = ("data=digit_boxes", "task=detection", "model=yolov3", "model.backbone=tiny")
    config = passed(*(boxes if name in OF_BOXES else photographs), f"augment={name}").config
    return list(build_data(config, functools.partial(make_part, config, Clock(100, 1000)))[1].values())


def seen(functions, batch, *, step=3, rank=0):
    """What the model would see of a batch, after the draws of the loop."""
    rng.seed_step(7, step, rank, CPU, torch_alone=True)
    for function in functions:
        batch = function(batch, step)
    return batch


def photographs(number=64, *, name=""):
    pixels = torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    label = {} if name in OF_BOXES else {"label": torch.arange(number) % 10}
    return {"image": pixels, "index": torch.arange(number)} | label


def on_ranks(monkeypatch, functions, world_size):
    """The batches of all ranks, one below the other."""
    parts = []
    for rank in range(world_size):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(collectives, "world_size", lambda: world_size)
        rows = {name: tensor.chunk(world_size)[rank] for name, tensor in photographs().items()}
        parts.append(seen(functions, rows, rank=rank))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in (*MIXING, *OF_BOXES, "first_batch")])
def test_one_two_and_four_ranks_see_the_same_images(name, monkeypatch):
    alone, two, four = (on_ranks(monkeypatch, option(name), size)["image"] for size in (1, 2, 4))
    assert torch.equal(two, alone) and torch.equal(four, alone)


@pytest.mark.parametrize("name", MIXING)
def test_in_mixing_the_partner_alone_depends_on_the_number_of_ranks(name, monkeypatch):
    alone, four = (on_ranks(monkeypatch, option(name), size) for size in (1, 4))
    own = photographs()["label"][:, None]
    shares = [batch["label"].gather(1, own)[:, 0] for batch in (alone, four)]
    met_another_class = [(batch["label"] > 0).sum(1) > 1 for batch in (alone, four)]
    both = met_another_class[0] & met_another_class[1]
    assert both.sum() > 20 and torch.equal(shares[0][both], shares[1][both])
    assert not torch.equal(alone["image"], four["image"])


def changes(name, step):
    """How much each sample was changed (NUM,). Without mixing, all are the same image; with it, black or white."""
    functions = [function for function in option(name) if not isinstance(function, MultiScale)]
    noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)).expand(NUM, 3, 32, 32).clone()
    if name in (*MIXING, *OF_BOXES):
        noise = (torch.arange(NUM) % 2)[torch.randperm(NUM, generator=torch.Generator().manual_seed(2))]
        noise = noise.view(-1, 1, 1, 1).expand(NUM, 3, 32, 32).float()
    batch = photographs(NUM, name=name) | {"image": noise}
    return (seen(functions, batch, step=step)["image"] - noise).abs().mean((1, 2, 3)).double()


def dependence(one, other):
    """The p-values of no relation between neighbours in a batch, and between the same places of two steps."""
    return [stats.spearmanr(a, b).pvalue for a, b in ((one[1:], one[:-1]), (one, other))]


@pytest.mark.parametrize("name", RANDOM)
def test_samples_and_epochs_are_drawn_independently(name):
    one, other = (changes(name, step) for step in (3, 103))
    assert min(dependence(one, other)) > 1e-4
    assert not torch.equal(one, other)


def test_draws_that_depend_on_each_other_would_be_noticed():
    def slowly_darker(batch, step):
        walk = torch.rand(len(batch["image"]) + 8, generator=rng.shared(CPU)).unfold(0, 9, 1).mean(1)
        return batch | {"image": batch["image"] * walk.view(-1, 1, 1, 1)}

    def the_same_in_each_step(batch, step):
        drawn = torch.rand(len(batch["image"]), generator=torch.Generator().manual_seed(5))
        return batch | {"image": batch["image"] * drawn.view(-1, 1, 1, 1)}

    def changes_of(function):
        batch = photographs(NUM) | {"image": torch.ones(NUM, 3, 32, 32)}
        return [(1 - seen([function], batch, step=step)["image"]).mean((1, 2, 3)).double() for step in (3, 103)]

    assert dependence(*changes_of(slowly_darker))[0] < 1e-6
    assert dependence(*changes_of(the_same_in_each_step))[1] < 1e-6


@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_draws_from_pythons_and_numpys_generators_which_the_loop_does_not_seed_then(name):
    before = random.getstate(), np.random.get_state()[1].tolist()
    seen(option(name), photographs(4, name=name))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


JOINED = [name for name in OPTIONS if name not in (*NOT_RANDOM, *OF_BOXES, "standard")]  # it has names of crop_flip


OBJECTS = [word for word in TASKS["detection"] if not word.startswith("augment=")]
OBJECTS += ["augment.multi_scale.every=2", "augment.multi_scale.scale=[0.5,3]"]  # 32 to 96 pixels


@pytest.mark.parametrize(
    ("names", "more"),
    [(["standard"], ()), (JOINED, ()), ([*OF_BOXES, "ssd", "yolo"], OBJECTS)],
    ids=["standard", "all_others", "boxes"],
)
def test_bits_are_equal_after_a_kill(names, more, tmp_path: Path):
    run = (*SMALL, "hydra.run.dir=run", "trainer.duration=5st", "data.batch_size=32", f"augment=[{','.join(names)}]")
    run += tuple(more)
    pieces = tmp_path / "alone", tmp_path / "killed"
    for folder in pieces:
        folder.mkdir()
    assert train(pieces[0], *run).code == 0
    assert train(pieces[1], *run, prepare=inject.at_step(4, inject.send(signal.SIGKILL))).code == -9
    ended = train(pieces[1], *run)
    assert ended.code == 0, ended.err
    assert differences(remains(pieces[0] / "run"), remains(pieces[1] / "run")) == []


@pytest.mark.parametrize("more", [(), ("task.loss=bce",), ("task.class_weights=balanced",)], ids=str)
@pytest.mark.parametrize("name", MIXING)
def test_mixed_labels_train_with_every_loss_and_the_accuracy_is_that_of_unmixed_images(name, more, tmp_path: Path):
    ended = train(tmp_path, *SMALL, f"augment={name}", "trainer.duration=2ep", "hydra.run.dir=run", *more)
    assert ended.code == 0, ended.err
    *_, row = lines(tmp_path / "run/metrics.jsonl")
    assert "train/top1" not in row and 0 <= row["train_eval/top1"] <= 1 and row["train/loss"] > 0
