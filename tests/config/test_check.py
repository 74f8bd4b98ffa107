"""What the check refuses, and with which words."""

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plainloop.config.check.check import check
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import InvalidConfig
from tests.harness.commands import COMPOSER, ROOT, passed, problems


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes, 40 images to train on and 20 to validate on."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 10)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pets"


# Types and keys


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lr=abc", "a number"),
        ("optimizer.betas=[0.9]", "a list of 2"),
        ("optimizer.amsgrad=maybe", "true or false"),
        ("optimizer.fused=3", "true or false or null"),
        ("trainer.accumulate=1.5", "a whole number"),
        ("trainer.precision=int8", "one of fp32, bf16, fp16"),
        ("trainer.compile=2", "true or false"),
        ("trainer.clip_norm=big", "a number or null"),
        ("trainer.early_stop.patience=soon", "a whole number or null"),
        ("trainer.devices=two", "one of auto or a whole number or a list [a,b]"),
        ("device=gpu", "one of auto, cpu, cuda, mps"),
        ("seed=x", "a whole number"),
        ("task.loss=mse", "one of cross_entropy, bce"),
        ("model.width=wide", "a whole number"),
        ("data.batch_size=many", "a whole number"),
        ("checkpoint.save_best=7", "true or false"),
        ("scheduler.min_lr=low", "a number"),
    ],
)
def test_a_wrong_type_says_what_fits(override: str, expected: str) -> None:
    key, _, value = override.partition("=")
    found = problems(override)
    assert found.keys() == {key}
    assert found[key].expected == expected
    assert value.strip("[]") in found[key].got
    assert found[key].given_by == f"command line override {override}"


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("+optimizer.beta=0.9", "optimizer.betas   (conf/optimizer/adamw.yaml:5)"),
        ("+model.widht=64", "model.width   (conf/model/tiny.yaml:5)"),
        ("+task.label_smothing=0.1", "task.label_smoothing   (conf/task/classification.yaml:5)"),
        ("+scheduler.warm_up=5ep", "scheduler.warmup   (conf/scheduler/cosine_warmup.yaml:5)"),
        ("+data.batchsize=32", "data.batch_size   (conf/data/digits.yaml:3)"),
        ("+trainer.acumulate=2", "trainer.accumulate   (conf/trainer/default.yaml:4)"),
        ("+checkpoint.keep=2", ""),
    ],
)
def test_an_added_key_that_its_target_does_not_take_is_refused(override: str, meant: str) -> None:
    key = override[1:].partition("=")[0]
    found = problems(override)
    assert found.keys() == {key}
    assert found[key].meant == meant


def test_arguments_that_the_run_gives_are_not_the_configs(pets: Path) -> None:
    assert problems("+optimizer.params=[1]").keys() == {"optimizer.params"}
    assert problems("+scheduler.step=3").keys() == {"scheduler.step"}
    assert problems("augment=crop_flip", "+augment.crop.batch=3").keys() == {"augment.crop.batch"}
    assert problems("+scheduler.base_lr=0.1").keys() == {"scheduler.base_lr"}


def test_a_missing_argument_is_named() -> None:
    assert problems("~augment.crop.pad", "augment=crop_flip").keys() == {"augment.crop.pad"}
    assert problems("~model.num_classes").keys() == {"model.num_classes"}


def test_what_is_left_open_must_be_given() -> None:
    found = problems("data=image_folder", "model.width=???", "trainer.log_every=???")
    assert found.keys() == {"data.root", "model.width", "trainer.log_every"}
    assert found["data.root"].instead == "data.root=..."
    assert found["data.root"].given_by.startswith("conf/data/image_folder.yaml:")


@pytest.mark.parametrize(
    "typed",
    [
        "trainer.precision=half seed=-1 lr_decay_epochs=[6] name=a/b",
        "optimizer.lr=abc +model.widht=3 +data.batchsize=3",
    ],
)
def test_all_that_one_stage_finds_is_said_at_once(typed: str) -> None:
    assert problems(*typed.split()).keys() == {text.lstrip("+").partition("=")[0] for text in typed.split()}


def test_a_broken_interpolation_names_the_key_that_was_meant() -> None:
    found = problems("optimizer.lr=${trainer.durration}")
    assert found["optimizer.lr"].meant.startswith("trainer.duration")


# Targets


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["model._target_=os.system"], "model._target_"),
        (["optimizer._target_=torch.load"], "optimizer._target_"),
        (["+augment.blur={_target_: subprocess.run, _partial_: true}"], "augment.blur._target_"),
        (["+model.body={_target_: builtins.eval}"], "model.body._target_"),
        (["+model.body=[{_target_: builtins.eval}]"], "model.body.0._target_"),
        (["+logger.mine._target_=my_package.Logger"], "logger.mine._target_"),
        (["+hydra.callbacks.mine._target_=os.system"], "hydra.callbacks.mine._target_"),
        (["hydra.launcher._target_=os.system"], "hydra.launcher._target_"),
        (["task._target_=${name}", "name=os.system"], "task._target_"),
    ],
)
def test_targets_outside_the_allowlist_are_refused_wherever_they_stand(overrides: list[str], key: str) -> None:
    found = problems(*overrides)
    assert key in found
    assert "not allowed" in found[key].what or "no plugin" in found[key].what


@pytest.mark.parametrize(
    ("file", "choice", "allowed"), [("experiment/mine", "mine", False), ("local/default", None, True)]
)
def test_only_ones_own_files_widen_the_allowlist(tmp_path: Path, file: str, choice: str | None, allowed: bool) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / f"{file}.yaml").write_text("# @package _global_\nplugins: [my_package]\n")
    typed = [f"experiment={choice}"] if choice else []
    composer = Composer(ROOT / "conf", extra_dir=tmp_path)
    composed = composer.compose_or_explain(typed)
    assert composed.config is not None
    refused = (
        nullcontext() if allowed else pytest.raises(InvalidConfig, match=r"plugins: can be given on the command line")
    )
    with refused:
        check(composed.config, origin=Origin(typed, composer=composer))


def test_a_target_that_does_not_exist_names_the_nearest() -> None:
    assert problems("optimizer._target_=torch.optim.Adamw")["optimizer._target_"].meant.startswith("torch.optim.AdamW")


def test_an_optimizer_must_be_bound_and_not_called() -> None:
    assert problems("optimizer._partial_=false")["optimizer._partial_"].instead == "++optimizer._partial_=true"


# Models


def test_a_model_that_timm_does_not_have_names_the_nearest() -> None:
    found = problems("model=timm", "model.model_name=resent18")["model.model_name"]
    assert found.instead == "model.model_name=resnet18"


def test_what_a_timm_model_does_not_take_is_found_without_weights() -> None:
    found = problems("model=timm", "model.model_name=resnet18", "+model.drop_rat=0.1")
    assert found["model.drop_rat"].meant == "model.drop_rate"


def test_a_model_for_other_images_says_so() -> None:
    assert "8x8" in problems("model=vit_small_patch16_224")["model"].what


def test_classes_of_model_and_data_must_agree() -> None:
    assert problems("model.num_classes=7")["model.num_classes"].expected.startswith("10: 0, 1, 2, 3, 4, ...")
    found = problems("task.class_weights=[1,2]")["task.class_weights"]
    assert (found.got, found.instead) == ("[1,2]", "task.class_weights=null")


# Data


def test_a_folder_of_images_is_looked_at_and_not_decoded(pets: Path) -> None:
    config = passed("data=image_folder", f"data.root={pets}", "data.batch_size=8", "data.image_size=32").config
    assert (config["facts"]["num_train"], config["facts"]["num_val"]) == (40, 20)
    assert config["facts"]["class_names"] == ["cat", "dog"]
    assert config["model"]["num_classes"] == 2


def test_data_that_are_not_there_are_a_problem_of_the_config(tmp_path: Path) -> None:
    found = problems("data=image_folder", f"data.root={tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in found["data.root"].what


def test_a_batch_larger_than_the_data_says_how_many_there_are() -> None:
    found = problems("data.batch_size=2000")["data.batch_size"]
    assert (found.got, found.expected) == ("2000", "at most 1438")


@pytest.mark.parametrize(("accumulate", "ranks", "near"), [(3, 1, "63 or 66"), (1, 7, "63 or 70"), (5, 13, "65")])
def test_a_batch_that_does_not_divide_names_the_nearest_that_do(accumulate: int, ranks: int, near: str) -> None:
    found = problems(f"trainer.accumulate={accumulate}", ranks=ranks)["data.batch_size"]
    assert (found.got, found.expected) == ("64 (global)", f"the nearest that do: {near}")


def test_a_batch_size_per_device_becomes_the_global_one() -> None:
    config = passed("data.batch_size_per_device=16", ranks=4).config
    assert config["data"]["batch_size"] == config["data"]["train"]["batch_size"] == 64
    assert "batch_size_per_device" not in config["data"]


def test_both_batch_sizes_at_once_are_refused() -> None:
    assert "data.batch_size_per_device" in problems("data.batch_size_per_device=16", "data.batch_size=64")


# Durations


@pytest.mark.parametrize("key", ["trainer.duration", "trainer.eval_every", "trainer.save_every", "scheduler.warmup"])
def test_a_bare_number_that_could_mean_either_is_refused_with_both_forms(key: str) -> None:
    assert problems(f"{key}=5")[key].instead == f"{key}=5ep, or {key}=5st"


def test_a_bare_number_counts_steps_where_nothing_else_is_meant() -> None:
    assert passed("trainer.log_every=7").config["trainer"]["log_every"] == 7


def test_bare_milestones_are_refused() -> None:
    assert (
        "30ep or 30st"
        in problems("scheduler=multistep", "scheduler.milestones=[30,60]")["scheduler.milestones"].expected
    )


@pytest.mark.parametrize("key", ["trainer.duration", "trainer.eval_every", "trainer.log_every"])
def test_zero_steps_are_refused(key: str) -> None:
    assert "zero steps" in problems(f"{key}=0.001ep")[key].what


def test_saved_configs_keep_the_text_of_durations() -> None:
    assert passed("trainer.duration=2ep").config["scheduler"]["total_steps"] == "2ep"


# Rules across groups


def test_warmup_must_end_before_the_first_decay_in_the_words_of_the_sources() -> None:
    typed = ["scheduler=multistep", "scheduler.milestones=[6ep,8ep,10ep]", "scheduler.warmup=1000st"]
    found = problems(*typed, "trainer.duration=60ep")["scheduler.warmup"]
    assert "warmup_steps should be less than 132, or lr_decay_epochs[0] greater than 46" in found.what
    assert "lr_decay_epochs[0] * num_steps_each_epoch = 6 * (1438 // 64) = 132" in found.expected
    assert found.instead == "scheduler.warmup=132st, or scheduler.milestones=[46ep,48ep,50ep]"
    assert problems(*typed, "trainer.duration=30ep")["scheduler.warmup"].instead == "scheduler.warmup=132st"


def test_both_ways_out_of_a_long_warmup_lead_out() -> None:
    typed = ["scheduler=multistep", "trainer.duration=60ep"]
    assert problems(*typed, "scheduler.milestones=[6ep,8ep,10ep]", "scheduler.warmup=132st") == {}
    assert problems(*typed, "scheduler.milestones=[46ep,48ep,50ep]", "scheduler.warmup=1000st") == {}


def test_one_step_of_warmup_more_than_fits_is_refused() -> None:
    typed = ["scheduler=multistep", "scheduler.milestones=[6ep,8ep]"]
    assert problems(*typed, "scheduler.warmup=132st") == {}
    assert problems(*typed, "scheduler.warmup=133st").keys() == {"scheduler.warmup"}


def test_warmup_longer_than_the_run_is_refused() -> None:
    assert "longer than the run" in problems("scheduler.warmup=40ep", "trainer.duration=30ep")["scheduler.warmup"].what


def test_milestones_beyond_the_run_are_a_warning() -> None:
    warnings = passed("scheduler=multistep", "scheduler.milestones=[5ep,500ep]").warnings
    assert any("11000" in text for text in warnings)


def test_milestones_must_rise() -> None:
    assert problems("scheduler=multistep", "scheduler.milestones=[8ep,6ep]")["scheduler.milestones"].instead == (
        "scheduler.milestones=[6ep,8ep]"
    )


def test_a_schedule_falls_to_less_than_it_falls_from() -> None:
    found = problems("optimizer.lr=0.1", "scheduler.min_lr=0.5")
    assert found.keys() == {"scheduler.min_lr"} and found["scheduler.min_lr"].expected == "at most 0.1"
    halved = ("trainer.lr_scaling.rule=linear", "trainer.lr_scaling.base_batch_size=128", "data.batch_size=64")
    assert problems("optimizer.lr=0.1", "scheduler.min_lr=0.06", *halved).keys() == {"scheduler.min_lr"}
    passed("optimizer.lr=0.1", "scheduler.min_lr=0.05", *halved)


def test_early_stopping_needs_evaluations() -> None:
    assert problems("trainer.eval_every=never", "trainer.early_stop.patience=3").keys() == {
        "trainer.early_stop.patience"
    }
    assert any("best is the last" in text for text in passed("trainer.eval_every=never").warnings)


@pytest.mark.parametrize(("capability", "slow"), [("AVX2", True), ("AVX512", False)])
def test_bf16_on_a_processor_without_it_is_warned_of(capability: str, slow: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    warnings = passed("trainer.precision=bf16", "device=cpu").warnings
    assert any("no bf16 instructions" in text for text in warnings) == slow
    assert not any("bf16" in text for text in passed("device=cpu").warnings)


@pytest.mark.parametrize(
    "override",
    [
        "trainer.clip_norm=0", "trainer.clip_value=-1", "trainer.clip_agc=0", "trainer.ema_decay=1",
        "trainer.ema_decay=0",
        "trainer.accumulate=0", "optimizer.lr=0", "optimizer.lr=-0.1", "optimizer.weight_decay=-1", "data.batch_size=0",
        "task.label_smoothing=1", "checkpoint.keep_last=1", "checkpoint.every_minutes=0", "scheduler.min_lr=-1",
        "trainer.early_stop.patience=0", "trainer.max_skips=0", "seed=-1", "trainer.devices=0", "trainer.devices=[]",
        "trainer.devices=[0,0]", "trainer.param_groups.layer_decay=1.5", "optimizer.lr=.inf",
        "threads=0", "resume_step=-1", "trainer.bucket_cap_mb=0",
    ],
)  # fmt: skip
def test_numbers_lie_where_they_mean_something(override: str) -> None:
    assert problems(override).keys() == {override.partition("=")[0]}


def test_an_optimizer_without_a_rate_is_refused() -> None:
    assert problems("~optimizer.lr")["optimizer.lr"].what == "must be given"


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "", ".hidden", "a b", "x" * 81, "ä"])
def test_a_name_that_is_no_folder_of_outputs_is_refused(name: str) -> None:
    assert problems(f"name='{name}'").keys() == {"name"}


@pytest.mark.parametrize("key", ["logger.jsonl.api_key", "trainer.password", "data.hub_token"])
def test_secrets_are_refused_and_not_repeated(key: str) -> None:
    found = problems(f"+{key}=canary-3141")
    assert "looks like a secret" in found[key].what or found[key].what.startswith("unknown key")
    assert "canary-3141" not in found[key].got + found[key].what


def test_a_folder_that_cannot_be_written_is_found_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = problems(folder=tmp_path / "file" / "runs" / "1")["hydra.run.dir"]
    assert "is no folder" in found.what
    assert problems(folder=tmp_path / "new" / "runs") == {}
    assert os.listdir(tmp_path) == ["file"]


def test_a_list_of_gpus_where_there_are_none_is_a_warning() -> None:
    warnings = passed("trainer.devices=[0,3]", "device=cpu").warnings
    assert "trainer.devices=[0, 3] names GPUs, and none is used: 2 processes on the CPU" in warnings
    assert not any("names GPUs" in text for text in passed("trainer.devices=2", "device=cpu").warnings)


@pytest.mark.parametrize("override", ["name=a\x1b[31mb", "name='a\x1b[31mb'", "optimizer.lr=\x9b2J", "\x07=1"])
def test_control_characters_of_an_override_do_not_reach_the_screen(override: str) -> None:
    composed = COMPOSER.compose_or_explain([override])
    config = composed.config or COMPOSER.compose([])
    with pytest.raises(InvalidConfig) as caught:
        check(config, origin=Origin([override], composer=COMPOSER), known=composed.problems)
    assert all(line.isprintable() for line in str(caught.value).split("\n"))


def test_devices_that_are_not_there_are_refused() -> None:
    assert problems("device=mps")["device"].instead == "device=cpu"


def test_a_launcher_that_has_dealt_ranks_decides(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert problems("trainer.devices=2")["trainer.devices"].expected == "auto, or 4"
    assert passed().config["data"]["batch_size"] == 64


def test_a_sweep_is_checked_for_its_launchers_ranks() -> None:
    launcher = {"_target_": "hydra_plugins.x.SlurmLauncher", "nodes": 2, "tasks_per_node": 3}
    assert "6 = 6 (ranks)" in problems(launcher=launcher)["data.batch_size"].what
