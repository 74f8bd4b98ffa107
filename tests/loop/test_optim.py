"""Parameter groups, rates and clipping."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from timm.utils.agc import adaptive_clip_grad
from torch import nn

from plainloop.loop.optim import clip_, param_groups, set_rate
from tests.harness.nets import fill_grads, made, small_net
from tests.harness.tensors import equal


def names_by_group(net, groups):
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {group["name"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}


# Parameter groups.


def test_without_settings_there_is_one_group_of_all_parameters():
    net = small_net()
    (group,) = param_groups(net, lr=0.1, weight_decay=1e-4)
    assert {key: value for key, value in group.items() if key != "params"} == {
        "lr": 0.1,
        "weight_decay": 1e-4,
        "name": "decay",
    }
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in net.parameters()]


def test_a_weight_decay_that_is_not_given_is_the_optimizers_own():
    optimizer = torch.optim.AdamW(param_groups(small_net(), lr=0.1, no_decay=["bias"]), weight_decay=0.3)
    assert {group["name"]: group["weight_decay"] for group in optimizer.param_groups} == {"decay": 0.3, "no_decay": 0.0}


@pytest.mark.parametrize(
    ("no_decay", "exempt"),
    [
        (["norm"], {"1.weight", "1.bias", "4.weight", "4.bias"}),
        (["bias"], {"1.bias", "3.bias", "4.bias", "8.bias"}),
        (["norm", "bias"], {"1.weight", "1.bias", "3.bias", "4.weight", "4.bias", "8.bias"}),
        (["8.*"], {"8.weight", "8.bias"}),
        (["model"], set()),
    ],
)
def test_what_no_decay_names_has_no_weight_decay(no_decay, exempt):
    net = small_net()
    groups = param_groups(net, lr=0.1, weight_decay=1e-4, no_decay=no_decay)
    found = names_by_group(net, groups)
    assert found.get("no_decay", set()) == exempt
    assert found["decay"] == {name for name, _ in net.named_parameters()} - exempt
    assert {group["name"]: group["weight_decay"] for group in groups}["decay"] == 1e-4


def test_a_timm_model_says_itself_what_else_is_exempt():
    net = timm.create_model("test_vit")
    found = names_by_group(net, param_groups(net, lr=0.1, weight_decay=0.1, no_decay=["norm", "bias", "model"]))
    assert {"pos_embed", "cls_token", "norm.weight", "blocks.0.attn.qkv.bias"} <= found["no_decay"]
    assert "blocks.0.attn.qkv.weight" in found["decay"]


def test_norms_that_are_not_torchs_count_as_norms():
    net = timm.create_model("test_convnext", use_grn=True)
    exempt = names_by_group(net, param_groups(net, lr=0.1, weight_decay=0.1, no_decay=["norm"]))["no_decay"]
    response_norms = {name for name, _ in net.named_parameters() if ".grn." in name}
    assert response_norms
    assert response_norms <= exempt


def test_the_bias_of_an_attention_projection_is_a_bias():
    net = nn.MultiheadAttention(8, 2)
    exempt = names_by_group(net, param_groups(net, lr=0.1, weight_decay=0.1, no_decay=["bias"]))["no_decay"]
    assert exempt == {"in_proj_bias", "out_proj.bias"}


def test_frozen_parameters_are_left_out():
    net = small_net()
    net[0].weight.requires_grad_(False)
    found = names_by_group(net, param_groups(net, lr=0.1))
    assert found["decay"] == {name for name, _ in net.named_parameters()} - {"0.weight"}


def test_shared_parameters_appear_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    assert sum(len(group["params"]) for group in param_groups(net, lr=0.1)) == 3


def test_lr_scale_multiplies_the_rate_of_what_it_names_and_the_first_match_counts():
    net = small_net()
    groups = param_groups(net, lr=0.5, lr_scale={"8.bias": 0.5, "8.*": 0.25})
    assert {group["name"]: group["lr"] for group in groups} == {"decay": 0.5, "decay x0.25": 0.125, "decay x0.5": 0.25}
    assert names_by_group(net, groups)["decay x0.5"] == {"8.bias"}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_layer_decay_gives_each_parameter_timms_rate(name):
    net = timm.create_model(name)
    ours = {
        id(parameter): group["lr"]
        for group in param_groups(net, lr=1.0, layer_decay=0.75)
        for parameter in group["params"]
    }
    theirs = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(net, layer_decay=0.75)
        for parameter in group["params"]
    }
    assert ours == theirs
    assert len(set(ours.values())) > 3


def test_layer_decay_of_a_model_without_known_layers_is_refused():
    with pytest.raises(ValueError, match=r"layer_decay: needs a timm model.*Sequential does not\. .*lr_scale"):
        param_groups(small_net(), lr=0.1, layer_decay=0.75)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"no_decay": ["8.wieght"]}, "no_decay: '8.wieght' matches no trainable parameter; the nearest is '8.weight'"),
        ({"lr_scale": {"head.*": 0.1}}, r"lr_scale: 'head.\*' matches no trainable parameter"),
    ],
)
def test_a_glob_that_matches_nothing_is_refused_with_the_nearest_name(settings, message):
    with pytest.raises(ValueError, match=message):
        param_groups(small_net(), lr=0.1, **settings)


def test_a_model_that_is_all_frozen_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        param_groups(small_net().requires_grad_(False), lr=0.1)


# Rates.


def compounding(optimizer, multiplier):
    """set_rate as it would be without a base rate kept apart."""
    for group in optimizer.param_groups:
        group["lr"] *= multiplier


def test_the_rate_is_base_times_multiplier_however_often_it_is_set():
    def after_three(function):
        optimizer = torch.optim.SGD(param_groups(small_net(), lr=0.5, lr_scale={"8.*": 0.25}))
        for multiplier in (0.5, 0.0, 0.25):
            function(optimizer, multiplier)
        return [group["lr"] for group in optimizer.param_groups]

    assert after_three(set_rate) == [0.125, 0.03125]
    assert after_three(compounding) != [0.125, 0.03125]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("sgd", lambda group: group["momentum"]),
        ("rmsprop", lambda group: group["momentum"]),
        ("muon", lambda group: group["momentum"]),
        ("adamw", lambda group: group["betas"][0]),
        ("lion", lambda group: group["betas"][0]),
    ],
)
def test_a_cycled_momentum_arrives_and_none_leaves_it(name, read):
    optimizer = made(name, small_net())
    before = [read(group) for group in optimizer.param_groups]
    set_rate(optimizer, 1.0)
    assert [read(group) for group in optimizer.param_groups] == before
    set_rate(optimizer, 1.0, 0.61)
    assert [read(group) for group in optimizer.param_groups] == [0.61] * len(before)


def test_an_optimizer_without_momentum_says_how_not_to_cycle_it():
    with pytest.raises(ValueError, match=r"Adadelta has none; type scheduler.cycle_momentum=false"):
        set_rate(made("adadelta", small_net()), 1.0, 0.9)


# Clipping.


def grads(net):
    return [parameter.grad.clone() for parameter in net.parameters()]


def total_norm(net):
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()]).norm()


CLIPS = {"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_, "agc": adaptive_clip_grad}


@pytest.mark.parametrize(
    ("kind", "limit"),
    [("norm", 0.1), ("norm", 5.0), ("norm", 1000.0), ("value", 0.3), ("agc", 0.01), ("agc", 0.5), ("agc", 10.0)],
)
def test_clipping_is_torchs_and_timms_to_the_bit(kind, limit):
    ours, theirs = small_net(), small_net()
    for net in (ours, theirs):
        fill_grads(net)
        net[3].bias.data.zero_()
        net[8].weight.grad[2] = 0.0
    norm = clip_(ours.parameters(), **{kind: limit})
    found = CLIPS[kind](theirs.parameters(), limit)
    assert equal(grads(ours), grads(theirs))
    assert kind != "norm" or torch.equal(norm, found)


def test_the_norm_that_comes_back_is_the_one_before_any_clipping():
    net = small_net()
    fill_grads(net, scale=1e6)
    before = total_norm(net)
    torch.testing.assert_close(clip_(net.parameters(), norm=1.0, value=0.1, agc=0.01), before)
    assert total_norm(net) < 1.0
    torch.testing.assert_close(clip_(net.parameters()), total_norm(net))


def test_all_bounds_hold_when_all_are_set():
    net, only_agc = small_net(), small_net()
    fill_grads(net)
    fill_grads(only_agc)
    clip_(net.parameters(), norm=0.05, value=0.004, agc=0.1)
    clip_(only_agc.parameters(), agc=0.1)
    assert total_norm(net) <= 0.05 * (1 + 1e-6)
    assert max(grad.abs().max() for grad in grads(net)) <= 0.004
    assert all((mine.abs() <= bound.abs()).all() for mine, bound in zip(grads(net), grads(only_agc), strict=True))


def test_a_norm_bound_counts_what_adaptive_clipping_has_left():
    net = small_net()
    fill_grads(net)
    clip_(net.parameters(), agc=0.001)
    left = grads(net)
    fill_grads(net)
    clip_(net.parameters(), agc=0.001, norm=1.0)  # far above what is left
    assert equal(grads(net), left)


def test_parameters_without_a_gradient_are_passed_over():
    net = small_net()
    assert clip_(net.parameters(), norm=1.0) == 0.0
    net[8].bias.grad = torch.full((5,), 2.0)
    assert clip_(net.parameters(), norm=1.0, value=1.0, agc=1.0) == pytest.approx(20**0.5)
