"""What stands after "type instead" is typed: it passes, or it leads on to the next thing, and never back."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import pytest

from plainloop.config.explain import other_codes
from plainloop.config.explain.problems import Problem
from tests.config.test_corpus import WRONG
from tests.harness.commands import problems

# What a stranger typed, and what has to be told: the one override to type, or the start of it.
TOLD = {
    # a key that another option has
    "lr_decay_gamma=0.1": "scheduler=multistep scheduler.gamma=0.1",
    "scheduler=step lr_decay_gamma=0.1": "scheduler.gamma=0.1",
    "scheduler=step scheduler.every=1ep": "scheduler=cosine_warmup scheduler.every=1ep",
    "scheduler.gamma=0.1": "scheduler=multistep scheduler.gamma=0.1",
    "scheduler.milestones=[10,20]": "scheduler=multistep scheduler.milestones=[10ep,20ep]",
    "optimizer.momentum=0.9": "optimizer=sgd optimizer.momentum=0.9",
    "optimizer=sgd optimizer.betas=[0.8,0.9]": "optimizer=adamw optimizer.betas=[0.8,0.9]",
    "model.model_name=resnet18": "model=timm model.model_name=resnet18",
    "data.root=/data": "data=image_folder data.root=/data",
    "logger.wandb.project=mine": "logger=wandb logger.wandb.project=mine",
    "logger=csv logger.wandb.project=mine": "logger=[csv,wandb] logger.wandb.project=mine",
    "hydra.launcher.slots=2": "hydra/launcher=gpu_pool hydra.launcher.slots=2",
    "augment.flip.p=0.3": "augment=crop_flip augment.flip.p=0.3",
    "augment=first_batch augment.flip.p=0.3": "augment=[first_batch,crop_flip] augment.flip.p=0.3",
    "~augment.flipp": "leave ~augment.flipp out",
    "augment=crop_flip ~augment.flipp": "~augment.flip",
    "scheduler=onecycle warmup_steps=100": "scheduler=cosine_warmup scheduler.warmup=100st",
    "+data.root=/data": "data=image_folder data.root=/data",
    # a value for a group of keys, or a path for an option
    "trainer.early_stop=5": "trainer.early_stop.patience=5",
    "early_stop=true": "trainer.early_stop.patience=10",
    "data=/data/pets": "data=image_folder data.root=/data/pets",
    "augment=[standard,crop_flip]": "augment=standard, or augment=crop_flip",
    "data.cache=ram": "leave data.cache out",
    "+optimizer.lr=0.1": "optimizer.lr=0.1",
    "plugins={a:1}": "leave plugins={a:1} out",
    "experiment=detection_quick task.losses.size.x=1": "leave task.losses.size.x out",
    "data=coco data.root=x data.image_size=[96,abc]": "data.image_size=[800,1333]",
    "data=coco data.root=x data.image_size=[96.5,160]": "data.image_size=[800,1333]",
    "data=coco data.root=x data.image_size='96x160'": "data.image_size=[96,160]",
    "data=coco data.root=x data.image_size=big": "data.image_size=416",
    "data=image_folder data.root=x data.image_size=[96,160]": "data.image_size=224",
    "experiment=detection_quick task.lossess.size=1": "task.losses.size=1",
    # paths of people who write other letters, and another way to write a list or a mapping
    "data=coco data.root=Füße task=detection model=yolov3": "set data.root=<folder with images and annotations>",
    "data=coco data.root=tests/config/test_instead.py": "type data.root=tests/config",
    "optimizer.betas=(0.9,0.95)": "optimizer.betas=[0.9,0.95]",
    'trainer.param_groups.lr_scale={"fc*":0.1}': "'trainer.param_groups.lr_scale={fc*:0.1}'",
    "lr_decay_epochs=6,8,10": "scheduler=multistep scheduler.milestones=[6ep,8ep,10ep]",
    # words of other codes whose value decides
    "save_dir=x": "hydra.run.dir=x",
    "arch=resnet50": "model=resnet50",
    "gpus=all": "trainer.devices=auto",
    "launcher=mpi": "leave launcher out",
    "no_validate=false": "leave no_validate out",
    "do_eval=false": "trainer.eval_every=never",
    "use_vdl=false": "leave use_vdl out",
    "pretrain_weights=IMAGENET": "model.pretrained=true",
    "batch_size=4": "data.batch_size_per_device=4",
    "evaluation.interval=2": "trainer.eval_every=2ep",
    "lr_config.policy=poly": "scheduler=polynomial",
    "mc_config=x": "leave mc_config out",
    "mode=eval": "leave mode out",
    "lr_find=true": "leave lr_find out",
    "augment.mixup.alpha=0.2": "augment=mixup augment.mixup.alpha=0.2",
    # of another type, or far away
    "checkpoint.save_top_k=3": "checkpoint.keep_last=3",
    "logger=wandb logger.wandb.api_key=abc": "leave logger.wandb.api_key out",
    "augment=[crop_flip,standrd]": "augment=[crop_flip,standard]",
    "augment=[standard,[standard,mixup]]": "-m augment=standard,[standard,mixup] for a sweep",
    "augment=[crop_flip,mixup] augment.cutmix.alpha=2": "augment=[crop_flip,mixup,cutmix] augment.cutmix.alpha=2",
    "augment=crop_flip augment.mixup.alpha=2": "augment=[crop_flip,mixup] augment.mixup.alpha=2",
    "augment=standard augment.crop.pad=2": "augment=crop_flip augment.crop.pad=2",
    "model=unet": "leave model=unet out",
    "augment=gridmask augment.gridmask.nope=1": "leave augment.gridmask.nope out",
    "augment=cutmix augment.cutmix.until=120%": "leave augment.cutmix.until=120% out",
    "augment=mixup augment.mixup.num_classes=3": "leave augment.mixup.num_classes out, it is ${facts.num_classes}",
    "experiment=segmentation_quick is_slide=true": "task.window=1024",
    "experiment=segmentation_quick aug_eval=true": "task.tta_flip=true",
    "experiment=segmentation_quick augment=mixup": "~augment.scale_crop, or the option that has it too: augment=[...]",
    # another library's value, or a slip of the pen in one
    "trainer.accelerator=gpu": "device=cuda",
    "device=gpu": "device=cuda",
    "amp=true": "trainer.precision=bf16",
    "sync_bn=1": "trainer.sync_batchnorm=true",
    "freeze_bn=true": "trainer.freeze_batchnorm=true",
    "ignore_label=254": "data=mask_folder data.ignore_index=254",
    "train_path=train_list.txt": "data=mask_lists",
    "ann_file=a/train.json": "data=coco data.train.annotations=a/train.json",
    "experiment=detection_quick ignore_threshold=0.7": "model.ignore_iou=0.7",
    "experiment=detection_quick nms_iou_threshold=0.5": "model.nms_iou=0.5",
    "with_fpn=true": "leave with_fpn out",
    "experiment=detection_quick metric=VOC": "task.measure=voc",
    "train_random_shapes=[320,608]": "augment=multi_scale",
    "data=CocoDetection": "data=coco",
    "data=VOCDetection": "data=voc_boxes",
    "model=PPLiteSeg": "model=pp_liteseg",
    "model=DeepLabV3P": "model=deeplabv3plus",
    "trainer.precision=fp61": "trainer.precision=fp16",
    "trainer.lr_scaling.rule=lienar": "trainer.lr_scaling.rule=linear",
    "trainer.deterministic=yess": "trainer.deterministic=true",
    "trainer.param_groups.no_decay=norm": "trainer.param_groups.no_decay=[norm]",
    "trainer.devices=two": "trainer.devices=auto",
    "optimizer.lr=abc": "optimizer.lr=0.001",
    "optimizer.betas=0.9": "optimizer.betas=[0.9,0.999]",
    "+trainer.acumulate=2": "trainer.accumulate=2",
    "~model.num_classes": "leave ~model.num_classes out",
    # units
    "trainer.duration=5epochs": "trainer.duration=5ep",
    "trainer.duration=-3ep": "trainer.duration=3ep",
    "trainer.duration=1000steps": "trainer.duration=1000st",
    "trainer.duration=1000it": "trainer.duration=1000st",
    "trainer.duration=0.5": "trainer.duration=0.5ep",
    "trainer.duration=5": "trainer.duration=5ep, or trainer.duration=5st",
    "trainer.durationn=5": "trainer.duration=5ep",
    # options
    "experiment=conf/experiment/fashion_mnist_quick.yml": "experiment=fashion_mnist_quick",
    "scheduler=poly": "scheduler=polynomial",
    "scheduler=PiecewiseDecay": "scheduler=multistep",
    "scheduler=torch.optim.lr_scheduler.CosineAnnealingLR": "scheduler=cosine",
    "optimizer=Momentum": "optimizer=sgd",
    "optimizer=torch.optim.SGD": "optimizer=sgd",
    "opt=Adam": "optimizer=adam",
    "hydra/launcher=slurm": "hydra/launcher=submitit_slurm",
    "model=MobileNetV3_large_x1_0": "model=timm model.model_name=mobilenetv3_large_x1_0",
    "model=resnet101": "model=timm model.model_name=resnet101",
    "optimiser=sgd": "optimizer=sgd",
    "hydra/launcher=submitit_slrum": "hydra/launcher=submitit_slurm",
    "gamma=0.1 scheduler=multistep": "scheduler.gamma=0.1",
    "optimizer=sgd,adamw": "-m optimizer=sgd,adamw for a sweep, or optimizer=[sgd,adamw] for a list",
    # a group has one place, and an option
    "+augment=crop_flip": "augment=crop_flip",
    "augment=standard +augment=first_batch": "augment=[standard,first_batch]",
    "+hydra/launcher=gpu_pool": "hydra/launcher=gpu_pool",
    "~augment": "augment=none",
    "augment=[]": "augment=none",
    "~model=tiny": "model=tiny",
    "experiment=": "leave experiment= out",
    "debug=nan debug=overfit": "debug=[nan,overfit]",
    "logger=csv logger=[jsonl,wandb]": "logger=[csv,jsonl,wandb]",
    "+lr=0.1": "optimizer.lr=0.1",
    # what must agree with what
    "model.num_classes=7": "leave model.num_classes out, it is ${facts.num_classes}",
    "data.batch_size=5000": "data.batch_size=1024",
    "scheduler=multistep scheduler.milestones=[4ep,2ep]": "scheduler.milestones=[2ep,4ep]",
    "scheduler=multistep trainer.duration=3ep scheduler.milestones=[1ep,2ep] scheduler.warmup=9ep":
        "scheduler.warmup=22st",
    # what data, task and model are for
    "task=detection model=yolov3 model.backbone=tiny": "data=coco",
    "data=digit_boxes model=yolov3 model.backbone=tiny": "task=detection",
    "data=digit_scenes model=tiny_seg": "task=segmentation",
    "data=digit_boxes task=detection": "model=yolov3",
    "data=digit_boxes task=detection model=resnet18 model.backbone=tiny": "model=yolov3 model.backbone=tiny",
    "experiment=detection_quick task.class_weights=balanced": "leave task.class_weights out",
    "task=distillation data=digit_boxes": "task=detection",
    "task=distillation": "task.teacher=<run directory>",
    "task.temperature=2": "task=distillation task.temperature=2",
    "data=digit_boxes task=instance_segmentation model=yolov3 model.backbone=tiny": "model=mask_rcnn",
}  # fmt: skip


@pytest.mark.parametrize("typed", TOLD)
def test_one_mistake_is_one_problem_and_says_what_to_type(typed: str) -> None:
    found = problems(*typed.split())
    assert [problem.instead for problem in found.values()] == [TOLD[typed]]


@pytest.mark.parametrize("typed", list(TOLD)[::4])
def test_what_is_told_to_type_does_not_lead_back(typed: str) -> None:
    assert back(typed.split()) == []


def test_every_wrong_value_names_what_was_expected() -> None:
    silent = [typed for typed in WRONG[::25] for problem in problems(*typed).values() if says_nothing(problem)]
    assert silent == []


def test_what_cannot_be_typed_is_not_said_to_be() -> None:
    for advice, line in (
        ("mend or remove it", "    next: mend or remove it"),
        ("type data=coco", "    type instead: data=coco"),
        ("leave tta out", "    type instead: leave tta out"),
    ):
        assert Problem("data.root", "is wrong", instead=advice).lines()[-1] == line


@pytest.mark.parametrize("option", ["logger=mlflow", "task=ocr"])
def test_an_option_that_this_version_lacks_names_the_nearest(option: str) -> None:
    (found,) = problems(option).values()
    assert found.what.endswith("is not in this version")
    assert found.notes[0].startswith("the nearest ")


VALUES = ("2", "0.1", "true", "false", "sgd", "[2,3]", "2,3")
# What the advice cannot know: paths, weights, GPUs, what data and model a task is for, what two keys allow together.
NOT_KNOWN = re.compile(
    r"data.root=|init_from=|pretrained=|device=cuda|min_lr=|drop\w*_rate=(2|sgd)|experiment=\[|smoothing=2|erasing.p=2"
    r"|task=(segmentation|detection|instance_segmentation)|model=yolov3|data=(image_folder|mask_folder|mask_lists|coco)"
    r"|augment=(mosaic|mixup_boxes)|freeze_until=|folds=sgd"
)


@pytest.mark.slow
def test_what_is_told_of_each_word_of_other_codes_runs_with_each_kind_of_value() -> None:
    told = set()
    for word, value in itertools.product(other_codes.keys(), VALUES):
        (found,) = problems(f"{word}={value}").values()
        assert found.instead, f"{word}={value}"
        told.add(found.instead)
    told = {text for text in told if not text.startswith(("leave", "-m")) and "..." not in text}
    assert len(told) > 60
    assert [text for text in sorted(told) if problems(*text.split()) and not NOT_KNOWN.search(text)] == []


@pytest.mark.slow
def test_what_is_told_to_type_for_the_whole_corpus_does_not_lead_back() -> None:
    typed_all = [*WRONG, *(line.split() for line in TOLD)]
    assert [found for typed in typed_all for found in back(typed)] == []
    assert [typed for typed in WRONG for problem in problems(*typed).values() if says_nothing(problem)] == []


@pytest.mark.parametrize("typed", ["logger.wandb.api_key=abc", "+logger.wandb.api_key=abc", "+trainer.api_key=abc"])
def test_a_secret_is_not_repeated(typed: str) -> None:
    (found,) = problems("logger=wandb", typed).values()
    assert "abc" not in "\n".join(found.lines())


def test_a_named_thing_that_is_not_there_names_the_options_that_bring_it() -> None:
    (found,) = problems("augment.flip.p=0.3").values()
    options = "crop_flip, detection, large_scale_jitter, segmentation, ssd, standard, yolo"
    assert found.what == f"augment=none has no flip; {options} have it"


def test_a_file_that_is_no_option_names_the_options() -> None:
    (found,) = problems("experiment=configs/x.yml").values()
    assert "fashion_mnist_quick" in found.notes[0]


def test_where_the_data_lie_is_blamed_for_data_that_are_not_there() -> None:
    (found,) = problems("data=image_folder", "data.root=/nowhere/at/all").values()
    assert found.given_by == "command line override data.root=/nowhere/at/all"


def back(typed: list[str], steps: int = 3) -> list[str]:
    """Types what is told, and again what is then told; what leads back to a problem that was solved."""
    overrides, found = list(typed), list(problems(*typed).values())
    solved: list[tuple[str, str, str]] = []
    for _ in range(steps):
        ways = [(problem, retyped(overrides, problem)) for problem in found]
        ways = [(problem, way) for problem, way in ways if way is not None]
        if not ways:
            return []
        problem, way = ways[0]
        solved.append((problem.key, problem.what, problem.got))
        overrides = way
        found = list(problems(*overrides).values())
        again = [p for p in found if (p.key, p.what, p.got) in solved]
        if again:
            return [f"{' '.join(typed)} -> {' '.join(overrides)}: {p.key} {p.what}" for p in again]
    return [] if not found else [f"{' '.join(typed)} -> {' '.join(overrides)}: not right after {steps} steps"]


def retyped(overrides: Sequence[str], problem: Problem) -> list[str] | None:
    """The command line with the first thing that is told to type; None where that is left to the person."""
    text = problem.instead.split(", or ")[0].removeprefix("type ")
    wrong = problem.given_by.removeprefix("command line override ")
    rest = [o for o in overrides if o != wrong and (wrong in overrides or name(o) != problem.key)]
    if text.startswith("leave out"):
        return [o for o in rest if o not in problem.instead]
    if re.match(r"leave .* out", text):
        return rest
    words = [word for word in text.split() if re.fullmatch(r"[+~]*[\w./]+(=\S+)?", word) and re.search("[=~]", word)]
    if not words or "..." in text or "<" in text or text.startswith("-m"):
        return None
    names = {name(word) for word in words}
    return [o for o in rest if name(o) not in names] + words


def name(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def says_nothing(problem: Problem) -> bool:
    return not (problem.expected or problem.instead or problem.meant or problem.notes)
