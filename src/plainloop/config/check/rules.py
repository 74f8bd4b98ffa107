"""What must agree with what. Each rule is one function that says what is wrong and what to type.

`EARLY` rules need the config alone and import nothing heavy; `LATE` ones also need the facts of the data and the clock.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping

from plainloop.config.check.findings import Caution, CheckContext, Finding, Findings, Rule
from plainloop.config.check.machine import folder_can_be_written
from plainloop.config.durations import train_batch_size
from plainloop.config.nodes import leaves
from plainloop.config.parts import base_lr_of
from plainloop.config.settings import ranges
from plainloop.system.secrets import looks_secret

_AT_LEAST_ONE_STEP = (
    *(f"trainer.{key}" for key in ("duration", "log_every", "eval_every", "save_every", "freeze_until")),
    *(f"scheduler.{key}" for key in ("every", "step_size", "step_size_up", "step_size_down")),
)
_MIXING = ("mosaic", "mixup", "mixup_boxes", "cutmix", "mixup_or_cutmix")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,79}")


def numbers_are_in_range(context: CheckContext) -> Findings:
    for key, allowed in ranges().items():
        value = context.get(key)
        if allowed.excludes(value):
            yield Finding(key, "out of range", str(value), allowed.expected)


def name_is_a_folder_name(context: CheckContext) -> Findings:
    """It must not lead out of outputs/."""
    name = context.get("name")
    if isinstance(name, str) and not _NAME.fullmatch(name):
        slug = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-._")[:80] or "train"
        expected = "letters, digits, . _ = -, at most 80, no slash; it becomes outputs/<name>"
        yield Finding("name", "is no folder name", repr(name), expected, f"name={slug}")


def no_secrets(context: CheckContext) -> Findings:
    """Configs are written to disk and sent to loggers. The value is not repeated."""
    for key, value in leaves(context.config):
        if looks_secret(key) and value not in (None, ""):
            what = "looks like a secret, and configs are written to files"
            expected = "secrets come from the environment (WANDB_API_KEY) and stay there"
            yield Finding(key, what, expected=expected, instead=f"leave {key} out")


def validation_is_on_where_it_is_needed(context: CheckContext) -> Findings:
    if context.get("trainer.eval_every") != "never":
        return
    if context.get("trainer.early_stop.patience") is not None:
        what = "counts evaluations, and trainer.eval_every=never switches them off"
        instead = "trainer.eval_every=1ep, or trainer.early_stop.patience=null"
        yield Finding("trainer.early_stop.patience", what, instead=instead)
    if context.get("checkpoint.save_best"):
        yield Caution("trainer.eval_every=never: nothing is measured, so best is the last checkpoint")


def a_monitor_says_which_is_better(context: CheckContext) -> Findings:
    for group in ("trainer.early_stop", "checkpoint"):
        monitor, mode = context.get(f"{group}.monitor"), context.get(f"{group}.mode")
        if monitor is not None and mode is None:
            instead = f"{group}.mode={'min' if 'loss' in str(monitor) else 'max'}"
            what = f"must be given with {group}.monitor={monitor}"
            yield Finding(f"{group}.mode", what, "null", "max or min: which is better", instead)


def one_batch_size(context: CheckContext) -> Findings:
    key = "data.batch_size_per_device"
    if context.is_typed("data.batch_size") and context.is_typed(key) and context.get(key) is not None:
        what = "is given beside data.batch_size, and one follows from the other"
        expected = "one of them: data.batch_size is the sum over all devices"
        yield Finding(key, what, expected=expected, instead=f"leave one out: data.batch_size or {key}")


def duration_is_absolute(context: CheckContext) -> Findings:
    key, duration = "trainer.duration", context.get("trainer.duration")
    if isinstance(duration, str) and duration.strip().endswith("%"):
        yield Finding(key, "has no longer run to be a part of", duration, "epochs (90ep) or steps (1000st)")


def devices_are_some(context: CheckContext) -> Findings:
    devices = context.get("trainer.devices")
    twice_or_none = isinstance(devices, list) and len(set(map(str, devices))) != max(1, len(devices))
    if twice_or_none or (isinstance(devices, int) and devices < 1):
        expected = "auto, 1 or more, or a list as [0,3]"
        what = "names no devices, or one twice"
        yield Finding("trainer.devices", what, str(devices), expected, "trainer.devices=auto")


def cudnn_does_not_choose_where_deterministic(context: CheckContext) -> Findings:
    key = "trainer.cudnn_benchmark"
    if context.get("trainer.deterministic") and context.get(key) is True:
        what = "may take another algorithm in each run, and trainer.deterministic=true asks for the same"
        yield Finding(key, what, "true", instead=f"{key}=auto, or trainer.deterministic=false")


def optimizer_has_a_rate(context: CheckContext) -> Findings:
    """Schedules give multiples of it."""
    optimizer = context.config.get("optimizer")
    if isinstance(optimizer, Mapping) and optimizer.get("lr") is None:
        yield Finding("optimizer.lr", "must be given", expected="the base rate", instead="++optimizer.lr=0.001")


def batch_fits_the_data(context: CheckContext) -> Findings:
    num_train, batch_size = context.config["facts"]["num_train"], train_batch_size(context.config)
    if batch_size > num_train:
        parts = context.ranks * context.get("trainer.accumulate")
        fits = parts << ((num_train // parts).bit_length() - 1) if num_train >= parts else num_train
        what = f"is larger than the training set: one epoch would be {num_train} // {batch_size} = 0 steps"
        yield Finding("data.batch_size", what, str(batch_size), f"at most {num_train}", f"data.batch_size={fits}")


def batch_divides(context: CheckContext) -> Findings:
    """Over ranks and micro-batches, or the mean of their losses would not be the loss of the batch."""
    batch_size, accumulate, ranks = train_batch_size(context.config), context.get("trainer.accumulate"), context.ranks
    parts = ranks * accumulate
    if batch_size % parts:
        below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
        before = f"; the run began on {context.began_on}" if context.began_on not in (None, ranks) else ""
        yield Finding(
            "data.batch_size",
            f"does not divide by {parts} = {ranks} (ranks{before}) x {accumulate} (micro-batches)",
            f"{batch_size} (global)",
            f"the nearest that do: {f'{below} or {above}' if below else above}",
            f"data.batch_size={above}",
        )


def validation_is_not_empty(context: CheckContext) -> Findings:
    key, every = "trainer.eval_every", context.get("trainer.eval_every")
    if context.config["facts"]["num_val"] == 0 and every != "never":
        expected, instead = "images to evaluate, or no evaluation", f"{key}=never, or data.val_fraction=0.1"
        yield Finding(key, "the validation set is empty", str(every), expected, instead)


def steps_are_not_zero(context: CheckContext) -> Findings:
    clock = context.clock
    for key in _AT_LEAST_ONE_STEP:
        text = context.get(key)
        if str(text).endswith("%") and key.startswith("trainer."):
            continue  # of a short run: at least one step, see build.settings
        if text not in (None, "never") and clock.steps(text) < 1:
            what = f"is zero steps (one epoch is {clock.steps_per_epoch} steps, the run {clock.total_steps})"
            instead = f"{key}=1ep" if clock.total_steps >= clock.steps_per_epoch else f"{key}=1st"
            yield Finding(key, what, str(text), "at least 1st", instead)
    for name, node in (context.get("augment") or {}).items():
        key, text = f"augment.{name}.until", node.get("until")
        if isinstance(text, str | int) and clock.steps(text) < 1:
            what = f"is zero steps: {name} would never do anything"
            expected = f"at least 1st, or null: never switched off; ~augment.{name} leaves it out"
            yield Finding(key, what, str(text), expected, f"{key}=null")


def warmup_ends_before_the_first_decay(context: CheckContext) -> Findings:
    """warmup_steps <= lr_decay_epochs[0] * num_steps_each_epoch, in the words of PaddleX."""
    clock, warmup, milestones = context.clock, context.get("scheduler.warmup"), _milestones(context)
    if warmup is None:
        return
    warmup_steps, per_epoch = clock.steps(warmup), clock.steps_per_epoch
    got = f"{warmup} = {warmup_steps} steps"
    if milestones and warmup_steps > milestones[0]:
        key = "scheduler.milestones" if context.get("scheduler.milestones") else "scheduler.step_size"
        num_train, batch_size = context.config["facts"]["num_train"], train_batch_size(context.config)
        later = math.ceil(warmup_steps / per_epoch)
        shifted = [later + round((m - milestones[0]) / per_epoch) for m in milestones]
        other_way = f"[{','.join(f'{m}ep' for m in shifted)}]" if key.endswith("milestones") else f"{later}ep"
        inside = shifted[-1] * per_epoch < clock.total_steps
        yield Finding(
            "scheduler.warmup",
            f"warmup_steps should be less than {milestones[0]}, or lr_decay_epochs[0] greater than {later}",
            got,
            f"warmup_steps <= lr_decay_epochs[0] * num_steps_each_epoch = {milestones[0] / per_epoch:g} * "
            f"({num_train} // {batch_size}) = {milestones[0]}",
            f"scheduler.warmup={milestones[0]}st" + (f", or {key}={other_way}" if inside else ""),
        )
    elif warmup_steps > clock.total_steps:
        what = f"is longer than the run of {clock.total_steps} steps"
        yield Finding("scheduler.warmup", what, got, instead="scheduler.warmup=5%, or a longer trainer.duration")


def milestones_lie_inside_the_run(context: CheckContext) -> Findings:
    milestones, values, key = _milestones(context), context.get("scheduler.values"), "scheduler.milestones"
    if isinstance(values, list) and len(values) != len(milestones) + 1:
        yield Finding(
            "scheduler.values",
            "needs one rate before each milestone and one after the last",
            f"{len(values)} rates",
            f"{len(milestones) + 1} for {len(milestones)} milestones",
            "scheduler.values=null takes scheduler.gamma",
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(milestones)):
        given = dict(sorted(zip(milestones, context.get(key), strict=True)))
        yield Finding(key, "must rise", str(context.get(key)), instead=f"{key}=[{','.join(map(str, given.values()))}]")
    total = context.clock.total_steps
    beyond = [m for m in milestones if m >= total]
    if beyond:
        yield Caution(f"the learning rate drops at steps {beyond}, which the run of {total} steps does not reach")


def the_lowest_rate_is_below_the_base_rate(context: CheckContext) -> Findings:
    """Otherwise the rate would rise instead of fall."""
    lowest, base_lr = context.get("scheduler.min_lr"), base_lr_of(context.config)
    if lowest is not None and lowest > base_lr:
        key, expected = "scheduler.min_lr", f"at most {base_lr:g}"
        yield Finding(key, "is above the base rate", f"{lowest:g}", expected, f"{key}={base_lr / 100:g}")


def parts_agree_with_the_facts(context: CheckContext) -> Findings:
    """The model, the task and what mixes labels have as many classes as the data."""
    names = context.config["facts"].get("class_names")
    if names is None:
        return
    shown = f"{len(names)}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    parts = ("model", "task", *(f"augment.{name}" for name in context.get("augment") or ()))
    for key in (f"{part}.num_classes" for part in parts):
        value = context.get(key)
        if isinstance(value, int) and value != len(names):
            instead = f"leave {key} out, it is ${{facts.num_classes}}"
            yield Finding(key, "differs from the classes of the data", str(value), shown, instead)


def what_is_frozen_thaws_within_the_run(context: CheckContext) -> Findings:
    key, until, clock = "trainer.freeze_until", context.get("trainer.freeze_until"), context.clock
    if until is not None and not context.get("trainer.freeze"):
        yield Finding(key, "needs what is frozen so long", until, instead=f"trainer.freeze=backbone {key}={until}")
    elif until is not None and clock.steps(until) >= clock.total_steps:
        what = f"is {clock.steps(until)} steps, and the run has {clock.total_steps}"
        yield Finding(key, what, until, "a part of the run; null is the whole run", f"{key}=null")


def classes_are_balanced_once(context: CheckContext) -> Findings:
    weights = context.get("task.class_weights")
    if context.get("data.sampler") == "class_balanced" and weights is not None:
        yield Caution(
            f"data.sampler=class_balanced draws rare classes more often, and task.class_weights={weights} weighs "
            "classes as well; one of the two is usually enough"
        )


def what_mixes_images_has_several(context: CheckContext) -> Findings:
    """Partners are drawn from the images of one forward pass: from one image, the image itself."""
    at_once = train_batch_size(context.config) // (context.ranks * context.get("trainer.accumulate"))
    nodes = (context.get("augment") or {}).items()
    mixing = [name for name, node in nodes if str(node.get("_target_")).rpartition(".")[2] in _MIXING]
    if mixing and at_once < 2:
        yield Caution(f"{', '.join(mixing)} takes each image with itself: a batch is {at_once} image on a device")


def early_stop_can_happen(context: CheckContext) -> Findings:
    patience, every = context.get("trainer.early_stop.patience"), context.get("trainer.eval_every")
    if patience is not None and every != "never":
        evaluations = context.clock.total_steps // max(1, context.clock.steps(every))
        if patience >= evaluations:
            yield Caution(f"trainer.early_stop.patience={patience} never stops a run of {evaluations} evaluations")


def _milestones(context: CheckContext) -> list[int]:
    """Steps at which the rate drops, where the schedule has such."""
    given, size = context.get("scheduler.milestones"), context.get("scheduler.step_size")
    if given is None and size is not None:
        given = [size]
    return [context.clock.steps(m) for m in given] if isinstance(given, list) else []


EARLY: tuple[Rule, ...] = (
    numbers_are_in_range,
    name_is_a_folder_name,
    no_secrets,
    folder_can_be_written,
    validation_is_on_where_it_is_needed,
    a_monitor_says_which_is_better,
    one_batch_size,
    duration_is_absolute,
    devices_are_some,
    cudnn_does_not_choose_where_deterministic,
    optimizer_has_a_rate,
)
# Without these there is no clock.
BEFORE_THE_CLOCK: tuple[Rule, ...] = (batch_fits_the_data, batch_divides)
LATE: tuple[Rule, ...] = (
    validation_is_not_empty,
    steps_are_not_zero,
    warmup_ends_before_the_first_decay,
    milestones_lie_inside_the_run,
    the_lowest_rate_is_below_the_base_rate,
    parts_agree_with_the_facts,
    what_is_frozen_thaws_within_the_run,
    classes_are_balanced_once,
    what_mixes_images_has_several,
    early_stop_can_happen,
)
