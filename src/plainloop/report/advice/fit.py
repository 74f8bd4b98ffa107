"""Rules about how well the model fits, from the accuracies on training and on validation images.

They follow "training tricks" of PaddleClas, sections 4 to 8; its tables are quoted.
"""

from __future__ import annotations

import math

from plainloop.loggers.numbers import amount, score
from plainloop.report.advice.evidence import CLEAR, GAP, NO_GAP, Advice, Evidence, Fit
from plainloop.report.advice.rate import FEW, not_yet_flat

SOLVED = 0.97  # of a share: above it nothing is under-fitted
SMALL_MODEL = 15e6  # parameters: label smoothing cost ResNet-18 (11.7 million) accuracy, and helped ResNet-50 (25.6)
TINY_MODEL = 5e6  # MobileNets of a quarter width, which less weight decay and milder crops have helped
NOTHING = 0.005  # average precision
SMALL_IMAGE = 64  # pixels; `augment=standard` is for larger ones
# What every recipe begins with, by the augmentation's function -> the option that holds it.
BASIC = {"pad_crop": "crop_flip", "RandomResizedCrop": "standard", "RandomScaleCrop": "scale_crop"}
MILD = (*BASIC, "horizontal_flip")
SHRINKS = 0.1  # share of the weights that weight decay alone takes away in the whole run: less has no effect
COUPLED = ("SGD", "RMSprop", "Adam", "NAdam", "Adagrad", "Adadelta")  # add weight_decay to the gradient


def over_fitting(run: Evidence) -> Advice | None:
    """Training accuracy far above: the first augmentations."""
    fit = run.fit
    if fit is None or not is_over(fit) or any(run.target(name) in MILD for name in run.augment):
        return None
    small = max([0, *run.config["facts"]["image_shape"][1:]]) <= SMALL_IMAGE
    option = "detection" if is_of_boxes(fit.metric) else "crop_flip" if small else "standard"
    options = f"[{','.join((option, *run.augment))}]" if run.augment else option
    more = run.number("data.max_train_samples")
    rather = f"; more images than data.max_train_samples={more:g} would help most" if more is not None else ""
    return Advice("over-fitting", f"{gap_of(fit)}, and nothing crops or flips them{rather}", f"augment={options}")


def over_fitting_still(run: Evidence) -> Advice | None:
    """Training accuracy far above in spite of crops and flips: a stronger augmentation."""
    fit = run.fit
    basic = [BASIC[target] for name in run.augment if (target := run.target(name)) in BASIC]
    if fit is None or not is_over(fit) or len(basic) != 1 or any(run.target(name) not in MILD for name in run.augment):
        return None
    stronger = "cutmix" if fit.metric == "top1" else "color_jitter"
    evidence = f"{gap_of(fit)} in spite of {', '.join(run.augment)}"
    if stronger == "cutmix":
        evidence += "; of eight augmentations cutmix helped ResNet-50 most on ImageNet, from 77.3 to 78.4 %"
    return Advice("over-fitting", evidence, f"augment=[{basic[0]},{stronger}]")


def nothing_found(run: Evidence) -> Advice | None:
    """Hardly any object is detected: a longer run, or wrong boxes."""
    found = [value for _, value in run.series(f"val/{run.monitor}")]
    if not is_of_boxes(run.monitor) or not run.finished or len(found) < 2 or max(found) >= NOTHING:
        return None
    epochs, total = run.clock.epochs(run.clock.total_steps), run.clock.total_steps
    longer = f"{3 * math.ceil(epochs)}ep" if epochs >= 1 else f"{3 * total}st"
    evidence = (
        f"val/{run.monitor} stays below {NOTHING} in {len(found)} evaluations and {total:,} steps, and a detector "
        "finds little at first; if train/loss hardly falls, look at the boxes with scripts/preview_augment.py"
    )
    return Advice("nothing is found", evidence, f"trainer.duration={longer}")


def weight_decay(run: Evidence) -> Advice | None:
    """More where the model over-fits, less where a tiny one does not."""
    fit, value, lr = run.fit, run.number("optimizer.weight_decay"), run.number("optimizer.lr")
    if fit is None or value is None or lr is None:
        return None
    coupled = str(run.config["optimizer"].get("_target_")).rpartition(".")[2] in COUPLED
    most, least = (5e-4, 5e-5) if coupled else (0.2, 0.02)
    steps = lr * run.clock.total_steps
    if is_over(fit) and value < most and most * steps > SHRINKS:
        evidence = f"{gap_of(fit)}; optimizer.weight_decay={value:g}, and more holds the weights smaller"
        return Advice("weight decay", evidence, f"optimizer.weight_decay={most:g}")
    if is_under(run, fit) and run.parameters < TINY_MODEL and value > least and value * steps > SHRINKS:
        evidence = (
            f"{fit}; with {amount(run.parameters)} parameters this is a tiny model, which weight decay holds back: "
            f"MobileNetV1_x0_25 gained a point on ImageNet by 3e-5 instead of 1e-4"
        )
        return Advice("weight decay", evidence, f"optimizer.weight_decay={value / 3:.1g}")
    return None


def under_fitting(run: Evidence) -> Advice | None:
    """No gap, and augmentations that make the task harder than it has to be: only the mild ones."""
    fit = run.fit
    strong = [name for name in run.augment if run.target(name) not in MILD and name.isidentifier()]
    if fit is None or not strong or not is_under(run, fit):
        return None
    evidence = f"{fit}: it does not over-fit, and {', '.join(strong)} {'makes' if len(strong) == 1 else 'make'} it hard"
    return Advice("under-fitting", evidence, " ".join(f"~augment.{name}" for name in strong))


def too_small(run: Evidence) -> Advice | None:
    """No gap, and nothing that holds the model back: a larger one."""
    fit = run.fit
    if fit is None or not is_under(run, fit) or any(run.target(name) not in MILD for name in run.augment):
        return None
    if run.number("task.label_smoothing") or run.number("model.drop_rate") or not_yet_flat(run) is not None:
        return None
    width, depth = run.number("model.width"), run.number("model.depth")
    if width is not None and width >= 1:
        line = f"model.width={2 * width:.0f}"
    elif depth is not None and depth in (20, 32, 44):
        line = f"model.depth={depth + 12:.0f}"
    else:
        return None
    evidence = f"{fit}: it does not over-fit, and nothing regularizes it; {amount(run.parameters)} parameters are few"
    return Advice("under-fitting", evidence, line)


def dropout(run: Evidence) -> Advice | None:
    fit, rate = run.fit, run.number("model.drop_rate")
    if fit is None or not rate or not is_under(run, fit):
        return None
    return Advice("under-fitting", f"{fit}: it does not over-fit, and model.drop_rate={rate:g}", "model.drop_rate=0.0")


def label_smoothing(run: Evidence) -> Advice | None:
    """Off for a small model that does not over-fit, on for a large one that does."""
    fit, smoothing = run.fit, run.number("task.label_smoothing")
    if fit is None or smoothing is None:
        return None
    if smoothing > 0 and run.parameters < SMALL_MODEL and is_under(run, fit):
        evidence = (
            f"{fit}; task.label_smoothing={smoothing:g} on a model of {amount(run.parameters)} parameters, "
            f"and ResNet-18 (11.7M) lost accuracy by it"
        )
        return Advice("label smoothing", evidence, "task.label_smoothing=0.0")
    if smoothing == 0 and SMALL_MODEL <= run.parameters < float("inf") and is_over(fit):
        evidence = (
            f"{gap_of(fit)}; the model is large ({amount(run.parameters)} parameters), "
            f"and ResNet-50 (25.6M) gained half a point by label smoothing"
        )
        return Advice("label smoothing", evidence, "task.label_smoothing=0.1")
    return None


def crop_scale(run: Evidence) -> Advice | None:
    """Larger crops for tiny models that do not over-fit."""
    fit = run.fit
    if fit is None or run.parameters >= TINY_MODEL or not is_under(run, fit):
        return None
    for name in run.augment:
        low = (run.config["augment"][name].get("scale") or [1])[0] if run.target(name) == "RandomResizedCrop" else 1
        if isinstance(low, int | float) and low < 0.2 and name.isidentifier():
            evidence = (
                f"{fit}; crops begin at {100 * low:.0f} % of the image's area and the model has "
                f"{amount(run.parameters)} parameters: MobileNetV2_x0_25 gained 0.8 points on ImageNet from 20 % on"
            )
            return Advice("crop scale", evidence, f"augment.{name}.scale=[0.2,1]")
    return None


def is_of_boxes(metric: str) -> bool:
    """Average precision: of boxes, or of masks of objects."""
    return metric == "map"


def is_over(fit: Fit) -> bool:
    return fit.gap > max(GAP, CLEAR * fit.error)


def is_under(run: Evidence, fit: Fit) -> bool:
    """Training accuracy no higher than validation accuracy, and neither near 1, after enough evaluations."""
    evaluated = len(run.series(f"val/{fit.metric}"))
    return run.finished and evaluated >= FEW and fit.gap < NO_GAP and fit.train < SOLVED


def gap_of(fit: Fit) -> str:
    counts = f"{fit.num_train:,} and {fit.num_val:,} images"
    return f"train_eval/{fit.metric} {score(fit.train)} is far above val/{fit.metric} {score(fit.val)} ({counts})"
