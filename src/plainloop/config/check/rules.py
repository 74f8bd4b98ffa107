"""What must agree with what. Each rule is one function that says what is wrong and the ways out.

`EARLY` needs the config alone and imports nothing heavy; `LATE` also needs the facts of the data, and so the clock.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping

from plainloop.config.check import disk
from plainloop.config.check.findings import Case, Finding, Rule, Warned
from plainloop.config.durations import train_batch_size
from plainloop.config.explain.problems import Problem
from plainloop.config.resolve import leaves
from plainloop.config.settings import ranges
from plainloop.system import storage
from plainloop.system.secrets import looks_secret

_AT_LEAST_ONE_STEP = (
    *(f"trainer.{key}" for key in ("duration", "log_every", "eval_every", "save_every")),
    *(f"scheduler.{key}" for key in ("every", "step_size", "step_size_up", "step_size_down")),
)
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,79}")


def numbers_are_in_range(case: Case) -> Iterator[Finding]:
    for key, allowed in ranges().items():
        value = case.get(key)
        if key.endswith(".batch_size") and key != "data.batch_size" and value == case.get("data.batch_size"):
            continue  # it follows from that one
        if allowed.excludes(value):
            yield case.problem(key, "out of range", got=str(value), expected=allowed.expected)


def name_is_a_slug(case: Case) -> Iterator[Finding]:
    """The name becomes a folder: it must not lead out of outputs/."""
    name = case.get("name")
    if isinstance(name, str) and not _SLUG.fullmatch(name):
        slug = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-._")[:80] or "train"
        yield case.problem(
            "name",
            "is no folder name",
            got=repr(name),
            expected="letters, digits, . _ = -, at most 80, no slash; it becomes outputs/<name>",
            instead=f"name={slug}",
        )


def no_secrets(case: Case) -> Iterator[Finding]:
    """Configs are written to disk and sent to loggers. The value is not repeated."""
    for key, value in leaves(case.config):
        if looks_secret(key) and value not in (None, ""):
            yield Problem(
                key,
                "looks like a secret, and configs are written to files",
                expected="secrets come from the environment (WANDB_API_KEY) and stay there",
                instead=f"leave {key} out",
            )


def validation_is_on_where_it_is_needed(case: Case) -> Iterator[Finding]:
    if case.get("trainer.eval_every") != "never":
        return
    if case.get("trainer.early_stop.patience") is not None:
        yield case.problem(
            "trainer.early_stop.patience",
            "counts evaluations, and trainer.eval_every=never switches them off",
            instead="trainer.eval_every=1ep, or trainer.early_stop.patience=null",
        )
    if case.get("checkpoint.save_best"):
        yield Warned("trainer.eval_every=never: nothing is measured, so best is the last checkpoint")


def one_batch_size(case: Case) -> Iterator[Finding]:
    both = [key for key in ("data.batch_size", "data.batch_size_per_device") if case.origin.override_of(key)]
    if len(both) == 2 and case.get("data.batch_size_per_device") is not None:
        yield case.problem(
            "data.batch_size_per_device",
            "is given beside data.batch_size, and one follows from the other",
            expected="one of them: data.batch_size is the sum over all devices",
            instead=f"leave one out: {both[0]} or {both[1]}",
        )


def duration_is_absolute(case: Case) -> Iterator[Finding]:
    duration = case.get("trainer.duration")
    if isinstance(duration, str) and duration.strip().endswith("%"):
        yield case.problem(
            "trainer.duration", "a run is no share of itself", got=duration, expected="epochs (90ep) or steps (1000st)"
        )


def devices_are_some(case: Case) -> Iterator[Finding]:
    devices = case.get("trainer.devices")
    twice_or_none = isinstance(devices, list) and len(set(map(str, devices))) != max(1, len(devices))
    if twice_or_none or (isinstance(devices, int) and devices < 1):
        yield case.problem(
            "trainer.devices",
            "names no devices, or one twice",
            got=str(devices),
            expected="auto, 1 or more, or a list as [0,3]",
            instead="trainer.devices=auto",
        )


def optimizer_has_a_rate(case: Case) -> Iterator[Finding]:
    """Schedules give multiples of it."""
    optimizer = case.config.get("optimizer")
    if isinstance(optimizer, Mapping) and optimizer.get("lr") is None:
        yield case.problem("optimizer.lr", "must be given", expected="the base rate", instead="++optimizer.lr=0.001")


def batch_fits_the_data(case: Case) -> Iterator[Finding]:
    num_train, batch_size = case.config["facts"]["num_train"], train_batch_size(case.config)
    if batch_size > num_train:
        parts = case.ranks * case.get("trainer.accumulate")
        fits = parts << ((num_train // parts).bit_length() - 1) if num_train >= parts else num_train
        yield case.problem(
            "data.batch_size",
            f"is larger than the training set: one epoch would be {num_train} // {batch_size} = 0 steps",
            got=str(batch_size),
            expected=f"at most {num_train}",
            instead=f"data.batch_size={fits}",
        )


def batch_divides(case: Case) -> Iterator[Finding]:
    """Over ranks and micro-batches, or the mean of their losses would not be the loss of the batch."""
    batch_size, accumulate = train_batch_size(case.config), case.get("trainer.accumulate")
    parts = case.ranks * accumulate
    if batch_size % parts:
        below, above = batch_size // parts * parts, (batch_size // parts + 1) * parts
        near = f"{below} or {above}" if below else str(above)
        yield case.problem(
            "data.batch_size",
            f"does not divide by {parts} = {case.ranks} (ranks{_before(case)}) x {accumulate} (micro-batches)",
            got=f"{batch_size} (global)",
            expected=f"the nearest that do: {near}",
            instead=f"data.batch_size={above}",
        )


def _before(case: Case) -> str:
    """On how many ranks a run that is to be continued began; "" for a new one."""
    saved = case.origin.saved
    began = (storage.read_json(saved.parent / "environment.json") or {}).get("ranks") if saved else None
    return f"; the run began on {began}" if began not in (None, case.ranks) else ""


def validation_is_not_empty(case: Case) -> Iterator[Finding]:
    if case.config["facts"]["num_val"] == 0 and case.get("trainer.eval_every") != "never":
        yield case.problem(
            "trainer.eval_every",
            "the validation set is empty",
            got=str(case.get("trainer.eval_every")),
            expected="images to evaluate, or no evaluation",
            instead="trainer.eval_every=never, or data.val_fraction=0.1",
        )


def steps_are_not_zero(case: Case) -> Iterator[Finding]:
    assert case.clock is not None
    for key in _AT_LEAST_ONE_STEP:
        text = case.get(key)
        if str(text).endswith("%") and key.startswith("trainer."):
            continue  # of a short run: at least one step, see build.settings
        if text not in (None, "never") and case.clock.steps(text) < 1:
            yield case.problem(
                key,
                f"is zero steps (one epoch is {case.clock.steps_per_epoch} steps, the run {case.clock.total_steps})",
                got=str(text),
                expected="at least 1st",
                instead=f"{key}=1ep" if case.clock.total_steps >= case.clock.steps_per_epoch else f"{key}=1st",
            )


def warmup_ends_before_the_first_decay(case: Case) -> Iterator[Finding]:
    """warmup_steps <= lr_decay_epochs[0] * num_steps_each_epoch, in the words of PaddleX."""
    assert case.clock is not None
    warmup, milestones = case.get("scheduler.warmup"), _milestones(case)
    if warmup is None:
        return
    warmup_steps, spe = case.clock.steps(warmup), case.clock.steps_per_epoch
    if milestones and warmup_steps > milestones[0]:
        key = "scheduler.milestones" if case.get("scheduler.milestones") else "scheduler.step_size"
        num_train, batch_size = case.config["facts"]["num_train"], train_batch_size(case.config)
        later = math.ceil(warmup_steps / spe)
        shifted = [later + round((m - milestones[0]) / spe) for m in milestones]
        ways = f"[{','.join(f'{m}ep' for m in shifted)}]" if key.endswith("milestones") else f"{later}ep"
        inside = shifted[-1] * spe < case.clock.total_steps
        yield case.problem(
            "scheduler.warmup",
            f"warmup_steps should be less than {milestones[0]}, or lr_decay_epochs[0] greater than {later}",
            got=f"{warmup} = {warmup_steps} steps",
            expected=f"warmup_steps <= lr_decay_epochs[0] * num_steps_each_epoch = {milestones[0] / spe:g} * "
            f"({num_train} // {batch_size}) = {milestones[0]}",
            instead=f"scheduler.warmup={milestones[0]}st" + (f", or {key}={ways}" if inside else ""),
        )
    elif warmup_steps > case.clock.total_steps:
        yield case.problem(
            "scheduler.warmup",
            f"is longer than the run of {case.clock.total_steps} steps",
            got=f"{warmup} = {warmup_steps} steps",
            instead="scheduler.warmup=5%, or a longer trainer.duration",
        )


def milestones_lie_inside_the_run(case: Case) -> Iterator[Finding]:
    assert case.clock is not None
    milestones, values = _milestones(case), case.get("scheduler.values")
    if isinstance(values, list) and len(values) != len(milestones) + 1:
        yield case.problem(
            "scheduler.values",
            "needs one rate before each milestone and one after the last",
            got=f"{len(values)} rates",
            expected=f"{len(milestones) + 1} for {len(milestones)} milestones",
            instead="scheduler.values=null takes scheduler.gamma",
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(milestones)):
        given = dict(sorted(zip(milestones, case.get("scheduler.milestones"), strict=True)))
        yield case.problem(
            "scheduler.milestones",
            "must rise",
            got=str(case.get("scheduler.milestones")),
            instead=f"scheduler.milestones=[{','.join(map(str, given.values()))}]",
        )
    beyond = [m for m in milestones if m >= case.clock.total_steps]
    if beyond:
        yield Warned(
            f"the learning rate drops at steps {beyond}, which the run of {case.clock.total_steps} steps does not reach"
        )


def the_lowest_rate_is_below_the_base_rate(case: Case) -> Iterator[Finding]:
    """Or the schedule would climb where it is meant to fall."""
    from plainloop.loop.optim import scaled_lr

    lowest, lr = case.get("scheduler.min_lr"), case.get("optimizer.lr")
    if lowest is None or lr is None:
        return
    base_lr = scaled_lr(lr, batch_size=train_batch_size(case.config), **case.config["trainer"]["lr_scaling"])
    if lowest > base_lr:
        yield case.problem(
            "scheduler.min_lr",
            "is above the base rate",
            got=f"{lowest:g}",
            expected=f"at most {base_lr:g}",
            instead=f"scheduler.min_lr={base_lr / 100:g}",
        )


def model_and_data_have_the_same_classes(case: Case) -> Iterator[Finding]:
    names = case.config["facts"]["class_names"]
    classes, shown = len(names), ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    for key in ("model.num_classes", "task.num_classes"):
        value = case.get(key)
        if isinstance(value, int) and value != classes:
            yield case.problem(
                key,
                "differs from the classes of the data",
                got=str(value),
                expected=f"{classes}: {shown}",
                instead=f"leave {key} out, it is ${{facts.num_classes}}",
            )
    weights = case.get("task.class_weights")
    if isinstance(weights, list) and len(weights) != classes:
        yield case.problem(
            "task.class_weights",
            "needs one weight per class",
            got=f"{len(weights)} weights",
            expected=f"{classes}: {shown}",
        )


def early_stop_can_happen(case: Case) -> Iterator[Finding]:
    assert case.clock is not None
    patience, every = case.get("trainer.early_stop.patience"), case.get("trainer.eval_every")
    if patience is not None and every != "never":
        evaluations = case.clock.total_steps // max(1, case.clock.steps(every))
        if patience >= evaluations:
            yield Warned(f"trainer.early_stop.patience={patience} never stops a run of {evaluations} evaluations")


def _milestones(case: Case) -> list[int]:
    """Steps at which the rate drops, where the schedule has such."""
    assert case.clock is not None
    given = case.get("scheduler.milestones")
    if given is None:
        given = [size] if (size := case.get("scheduler.step_size")) is not None else []
    return [case.clock.steps(m) for m in given] if isinstance(given, list) else []


EARLY: tuple[Rule, ...] = (
    numbers_are_in_range,
    name_is_a_slug,
    no_secrets,
    disk.folder_can_be_written,
    disk.initial_weights_are_there,
    validation_is_on_where_it_is_needed,
    one_batch_size,
    duration_is_absolute,
    devices_are_some,
    optimizer_has_a_rate,
)
# Without these the clock does not exist.
BEFORE_THE_CLOCK: tuple[Rule, ...] = (batch_fits_the_data, batch_divides)
LATE: tuple[Rule, ...] = (
    validation_is_not_empty,
    steps_are_not_zero,
    warmup_ends_before_the_first_decay,
    milestones_lie_inside_the_run,
    the_lowest_rate_is_below_the_base_rate,
    model_and_data_have_the_same_classes,
    early_stop_can_happen,
)
