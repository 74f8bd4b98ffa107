"""The run of PaddleSeg's guide, in its own terms: its values, what it leaves on disk, and how it goes on."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plainloop.config.parts import base_lr_of, schedule_of
from plainloop.data.masks.digit_scenes import sources_of
from plainloop.data.masks.scenes import make_scene
from plainloop.run_dir.checkpoints import Checkpoints
from tests.harness import inject
from tests.harness.commands import ROOT, problems
from tests.harness.configs import checked
from tests.harness.runs import differences, lines, remains, train


@pytest.fixture(scope="module")
def optic_disc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the form of optic_disc_seg: JPEGImages, Annotations, train_list.txt and val_list.txt."""
    root = tmp_path_factory.mktemp("optic_disc_seg")
    for split, count in (("train", 12), ("val", 3)):
        pairs = []
        for i in range(count):
            scene = make_scene(sources_of(split, 1), 48, np.random.default_rng(i))
            pairs.append((f"JPEGImages/{split}{i}.jpg", f"Annotations/{split}{i}.png"))
            for name, pixels in zip(pairs[-1], (scene.image, scene.mask), strict=True):
                (root / name).parent.mkdir(exist_ok=True)
                Image.fromarray(pixels).save(root / name)
        (root / f"{split}_list.txt").write_text("".join(f"{image} {mask}\n" for image, mask in pairs))
    return root


def typed(root: Path, *more: str) -> tuple[str, ...]:
    return ("experiment=optic_disc_seg_1k", f"data.root={root}", "data.num_workers=0", "device=cpu", *more)


def test_the_recipe_has_paddlesegs_values(optic_disc: Path) -> None:
    """Those of configs/quick_start/pp_liteseg_optic_disc_512x512_1k.yml and of the guide's command."""
    config: dict[str, Any] = checked(*typed(optic_disc))
    trainer, optimizer, augment, facts = (config[name] for name in ("trainer", "optimizer", "augment", "facts"))
    assert [trainer[key] for key in ("duration", "eval_every", "save_every", "log_every")] == [
        *("1000st", "500st", "500st", "10st")
    ]
    assert (config["data"]["batch_size"], config["checkpoint"]["keep_last"], facts["num_classes"]) == (4, 5, 2)
    assert config["checkpoint"]["save_best"] and config["checkpoint"]["every_minutes"] is None
    assert optimizer["_target_"] == "torch.optim.SGD" and not optimizer["nesterov"] and optimizer["dampening"] == 0
    assert (optimizer["momentum"], optimizer["weight_decay"], base_lr_of(config)) == (0.9, 4e-5, 0.01)
    schedule = schedule_of(config)
    assert [schedule(step) for step in (0, 500, 999)] == pytest.approx([1, 0.5**0.9, 0.001**0.9], rel=1e-12)
    assert (config["model"]["_target_"], config["model"]["encoder_name"]) == (
        *("plainloop.models.pp_liteseg.PPLiteSeg", "stdc2"),
    )
    assert config["task"]["aux_weights"] == [1, 1]
    assert {name: weight for name, weight in config["task"]["losses"].items() if weight} == {"cross_entropy": 1.0}
    crop = augment["scale_crop"]
    assert (crop["size"], crop["scale"], crop["scale_step"], crop["fill"]) == ([512, 512], [0.5, 2.0], 0.25, [0.5])
    assert augment["flip"]["p"] == 0.5
    colours = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 18 / 360}
    parts = [part for part in augment.values() if part["_target_"].endswith(".color_jitter")]
    given = [{name: part[name] for name in colours if part.get(name)} for part in parts]
    assert given == [{name: value} for name, value in colours.items()]
    assert [part["p"] for part in parts] == [0.5] * 4
    assert facts["mean"] == facts["std"] == [0.5, 0.5, 0.5]


ROWS = re.findall(
    r"^\| (.+?) \| (.+) \|$",
    (ROOT / "docs/segmentation.md").read_text().partition("| PaddleSeg | here |\n|---|---|\n")[2],
    re.MULTILINE,
)


def test_what_paddlesegs_words_are_called_here_can_be_typed(optic_disc: Path) -> None:
    """A key that stands in several rows is typed in several commands."""
    words = [word for _, here in ROWS for text in re.findall(r"`([^`]+)`", here) for word in text.split()]
    words = [word for word in words if "=" in word and "<" not in word and not word.startswith(("resume", "hydra."))]
    words.remove("trainer.precision=fp16")  # for GPUs, as the row says: the check of a CPU refuses it
    assert len(words) > 35
    while words:
        command = {word.partition("=")[0]: word for word in reversed(words)}
        assert problems(*typed(optic_disc), *command.values()) == {}
        words = [word for word in words if word not in command.values()]


def test_a_word_that_is_wrong_is_a_problem(optic_disc: Path) -> None:
    assert problems(*typed(optic_disc, "task.tta_flap=true"))


# The guide's run at a tenth of its length, with a model that takes no time: 100 steps, evaluated and saved every 50.
TENTH = (
    *("trainer.duration=100st", "trainer.eval_every=50st", "trainer.save_every=50st", "data.image_size=32"),
    *("model=tiny_seg", "model.width=4", "task.aux_weights=[]", "data.train_eval_samples=0", "threads=1"),
    "hydra.run.dir=run",
)


@pytest.fixture(scope="module")
def undisturbed(optic_disc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = train(folder, *typed(optic_disc, *TENTH))
    assert ended.code == 0, ended.err
    return folder / "run"


def test_it_logs_evaluates_and_saves_when_the_guide_does(undisturbed: Path) -> None:
    rows = lines(undisturbed / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(10, 101, 10))
    evaluated = [row for row in rows if "val/miou" in row]
    assert [row["step"] for row in evaluated] == [50, 100]
    # What the guide lists: loss, rate, time of training and of reading, mIoU and mean accuracy.
    assert {"train/loss", "train/lr", "time/step_s", "time/data_s", "val/miou", "val/macc"} <= evaluated[-1].keys()
    assert sorted(file.name for file in (undisturbed / "checkpoints").glob("*.pt")) == [
        *("step_00000050.pt", "step_00000100.pt")
    ]
    best = json.loads((undisturbed / "checkpoints/best.json").read_text())
    assert best["value"] == max(row["val/miou"] for row in evaluated)
    assert (undisturbed / "best.safetensors").exists()


def test_of_many_saves_the_newest_five_are_kept_and_the_best(optic_disc: Path, tmp_path: Path) -> None:
    more = ("trainer.save_every=5st", "trainer.eval_every=5st", "trainer.duration=40st")
    assert train(tmp_path, *typed(optic_disc, *TENTH, *more)).code == 0
    kept = {file.name for file in (tmp_path / "run/checkpoints").glob("*.pt")}
    newest = {f"step_{step:08}.pt" for step in (20, 25, 30, 35, 40)}
    best = json.loads((tmp_path / "run/checkpoints/best.json").read_text())["file"]
    assert kept == newest | {best}


@pytest.mark.parametrize(("number", "goes_on_at"), [(signal.SIGKILL, 50), (signal.SIGTERM, 75)])
def test_interrupted_at_three_quarters_it_goes_on_at_the_half_or_where_it_was(
    number: int, goes_on_at: int, optic_disc: Path, undisturbed: Path, tmp_path: Path
) -> None:
    command = typed(optic_disc, *TENTH)
    ended = train(tmp_path, *command, prepare=inject.at_step(75, inject.send(number)))
    assert ended.code in (-signal.SIGKILL, 75)
    loaded = Checkpoints(tmp_path / "run/checkpoints").newest()
    assert loaded is not None and loaded.step == goes_on_at
    assert train(tmp_path, *command).code == 0
    attempts = lines(tmp_path / "run/attempts.jsonl")
    assert [attempt["step"] for attempt in attempts if "started" in attempt] == [0, goes_on_at]
    assert differences(remains(undisturbed), remains(tmp_path / "run")) == []


def test_resume_step_takes_the_half_as_resume_model_iter_500_does(optic_disc: Path, tmp_path: Path) -> None:
    train(tmp_path, *typed(optic_disc, *TENTH), prepare=inject.at_step(75, inject.send(signal.SIGTERM)))
    ended = train(tmp_path, "resume=run", "resume_step=50")
    assert ended.code == 0, ended.err
    attempts = lines(tmp_path / "run/attempts.jsonl")
    assert [attempt["step"] for attempt in attempts if "started" in attempt] == [0, 50]
