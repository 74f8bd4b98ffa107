"""From nodes to objects."""

import pytest
import torch

from plainloop.config.build import build, settings
from plainloop.config.durations import Clock
from plainloop.config.settings import EarlyStop, TrainerSettings
from plainloop.config.targets import Forbidden
from tests.harness.commands import passed

CLOCK = Clock(steps_per_epoch=100, total_steps=1000)


def test_a_node_is_called_with_its_other_keys() -> None:
    layer = build({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2, "bias": False}, CLOCK)
    assert (layer.in_features, layer.out_features, layer.bias) == (3, 2, None)


def test_a_partial_node_is_bound_and_takes_the_rest_later() -> None:
    make = build({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}, CLOCK)
    assert make([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 0.5


def test_nodes_inside_nodes_are_built_first() -> None:
    inner = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
    model = build({"_target_": "torch.nn.Sequential", "_args_": [inner, {"_target_": "torch.nn.ReLU"}]}, CLOCK)
    assert [type(layer) for layer in model] == [torch.nn.Linear, torch.nn.ReLU]


def test_what_is_annotated_steps_becomes_steps() -> None:
    node = {
        "_target_": "plainloop.schedule.multistep",
        "_partial_": True,
        "total_steps": "10ep",
        "warmup": "5%",
        "milestones": ["2ep", "700st"],
        "gamma": 0.1,
    }
    schedule = build(node, CLOCK, base_lr=0.5)
    assert schedule.keywords["total_steps"] == 1000
    assert schedule.keywords["warmup"] == 50
    assert schedule.keywords["milestones"] == [200, 700]
    assert schedule.keywords["base_lr"] == 0.5


def test_what_the_run_supplies_is_given_where_the_signature_has_it_and_the_node_does_not() -> None:
    one_cycle = {"_target_": "plainloop.schedule.OneCycle", "total_steps": "10ep"}
    assert build(one_cycle, CLOCK, base_lr=0.5).total_steps == 1000  # it has no base_lr, and is given none
    layer = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
    assert build(layer, CLOCK, bias=False).bias is None
    assert build({**layer, "bias": True}, CLOCK, bias=False).bias is not None


def test_nested_nodes_keep_to_the_allowlist() -> None:
    with pytest.raises(Forbidden):
        build({"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "os.getcwd"}]}, CLOCK)


def test_settings_are_plain_numbers() -> None:
    config = passed("trainer.eval_every=never", "trainer.early_stop.patience=null").config
    found = settings(TrainerSettings, config["trainer"], Clock(22, 660))
    assert (found.duration, found.log_every, found.eval_every) == (660, 50, "never")
    assert found.early_stop == EarlyStop(patience=None, min_delta=0.0)
