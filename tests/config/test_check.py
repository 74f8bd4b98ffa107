"""What the check refuses, and with which words."""

import shlex
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from plainloop.config.check.check import check
from plainloop.config.compose.composer import Composer
from plainloop.config.compose.origin import Origin
from plainloop.config.explain.problems import InvalidConfig
from tests.harness.commands import COMPOSER, ROOT, passed, problems

# What is typed | the key of the one problem | words of its message | more words
REFUSED = r"""
optimizer.lr=abc | optimizer.lr | got 'abc' | expected: a number | instead: optimizer.lr=0.001
optimizer.betas=[0.9] | optimizer.betas | expected: a list of 2
optimizer.fused=3 | optimizer.fused | expected: true or false or null
trainer.accumulate=1.5 | trainer.accumulate | expected: a whole number
trainer.precision=int8 | trainer.precision | expected: one of fp32, bf16, fp16
trainer.clip_norm=big | trainer.clip_norm | expected: a number or null
trainer.devices=two | trainer.devices | one of auto or a whole number or a list [a,b]
trainer.devices=[[1]] | trainer.devices | instead: trainer.devices=auto
device=gpu | device | expected: one of auto, cpu, cuda, mps
data.device=gpu | data.device | instead: data.device=cuda
name=nan | name | expected: text | instead: "name='nan'"
threads=0 | threads | expected: 1 or more, or auto
+optimizer.beta=0.9 | optimizer.beta | did you mean: optimizer.betas   (conf/optimizer/adamw.yaml:5)
+model.widht=64 | model.widht | did you mean: model.width   (conf/model/tiny.yaml:5) | instead: model.width=64
+data.batchsize=32 | data.batchsize | did you mean: data.batch_size   (conf/data/digits.yaml:3)
+trainer.acumulate=2 | trainer.acumulate | did you mean: trainer.accumulate   (conf/trainer/default.yaml:5)
+checkpoint.kept=2 | checkpoint.kept | valid keys: checkpoint.every_minutes, checkpoint.keep_last
+optimizer.params=[1] | optimizer.params | has no such argument
+scheduler.step=3 | scheduler.step | has no such argument
+scheduler.base_lr=0.1 | scheduler.base_lr | instead: optimizer.lr=0.1
augment=crop_flip +augment.crop.batch=3 | augment.crop.batch | has no such argument
augment=crop_flip ~augment.crop.pad | augment.crop.pad | instead: leave ~augment.crop.pad out
~model.num_classes | model.num_classes | instead: leave ~model.num_classes out
~optimizer.lr | optimizer.lr | must be given
data=image_folder | data.root | given by: conf/data/image_folder.yaml: | instead: data.root=...
optimizer.lr=${trainer.durration} | optimizer.lr | did you mean: trainer.duration
optimizer._target_=torch.optim.Adamw | optimizer._target_ | instead: optimizer._target_=torch.optim.AdamW
optimizer._partial_=false | optimizer._partial_ | instead: ++optimizer._partial_=true
model._target_=os.system | model._target_ | not allowed
optimizer._target_=torch.load | optimizer._target_ | not allowed
"+augment.blur={_target_: subprocess.run, _partial_: true}" | augment.blur._target_ | not allowed
"+model.body=[{_target_: builtins.eval}]" | model.body.0._target_ | not allowed
+logger.mine._target_=my_package.Logger | logger.mine._target_ | not allowed | plugins=[my_package]
+hydra.callbacks.mine._target_=os.system | hydra.callbacks.mine._target_ | not allowed
hydra.launcher._target_=os.system | hydra.launcher._target_ | no plugin
hydra.sweeper=${nothing} | hydra.sweeper | 'nothing' not found
hydra.job.name=a/b | hydra.job.name | no file name | instead: hydra.job.name=train
logger=[[1]] | logger | there is no option [1]
model=timm model.model_name=resent18 | model.model_name | instead: model.model_name=resnet18
model=timm model.model_name=resnet18 +model.drop_rat=0.1 | model.drop_rat | instead: leave +model.drop_rat=0.1 out
model=vit_small_patch16_224 | model | 8x8
model.num_classes=7 | model.num_classes | expected: 10: 0, 1, 2, 3, 4, ...
task.class_weights=[1,2] | task.class_weights | 10 classes | instead: leave task.class_weights=
data.batch_size=2000 | data.batch_size | got 2000 | expected: at most 1438
trainer.accumulate=3 | data.batch_size | got 64 (global) | the nearest that do: 63 or 66
trainer.duration=5 | trainer.duration | instead: trainer.duration=5ep, or trainer.duration=5st
trainer.save_every=5 | trainer.save_every | instead: trainer.save_every=5ep, or trainer.save_every=5st
scheduler=multistep scheduler.milestones=[30,60] | scheduler.milestones | 30ep or 30st
trainer.duration=0.001ep | trainer.duration | zero steps
trainer.log_every=0.001ep | trainer.log_every | zero steps
scheduler=multistep scheduler.milestones=[6ep,8ep] scheduler.warmup=133st | scheduler.warmup | less than 132
scheduler.warmup=40ep trainer.duration=30ep | scheduler.warmup | longer than the run
scheduler=multistep scheduler.milestones=[8ep,6ep] | scheduler.milestones | instead: scheduler.milestones=[6ep,8ep]
optimizer.lr=0.1 scheduler.min_lr=0.5 | scheduler.min_lr | expected: at most 0.1
trainer.eval_every=never trainer.early_stop.patience=3 | trainer.early_stop.patience | counts evaluations
checkpoint.monitor=loss | checkpoint.mode | instead: checkpoint.mode=min
trainer.early_stop.monitor=tpo1 trainer.early_stop.mode=max | trainer.early_stop.monitor | loss, macc, top1, top5
device=mps | device | instead: device=cpu
+logger.jsonl.api_key=canary-3141 | logger.jsonl.api_key | secret
optimizer.betas=[2,2] | optimizer.betas | got [2,2] | instead: optimizer.betas=[0.9,0.999]
optimizer.eps=-1 | optimizer.eps | got -1 | instead: optimizer.eps=1e-08
optimizer=sgd optimizer.momentum=0 optimizer.nesterov=true | optimizer.nesterov | instead: optimizer.nesterov=false
optimizer=timm optimizer.opt=sgdd | optimizer.opt | got sgdd | instead: optimizer.opt=
optimizer=timm +optimizer.betaz=3 | optimizer.betaz | got 3 | instead: leave +optimizer.betaz=3 out
optimizer=adadelta scheduler=onecycle | scheduler.cycle_momentum | instead: scheduler.cycle_momentum=false
augment=crop_flip augment.flip.p=2 | augment.flip.p | got 2 | instead: augment.flip.p=0.5
augment=crop_flip augment.crop.pad=100 | augment.crop.pad | got 100 | instead: augment.crop.pad=4
augment=standard augment.crop.scale=[1,0.1] | augment.crop.scale | instead: augment.crop.scale=[0.08,1]
logger=wandb logger.wandb.project=a/b | logger.wandb.project | instead: logger.wandb.project=plainloop
logger=wandb logger.wandb.tags=['']| logger.wandb.tags | instead: logger.wandb.tags=[]
model.drop_rate=2 | model.drop_rate | got 2 | instead: model.drop_rate=0.0
model.width=0 | model.width | got 0 | instead: model.width=16
model.stem_stride=0 | model.stem_stride | instead: model.stem_stride=1
trainer.param_groups.no_decay=[nothing*] | trainer.param_groups.no_decay | instead: trainer.param_groups.no_decay=[]
trainer.param_groups.lr_scale={nothing:0.1} | trainer.param_groups.lr_scale | the nearest is
trainer.param_groups.layer_decay=0.5 | trainer.param_groups.layer_decay | needs a timm model | instead: leave
trainer.deterministic=true trainer.cudnn_benchmark=true | trainer.cudnn_benchmark | cudnn_benchmark=auto
scheduler=exponential scheduler.gamma=1e300 | scheduler.gamma | instead: scheduler.gamma=0.95
scheduler=cyclic trainer.duration=3st | scheduler.step_size_up | instead: scheduler.step_size_up=1st
scheduler=cyclic scheduler.step_size_down=0st | scheduler.step_size_down | expected: at least 1st
scheduler=cyclic scheduler.mode=saw | scheduler.mode | triangular, triangular2, exp_range
scheduler=onecycle scheduler.anneal_strategy=cosine | scheduler.anneal_strategy | instead: scheduler.anneal_strategy=cos
experiment=detection_quick model.anchors=[[10,13]] | model.anchors | expected 3, 6, 9, ... | instead: model.anchors=[[
scheduler=onecycle scheduler.div_factor=0 | scheduler.div_factor | expected: more than 0
task=detection data=digit_boxes model=mask_rcnn | model | instead: task=instance_segmentation where | model=faster_rcnn
task=detection data=digit_boxes data.instance_masks=false model=mask_rcnn | model | instead: data.instance_masks=true
experiment=detection_quick task.losses.siez=0.5 | task.losses.siez | no such loss | instead: +task.losses.size=0.5
task=detection data=digit_boxes model=fcos task.losses.bbox_ctr=2 | task.losses.bbox_ctr | +task.losses.bbox_ctrness=2
experiment=detection_quick task.losses.size=-1 | task.losses.size | got -1 | instead: leave task.losses.size=-1 out
task=segmentation data=digit_scenes model=tiny_seg task.losses.dice=-1 | task.losses.dice | instead: task.losses.dice=0
task=instance_segmentation data=digit_boxes model=faster_rcnn | model | no instance_mask | instead: model=mask_rcnn
""".strip().splitlines()


@pytest.mark.parametrize("row", REFUSED)
def test_a_mistake_is_one_problem_of_its_key_with_these_words(row: str) -> None:
    typed, key, *words = (cell.strip() for cell in row.split("| "))
    found = problems(*shlex.split(typed) if '"' in typed else typed.split())
    assert found.keys() == {key}
    text = "\n".join(found[key].lines())
    assert [word for word in words if word not in text] == []
    given = [part for part in typed.split() if part.lstrip("+~").partition("=")[0] == key and '"' not in typed]
    assert all(f"given by: command line override {part}" in text for part in given if "canary" not in part)


@pytest.mark.parametrize(
    "typed",
    """
    optimizer=adadelta scheduler=onecycle scheduler.cycle_momentum=false
    scheduler=cyclic trainer.duration=3st scheduler.step_size_up=1st
    scheduler=multistep scheduler.milestones=[6ep,8ep] scheduler.warmup=132st
    scheduler=multistep trainer.duration=60ep scheduler.milestones=[46ep,48ep,50ep] scheduler.warmup=1000st
    trainer.early_stop.monitor=loss trainer.early_stop.mode=min
    trainer.param_groups.lr_scale={fc*:0.1,stem*:0.5}
    trainer.log_every=7
    task=instance_segmentation data=digit_boxes model=mask_rcnn
    task=detection data=digit_boxes data.instance_masks=true model=mask_rcnn
    task=detection data=digit_boxes model=mask_rcnn data.instance_masks=true task.losses.loss_mask=0.5
    """.strip().splitlines(),
)
def test_what_is_right_passes(typed: str) -> None:
    assert problems(*typed.split()) == {}


OUT_OF_RANGE = """
trainer.clip_norm=0 trainer.clip_value=-1 trainer.clip_agc=0 trainer.ema_decay=1 trainer.ema_decay=0
trainer.accumulate=0 optimizer.lr=0 optimizer.lr=-0.1 optimizer.weight_decay=-1 data.batch_size=0
task.label_smoothing=1 checkpoint.keep_last=1 checkpoint.every_minutes=0 scheduler.min_lr=-1 optimizer.lr=.inf
trainer.early_stop.patience=0 trainer.max_skips=0 seed=-1 trainer.devices=0 trainer.devices=[]
trainer.devices=[0,0] trainer.param_groups.layer_decay=1.5 resume_step=-1 trainer.bucket_cap_mb=0
"""


@pytest.mark.parametrize("override", OUT_OF_RANGE.split())
def test_numbers_lie_where_they_mean_something(override: str) -> None:
    assert problems(override).keys() == {override.partition("=")[0]}


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "", ".hidden", "a b", "x" * 81, "ä"])
def test_a_name_that_is_no_folder_of_outputs_is_refused(name: str) -> None:
    assert problems(f"name='{name}'").keys() == {"name"}


@pytest.mark.parametrize(
    "typed",
    [
        "trainer.precision=half seed=-1 lr_decay_epochs=[6] name=a/b",
        "optimizer.lr=abc +model.widht=3 +data.batchsize=3",
    ],
)
def test_all_that_one_stage_finds_is_said_at_once(typed: str) -> None:
    assert problems(*typed.split()).keys() == {text.lstrip("+").partition("=")[0] for text in typed.split()}


def test_a_value_that_follows_from_a_wrong_one_is_no_problem_of_its_own() -> None:
    assert problems("trainer.duration=5x").keys() == {"trainer.duration"}  # scheduler.total_steps has it, too
    assert problems("data.batch_size=many").keys() == {"data.batch_size"}


def test_secrets_are_not_repeated() -> None:
    found = problems("+trainer.password=canary-3141")
    assert found and not any("canary" in line for problem in found.values() for line in problem.lines())


@pytest.mark.parametrize("override", ["name=a\x1b[31mb", "name='a\x1b[31mb'", "optimizer.lr=\x9b2J", "\x07=1"])
def test_control_characters_of_an_override_do_not_reach_the_screen(override: str) -> None:
    composed = COMPOSER.compose_or_explain([override])
    config = composed.config or COMPOSER.compose([])
    with pytest.raises(InvalidConfig) as caught:
        check(config, origin=Origin([override], composer=COMPOSER), known=composed.problems)
    assert all(line.isprintable() for line in str(caught.value).split("\n"))


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


# Numbers of processes, batch sizes, durations


@pytest.mark.parametrize(("accumulate", "ranks", "near"), [(1, 7, "63 or 70"), (5, 13, "65")])
def test_a_batch_that_does_not_divide_names_the_nearest_that_do(accumulate: int, ranks: int, near: str) -> None:
    found = problems(f"trainer.accumulate={accumulate}", ranks=ranks)["data.batch_size"]
    assert found.expected == f"the nearest that do: {near}"


def test_a_batch_size_per_device_becomes_the_global_one() -> None:
    config = passed("data.batch_size_per_device=16", ranks=4).config
    assert config["data"]["batch_size"] == config["data"]["train"]["batch_size"] == 64
    assert "batch_size_per_device" not in config["data"]
    assert "data.batch_size_per_device" in problems("data.batch_size_per_device=16", "data.batch_size=64")


def test_a_launcher_that_has_started_ranks_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = {"_target_": "hydra_plugins.x.SlurmLauncher", "nodes": 2, "tasks_per_node": 3}
    assert "6 = 6 (ranks)" in problems(launcher=launcher)["data.batch_size"].what
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert problems("trainer.devices=2")["trainer.devices"].expected == "auto, or 4"
    assert passed().config["data"]["batch_size"] == 64


def test_saved_configs_keep_the_text_of_durations() -> None:
    assert passed("trainer.duration=2ep").config["scheduler"]["total_steps"] == "2ep"


def test_warmup_must_end_before_the_first_decay_in_the_words_of_the_sources() -> None:
    typed = ["scheduler=multistep", "scheduler.milestones=[6ep,8ep,10ep]", "scheduler.warmup=1000st"]
    found = problems(*typed, "trainer.duration=60ep")["scheduler.warmup"]
    assert "warmup_steps should be less than 132, or lr_decay_epochs[0] greater than 46" in found.what
    assert "lr_decay_epochs[0] * num_steps_each_epoch = 6 * (1438 // 64) = 132" in found.expected
    assert found.instead == "scheduler.warmup=132st, or scheduler.milestones=[46ep,48ep,50ep]"
    assert problems(*typed, "trainer.duration=30ep")["scheduler.warmup"].instead == "scheduler.warmup=132st"


def test_the_lowest_rate_is_held_against_the_scaled_one() -> None:
    halved = ("trainer.lr_scaling.rule=linear", "trainer.lr_scaling.base_batch_size=128", "data.batch_size=64")
    assert problems("optimizer.lr=0.1", "scheduler.min_lr=0.06", *halved).keys() == {"scheduler.min_lr"}
    assert problems("optimizer.lr=0.1", "scheduler.min_lr=0.05", *halved) == {}


@pytest.mark.parametrize(
    ("typed", "key", "instead"),
    [
        ("augment=mixup augment.mixup.until=0%", "augment.mixup.until", "augment.mixup.until=null"),
        ("augment=mixup augment.mixup.until=0", "augment.mixup.until", "augment.mixup.until=null"),
        ("augment=randaugment augment.randaugment.num_ops=0", "augment.randaugment.num_ops", None),
    ],
)
def test_an_augmentation_that_would_do_nothing_is_told(typed: str, key: str, instead: str | None) -> None:
    found = problems(*typed.split())[key]
    assert "leaves it out" in found.expected
    assert instead is None or found.instead == instead
    assert problems("augment=mixup", "augment.mixup.until=1%") == {}


def test_a_wrong_entry_of_a_long_list_is_told_by_its_place() -> None:
    found = problems("experiment=detection_quick", "model.anchors=[[10,13],[16,a],[33,23]]")["model.anchors"]
    assert found.what == "wrong type or value in entry 2"


def test_a_student_of_boxes_is_not_asked_for_a_teacher_but_for_labels() -> None:
    found = problems("task=distillation", "data=digit_boxes")
    assert found.keys() == {"task"}
    assert found["task"].what.startswith("reads 'label' of each batch, and the data give image, boxes,")
    assert problems("task=distillation").keys() == {"task.teacher"}


# Warnings


@pytest.mark.parametrize(
    ("typed", "warning"),
    [
        ("scheduler=multistep scheduler.milestones=[5ep,500ep]", "11000"),
        ("data.batch_size=2 trainer.accumulate=2 augment=mixup", "mixup takes each image with itself"),
        ("trainer.eval_every=never", "best is the last"),
        ("trainer.devices=[0,3] device=cpu", "trainer.devices=[0, 3] names GPUs, and none is used: 2 processes"),
        ("trainer.early_stop.patience=99", "never stops a run of 30 evaluations"),
    ],
)
def test_what_is_surprising_is_a_warning(typed: str, warning: str) -> None:
    assert any(warning in text for text in passed(*typed.split()).warnings)
    assert not any(warning in text for text in passed().warnings)


@pytest.mark.parametrize(("capability", "slow"), [("AVX2", True), ("AVX512", False)])
def test_bf16_on_a_processor_without_it_is_warned_of(capability: str, slow: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    warnings = passed("trainer.precision=bf16", "device=cpu").warnings
    assert any("no bf16 instructions" in text for text in warnings) == slow
