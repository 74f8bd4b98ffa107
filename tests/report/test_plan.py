"""The plan says what will happen, in numbers that can be checked by hand."""

import json
import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from plainloop.config.check.meta_model import model_summary
from plainloop.report.plan import draw, plan_of
from tests.harness.commands import COMPOSER, ROOT, passed


def plan(*overrides: str, **more: object) -> str:
    return plan_of(passed(*overrides, **more))


def test_steps_and_epochs() -> None:
    text = plan("trainer.duration=7ep", "data.batch_size=100", "trainer.log_every=3", "trainer.eval_every=2ep")
    assert "98 = 7ep, 7 epochs of 1438 // 100 = 14 steps" in text
    assert "log 3 = 3, eval 2ep = 28," in text


def test_on_a_terminal_no_line_is_longer_than_it_and_nothing_is_lost() -> None:
    checked = passed("experiment=segmentation_quick", "trainer.precision=bf16", "trainer.on_nonfinite=skip")
    wide, narrow = plan_of(checked), plan_of(checked, width=80)
    assert max(map(len, wide.splitlines())) > 100
    assert max(map(len, narrow.splitlines())) <= 80
    assert narrow.split() == wide.split()


def test_the_batch_is_shared_out() -> None:
    assert "64 (global) = 4 (ranks) x 2 (micro-batches) x 8 (images)" in plan("trainer.accumulate=2", ranks=4)


def test_the_scaling_of_the_rate_is_shown_with_its_arithmetic() -> None:
    text = plan("optimizer=sgd", "data.batch_size=512", "trainer.lr_scaling.rule=linear")
    assert "0.1 x 512 / 256 = 0.2" in text


TUNED = ("optimizer=sgd", "trainer.tuned.batch_size=128", "trainer.tuned.devices=1")


@pytest.mark.parametrize(
    ("overrides", "follows"),
    [
        (["data.batch_size=128"], "so the rate is the recipe's, 0.1"),
        (
            ["data.batch_size=256", "trainer.lr_scaling.rule=linear"],
            "so the rate is 0.1 x 256 / 256 = 0.1, by trainer.lr",
        ),
        (
            ["data.batch_size=512"],
            "the rate stays 0.1; in proportion to the batch it is 0.1 x 512 / 128 = 0.4: "
            "trainer.lr_scaling.rule=linear trainer.lr_scaling.base_batch_size=128",
        ),
        (
            ["data.batch_size=512", "trainer.lr_scaling.base_batch_size=128", "trainer.lr_scaling.rule=sqrt"],
            "so the rate is 0.1 x sqrt(512 / 128) = 0.2, by trainer.lr_scaling",
        ),
    ],
)
def test_what_a_recipe_was_tuned_at_is_held_against_the_run(overrides: list[str], follows: str) -> None:
    text = plan(*TUNED, *overrides, ranks=4)
    size = overrides[0].partition("=")[2]
    assert f"you run batch {size} on 4 devices; the recipe was tuned at 128 on 1 device" in text
    assert follows in text


def test_nothing_is_said_of_a_tuning_that_nobody_knows() -> None:
    assert "tuned" not in plan()
    assert "tuned at 128\n" in plan("trainer.tuned.batch_size=128")


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "conf/experiment").glob("*.yaml")))
def test_recipes_that_say_their_batch_were_tuned_with_it(name: str) -> None:
    recipe = OmegaConf.load(ROOT / f"conf/experiment/{name}.yaml")
    tuned, data = OmegaConf.select(recipe, "trainer.tuned"), OmegaConf.select(recipe, "data.batch_size")
    assert tuned is None or data is not None or name == "schedule_yolov3"
    assert data is None or data == COMPOSER.compose([f"experiment={name}"]).trainer.tuned.batch_size


def test_rates_at_the_marks() -> None:
    text = plan(
        "optimizer=sgd", "scheduler=multistep", "scheduler.warmup=22st", "scheduler.milestones=[10ep,20ep]",
        "trainer.duration=30ep",
    )  # fmt: skip
    for line in (
        "step        0  0   first",
        "step       22  0.1   end of the warm-up",
        "step      220  0.01   milestone 10ep",
        "step      440  0.001   milestone 20ep",
        "step      659  0.001   last",
    ):
        assert line in text


def test_the_model_its_cost_and_its_memory() -> None:
    text = plan("model=timm", "model.model_name=resnet18", "optimizer=sgd", "trainer.ema_decay=0.9", "device=cpu")
    # timm's resnet18 with 10 classes and one channel. MACs by hand: its first convolution alone is 64 x 49 x 4 x 4.
    assert "resnet18: 11.175 million parameters, " in text and " million MACs per image" in text
    assert "weights + gradients + 1 optimizer states + EMA in fp32" in text
    assert "device        cpu, fp32" in text


def test_memory_is_that_of_the_largest_images_that_augmentations_give() -> None:
    typed = ("task=detection", "data=digit_boxes", "model=yolov3", "model.backbone=tiny", "device=cpu")
    fixed = plan(*typed, "data.image_size=128")
    drawn = plan(*typed, "data.image_size=64", "augment=multi_scale", "augment.multi_scale.scale=[0.5,2]")
    at_most, at_128, at_64 = (
        float(re.findall(r"about (\S+) MB per device", text)[0])
        for text in (drawn, fixed, plan(*typed, "data.image_size=64"))
    )
    assert at_most == pytest.approx(at_128, rel=0.1)  # a part of the activations does not grow with the image
    assert at_64 < 0.5 * at_128
    assert " x 4, for the largest images that augment gives, 128x128, x 16 images x 4 bytes" in drawn
    assert "largest images" not in fixed


def test_views_of_an_evaluation_are_no_cost_of_the_model() -> None:
    typed = ("task=segmentation", "data=digit_scenes", "model=tiny_seg", "data.train_eval_samples=0")
    one, two = plan(*typed), plan(*typed, "task.tta_flip=true")
    assert re.findall(r"[\d.]+ million MACs", one) == re.findall(r"[\d.]+ million MACs", two) == ["39.5 million MACs"]
    assert "30 x (400 val + 0 train) images: about 8.3 % of" in one  # 30 x 400 of 3 x 30 x 1600
    assert "30 x (400 val + 0 train) images, each in 2 views: about 17 % of" in two


def test_macs_are_those_counted_by_hand() -> None:
    layer = "{_target_: torch.nn.Sequential, _args_: [{_target_: torch.nn.Flatten}, {_target_: torch.nn.Linear, "
    layer += "in_features: 64, out_features: 10}]}"
    config = passed().config | {"model": yaml.safe_load(layer)}
    summary = model_summary(config)
    assert (summary.parameters, summary.macs, summary.activations) == (
        650,
        640,
        64,
    )  # a gradient of weights needs the input


def test_augmentations_and_evaluations_are_named() -> None:
    assert "augment       crop (pad_crop), flip (horizontal_flip)" in plan("augment=crop_flip")
    # 30 x (359 + 1438) forward passes beside 660 x 64 x 3 passes of training
    assert "30 x (359 val + 1438 train) images: about 43 % of the training's work" in plan()
    assert "30 x (359 val + 0 train) images: about 8.5 % of the training's work\n" in plan("data.train_eval_samples=0")
    assert "1 x (359 val + 1438 train) images: about 470 % of" in plan("trainer.duration=2st")


def test_the_time_is_that_of_a_run_beside_it_with_the_same_model_and_batch(tmp_path: Path) -> None:
    checked, run = passed(), tmp_path / "first"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(checked.config))
    summary = {"parameters": checked.model.parameters, "seconds": 10.0, "steps": 330}
    (run / "summary.json").write_text(json.dumps(summary))
    assert f"about 20 s, by the steps of {run}" in plan(folder=tmp_path / "new")
    assert "by the steps of" not in plan("model.width=8", folder=tmp_path / "new")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], False),
        (["trainer.on_nonfinite=skip"], True),
        (["trainer.precision=fp16", "optimizer.fused=false"], True),
        (["trainer.precision=fp16"], False),
        (["trainer.precision=bf16"], False),
    ],
)
def test_every_kind_of_waiting_is_said(overrides: list[str], expected: bool) -> None:
    assert ("one flag per step" in plan(*overrides)) is expected


def test_warnings_stand_in_the_plan() -> None:
    assert "best is the last checkpoint" in plan("trainer.eval_every=never")


@pytest.mark.parametrize(
    "name", ["constant", "cosine", "linear", "onecycle", "cyclic", "exponential", "polynomial", "step"]
)
def test_every_schedule_is_drawn(name: str) -> None:
    rows = [line for line in plan(f"scheduler={name}").splitlines() if "█" in line]
    assert len(rows) >= 2


def test_a_curve_is_as_high_as_its_values() -> None:
    assert draw([0.0, 1.0, 2.0, 3.0, 4.0], height=1) == [" ▂▄▆█"]
    assert draw([1.0, 1.0], height=3) == ["██"] * 3
    assert draw([0.0, 0.0], height=1) == ["  "]
