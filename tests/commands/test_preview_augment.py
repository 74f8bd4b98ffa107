"""The preview shows what training sees: the same bits, beside the originals, with the labels in words."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from PIL import Image

from plainloop.commands.preview_augment import both, main
from plainloop.config.build import settings
from plainloop.config.durations import clock_of
from plainloop.config.parts import build_model, build_state, make_part
from plainloop.config.settings import TrainerSettings
from plainloop.loop.normalize import Normalize
from plainloop.loop.trainer import Trainer
from plainloop.report.pictures import colour
from plainloop.report.sheet import caption
from plainloop.run.run import build_trainer
from plainloop.run_dir.recorder import Silent
from plainloop.system.signals import Preemption
from tests.harness.commands import passed
from tests.harness.pictures import write_pictures

SMALL = ("model.width=2", "trainer.duration=6st", "trainer.eval_every=never", "optimizer=sgd", "device=cpu")
DIGITS = (*SMALL, "data.batch_size=12", "augment=[crop_flip,randaugment,cutmix]")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = write_pictures(tmp_path_factory.mktemp("photographs"), size=24)
    where = ("data=image_folder", f"data.root={root}", "data.image_size=16", "data.batch_size=12")
    return (*SMALL, *where, "augment=[standard,trivialaugment,mixup]", "data.repeats=2")


class Watched(Trainer):
    """Keeps every batch that the model sees."""

    seen: list = []

    def update(self, model, state, batch):
        self.seen.append(batch)
        return super().update(model, state, batch)


def trained(config, folder):
    make = functools.partial(make_part, config, clock_of(config))
    args, device = settings(TrainerSettings, config["trainer"], clock_of(config)), torch.device("cpu")
    state = build_state(config, args, build_model(config, args, device, make), device, make)
    parts = {"recorder": Silent(folder), "preemption": Preemption(), "save_best": False, "eval_every": None}
    trainer, wrapped = build_trainer(config, state, make("task"), kind=Watched, **parts)
    Watched.seen.clear()
    trainer.fit(state, wrapped)
    return Watched.seen


@pytest.mark.parametrize("kind", ["digits", "photographs"])
def test_it_shows_the_bits_that_the_model_sees(kind, photographs, tmp_path):
    config = passed(*(DIGITS if kind == "digits" else photographs)).config
    facts, seen = config["facts"], trained(config, tmp_path)
    normalize = Normalize(mean=facts["mean"], std=facts["std"], device=torch.device("cpu"))
    for step in (0, 4):
        before, after = both(config, step)
        shown = normalize(after)
        assert all(torch.equal(shown[name], seen[step][name]) for name in ("image", "label", "index"))
        assert torch.equal(before["index"], after["index"])
        assert not torch.equal(shown["image"], seen[step - 1]["image"])  # the control: another step


def test_originals_are_what_training_sees_without_augmentation(tmp_path):
    (batch, *_) = trained(passed(*SMALL, "data.batch_size=12").config, tmp_path)
    before, _ = both(passed(*DIGITS).config, 0)
    facts = passed(*DIGITS).config["facts"]
    normalize = Normalize(mean=facts["mean"], std=facts["std"], device=torch.device("cpu"))
    assert torch.equal(normalize(before)["image"], batch["image"])


def test_labels_are_written_as_classes_or_as_shares():
    names = ("cat", "dog", "eel")
    assert caption({"label": torch.tensor(1)}, names) == ["dog"]
    assert caption({"label": torch.tensor([0.25, 0.0, 0.75])}, names) == ["75% eel", "25% cat"]


def test_a_picture_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Path("deeper/picture.png")
    assert main([*DIGITS, "step=2", "--out", str(out), "--images", "10"]) == 0
    assert capsys.readouterr().out == (
        f"{out}: 10 of the 12 images of step 2 of 6; augment: crop, flip, randaugment, cutmix\n"
    )
    with Image.open(out) as picture:
        assert picture.format == "PNG" and picture.width > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["deeper"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["step=6"], 64, "step=6 is not in the run of 6 steps\nnext: type step=5 or less"),
        (["step=2x"], 64, "step='2x' is not a duration"),
        (["--images", "0"], 64, "--images 0 must be 1 or more"),
        (["--out", "picture.txt"], 64, "--out picture.txt must end in .png or .jpg"),
        (["augment.crop.pat=2"], 64, "did you mean: augment.crop.pad"),
        (["-m"], 64, "-m is for train.py"),
        (["--lr", "3"], 64, "type instead: optimizer.lr=3"),
    ],
)
def test_what_cannot_be_shown_is_told_as_train_py_tells_it(words, code, told, capsys):
    assert main([*DIGITS, *words]) == code
    assert told in capsys.readouterr().err


def test_help_shows_three_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.count("  python scripts/preview_augment.py ") == 3


def test_masks_are_drawn_with_their_images(tmp_path, capsys):
    words = ("task=segmentation", "data=digit_scenes", "model=tiny_seg", "data.num_train=12", "data.num_val=4")
    words = (*words, "data.batch_size=4", "data.train_eval_samples=4", "trainer.duration=2st", "augment=scale_crop")
    out = tmp_path / "masks.png"
    assert main([*words, "device=cpu", "--out", str(out)]) == 0, capsys.readouterr().err
    with Image.open(out) as picture:
        seen = {pixel for _, pixel in picture.getcolors(1 << 20)}
    assert {colour(number) for number in (1, 2, 3, 4, 5)} & seen
