"""Schedules against the sources' worked examples, torch's schedulers, and the laws that resuming stands on."""

import functools
import inspect
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler

from plainloop import schedule
from plainloop.config.build import build
from plainloop.config.durations import clock_of
from plainloop.schedule import Cyclic, OneCycle
from tests.harness.configs import checked

CONF = Path(__file__).parents[1] / "conf" / "scheduler"
TOTAL = 120

# Every schedule without warm-up over TOTAL steps, each with settings that its own curve shows.
PLAIN = {
    "constant": functools.partial(schedule.constant, total_steps=TOTAL),
    "multistep": functools.partial(schedule.multistep, total_steps=TOTAL, milestones=[40, 80], gamma=0.1),
    "values": functools.partial(schedule.multistep, total_steps=TOTAL, milestones=[40, 80], values=[1.0, 0.3, 0.05]),
    "step": functools.partial(schedule.step, total_steps=TOTAL, step_size=25, gamma=0.5),
    "polynomial": functools.partial(schedule.polynomial, total_steps=TOTAL, power=0.9, min_lr=0.01),
    "exponential": functools.partial(schedule.exponential, total_steps=TOTAL, gamma=0.9, every=10),
    "cosine": functools.partial(schedule.cosine, total_steps=TOTAL, min_lr=0.01),
    "linear": functools.partial(schedule.linear, total_steps=TOTAL, min_lr=0.01),
}
CYCLES = {
    "onecycle": OneCycle(total_steps=TOTAL),
    "onecycle_three_phase": OneCycle(total_steps=TOTAL, three_phase=True, anneal_strategy="linear"),
    "cyclic": Cyclic(total_steps=TOTAL, step_size_up=13, step_size_down=7, min_lr=0.1),
}


def rates(function, base_lr, steps):
    return [base_lr * function(step, base_lr=base_lr) for step in steps]


def torch_rates(make, base_lr, num_steps):
    """What torch's scheduler sets before steps 0 to num_steps - 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_lr, momentum=0.9)
    scheduler = make(optimizer)
    seen = []
    for _ in range(num_steps):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    return [lr for lr, _ in seen], [momentum for _, momentum in seen]


# The sources' worked examples.


def test_resnet50_drops_to_a_tenth_every_30_epochs():
    epoch = 1_281_167 // 256
    expected = [0.1 * 0.1 ** (number // 30) for number in range(120)]
    resnet50 = functools.partial(
        schedule.multistep, total_steps=120 * epoch, milestones=[30 * epoch, 60 * epoch, 90 * epoch]
    )
    every_30 = functools.partial(schedule.step, total_steps=120 * epoch, step_size=30 * epoch)
    for function in (resnet50, every_30):
        for edge in (0, epoch - 1):
            steps = [number * epoch + edge for number in range(120)]
            assert rates(function, 0.1, steps) == pytest.approx(expected, rel=1e-12)


def test_mobilenetv3_rises_for_5_epochs_then_falls_as_a_cosine():
    epoch = 1_281_167 // 1024
    mobilenet = functools.partial(schedule.cosine, total_steps=360 * epoch, warmup=5 * epoch)
    assert rates(mobilenet, 0.65, [0, epoch, 5 * epoch, 360 * epoch]) == [0.0, pytest.approx(0.13), 0.65, 0.0]
    middle = (5 + 360) * epoch // 2
    assert rates(mobilenet, 0.65, [middle]) == pytest.approx([0.325], rel=1e-3)  # an odd number of epochs has no middle


# torch's schedulers. The tolerance is torch's: most of its schedulers multiply their way from step to step.


def rise_then_fall(optimizer):
    rise = lr_scheduler.LinearLR(optimizer, start_factor=0.1, end_factor=1.0, total_iters=20)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, T_max=TOTAL - 20)
    return lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[20])


EQUIVALENT = {
    "constant": lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0),
    "multistep": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, milestones=[40, 80], gamma=0.1),
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=25, gamma=0.5),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=TOTAL, eta_min=0.01 * 0.4),
    "polynomial": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, TOTAL, power=2.0),
    "exponential": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "cosine_warmup": rise_then_fall,
    "linear": lambda optimizer: lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.01, total_iters=TOTAL),
}


# What ours are called with instead of PLAIN's settings, where torch's have others.
SETTINGS = {
    "cosine": {"min_lr": 0.01 * 0.4},
    "linear": {"min_lr": 0.01 * 0.4},
    "polynomial": {"min_lr": 0.0, "power": 2.0},
    "exponential": {"every": 1},
    "cosine_warmup": {"min_lr": 0.0, "warmup": 20, "warmup_start_lr": 0.04},
}


@pytest.mark.parametrize("name", EQUIVALENT)
def test_each_rate_is_torchs(name):
    ours = rates(functools.partial(PLAIN[name.removesuffix("_warmup")], **SETTINGS.get(name, {})), 0.4, range(TOTAL))
    theirs, _ = torch_rates(EQUIVALENT[name], 0.4, TOTAL)
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_a_schedule_that_is_one_step_late_is_told_from_torchs():
    late = [0.4 * PLAIN["cosine"](max(step - 1, 0), base_lr=0.4, min_lr=0.004) for step in range(TOTAL)]
    theirs, _ = torch_rates(EQUIVALENT["cosine"], 0.4, TOTAL)
    assert late != pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("anneal_strategy", ["cos", "linear"])
@pytest.mark.parametrize(("total", "pct_start"), [(100, 0.3), (97, 0.31), (10, 0.25), (5, 0.4)])
def test_onecycle_is_torchs_in_rate_and_momentum(total, pct_start, anneal_strategy, three_phase):
    settings = {"total_steps": total, "pct_start": pct_start, "anneal_strategy": anneal_strategy}
    ours = OneCycle(**settings, three_phase=three_phase, div_factor=20.0, final_div_factor=100.0)
    theirs, momenta = torch_rates(
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.4, **settings, three_phase=three_phase, div_factor=20.0, final_div_factor=100.0
        ),
        0.4,
        total,
    )
    assert [0.4 * ours(step) for step in range(total)] == pytest.approx(theirs, abs=1e-12)
    assert [ours.momentum(step) for step in range(total)] == pytest.approx(momenta, abs=1e-12)


@pytest.mark.parametrize(("mode", "gamma"), [("triangular", 1.0), ("triangular2", 1.0), ("exp_range", 0.99)])
@pytest.mark.parametrize(("up", "down"), [(10, None), (7, 4), (3, 16), (1, 1)])
def test_cyclic_is_torchs_in_rate_and_momentum(mode, gamma, up, down):
    ours = Cyclic(
        total_steps=TOTAL, step_size_up=up, step_size_down=down, min_lr=0.05, mode=mode, gamma=gamma, base_lr=0.4
    )
    theirs, momenta = torch_rates(
        lambda optimizer: lr_scheduler.CyclicLR(
            optimizer, base_lr=0.05, max_lr=0.4, step_size_up=up, step_size_down=down, mode=mode, gamma=gamma
        ),
        0.05,
        TOTAL,
    )
    # torch counts cycles by dividing floats, which falls short of a foot by up to 1e-14 of a cycle.
    assert [0.4 * ours(step) for step in range(TOTAL)] == pytest.approx(theirs, abs=1e-12)
    assert [ours.momentum(step) for step in range(TOTAL)] == pytest.approx(momenta, abs=1e-12)


def test_a_cycle_that_leaves_the_momentum_alone_gives_none():
    assert OneCycle(total_steps=9, cycle_momentum=False).momentum(3) is None
    assert Cyclic(total_steps=9, step_size_up=2, cycle_momentum=False).momentum(3) is None


# Laws.


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(("warmup", "start", "base_lr"), [(1, 0.0, 1.0), (20, 0.0, 0.25), (24, 0.0625, 0.5)])
def test_warmup_goes_in_a_straight_line_from_its_absolute_start_to_the_target(name, warmup, start, base_lr):
    settings = {"values": [base_lr, base_lr / 2, base_lr / 4]} if name == "values" else {}
    function = functools.partial(PLAIN[name], warmup=warmup, warmup_start_lr=start, **settings)
    rate = rates(function, base_lr, range(warmup + 1))
    assert (rate[0], rate[-1]) == (start, base_lr)
    rises = [after - before for before, after in pairwise(rate)]
    assert rises == pytest.approx([(base_lr - start) / warmup] * warmup, abs=1e-15)


@pytest.mark.parametrize("base_lr", [0.02, 0.3, 1.0, 12.5])
@pytest.mark.parametrize("name", ["polynomial", "cosine", "linear"])
def test_absolute_rates_come_out_as_written_for_any_base_rate(name, base_lr):
    function = functools.partial(PLAIN[name], warmup=10, warmup_start_lr=3e-6, min_lr=1e-7)
    assert rates(function, base_lr, [0, 10, TOTAL]) == pytest.approx([3e-6, base_lr, 1e-7], rel=1e-14)


@pytest.mark.parametrize("name", [*PLAIN, *CYCLES])
def test_past_the_end_the_last_value_holds(name):
    function = (PLAIN | CYCLES)[name]
    last = function(TOTAL)
    assert [function(TOTAL + more) for more in (1, 7, 10**9)] == [last] * 3


@pytest.mark.parametrize("name", ["constant", "multistep", "values", "step", "exponential"])
@pytest.mark.parametrize("warmup", [0, 15])
def test_a_longer_run_has_the_same_past(name, warmup):
    longer = functools.partial(PLAIN[name], total_steps=3 * TOTAL, warmup=warmup)
    shorter = functools.partial(PLAIN[name], warmup=warmup)
    assert [longer(step) for step in range(TOTAL)] == [shorter(step) for step in range(TOTAL)]


@pytest.mark.parametrize("name", ["polynomial", "cosine", "linear"])
def test_a_longer_run_has_another_past_where_the_curve_spans_the_run(name):
    longer = functools.partial(PLAIN[name], total_steps=3 * TOTAL)
    assert all(longer(step) != PLAIN[name](step) for step in range(1, TOTAL))


@pytest.mark.parametrize("name", ["polynomial", "cosine", "linear", "exponential"])
@pytest.mark.parametrize("warmup", [0, 10, 13])
def test_every_holds_the_value_of_the_periods_first_step(name, warmup):
    by_step = functools.partial(PLAIN[name], warmup=warmup, every=1)
    by_period = functools.partial(PLAIN[name], warmup=warmup, every=10)
    for step in range(warmup, TOTAL):
        first = max(step - step % 10, warmup)
        if name == "exponential":  # there the period is also the time in which one gamma is taken
            assert by_period(step) == 0.9 ** (step // 10 - warmup // 10)
        else:
            assert by_period(step) == by_step(first)


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("three_phase", [False, True])
def test_onecycle_over_a_handful_of_steps_is_finite_and_within_bounds(total, three_phase):
    function = OneCycle(total_steps=total, three_phase=three_phase)
    assert all(0.0 < function(step) <= 1.0 and math.isfinite(function.momentum(step)) for step in range(total + 1))


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial"])
def test_a_warmup_of_the_whole_run_ends_at_the_base_rate(name):
    assert PLAIN[name](TOTAL, warmup=TOTAL) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneCycle(total_steps=9, pct_start=1.0), "scheduler.pct_start=1.0 must lie between 0 and 1.0"),
        (lambda: OneCycle(total_steps=9, pct_start=0.5, three_phase=True), "between 0 and 0.5"),
    ],
)
def test_a_cycle_that_cannot_be_is_refused_with_its_key(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The YAML.


NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


def built(name):
    config = checked(f"scheduler={name}", "trainer.duration=120st")
    return build(config["scheduler"], clock_of(config), base_lr=1.0)


@pytest.mark.parametrize("name", NAMES)
def test_each_yaml_spells_out_every_setting_but_the_supplied_rate(name):
    node = checked(f"scheduler={name}")["scheduler"]
    target = getattr(schedule, node["_target_"].removeprefix("plainloop.schedule."))
    assert node.keys() - {"_target_", "_partial_"} == set(inspect.signature(target).parameters) - {"step", "base_lr"}


@pytest.mark.parametrize("name", NAMES)
def test_each_yaml_gives_rates_between_0_and_the_base_rate_and_reaches_it(name):
    rate = list(map(built(name), range(TOTAL)))
    assert min(rate) >= 0.0
    assert max(rate) == 1.0


def test_only_the_schedules_named_for_it_warm_up_by_themselves():
    starts_low = {name for name in NAMES if built(name)(0) < 1.0}
    assert starts_low == {"cosine_warmup", "onecycle", "cyclic"}
