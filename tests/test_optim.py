"""Parameter groups, rates, clipping, and every optimizer that conf/optimizer names."""

import copy
import functools
import io
from itertools import chain
from pathlib import Path

import pytest
import timm
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from timm.optim import param_groups_layer_decay
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from plainloop.optim import clip_, param_groups, scaled_lr, set_rate

CONF = Path(__file__).parents[1] / "conf" / "optimizer"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


def small_net(memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 12, 3), nn.GroupNorm(3, 12), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
    )
    return net.to(memory_format=memory_format)


def fill_grads(net, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).mul_(scale).requires_grad_(False)


def train(net, optimizer, steps):
    """Real gradients on data that follow from the step."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.randn(6, 3, 8, 8, generator=generator), torch.randint(5, (6,), generator=generator)
        set_rate(optimizer, 1.0 - step / 10)
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def made(name, net, **overrides):
    """The optimizer of a YAML file on the groups of a model, lists as they come from YAML."""
    settings = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")) | overrides
    target, partial = get_object(settings.pop("_target_")), settings.pop("_partial_")
    assert partial is True
    groups = param_groups(net, lr=settings["lr"], weight_decay=settings["weight_decay"], no_decay=["norm", "bias"])
    return functools.partial(target, **settings)(groups)


def weights(net):
    return [tensor.clone() for tensor in net.state_dict().values()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def names_by_group(net, groups):
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    return {group["name"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}


class NoHostRead(TorchDispatchMode):
    """Fails when a device value is read by the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("the host read a tensor")
        return function(*args, **(kwargs or {}))


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
    with pytest.raises(ValueError, match=r"layer_decay=0.75 needs a timm model.*Sequential does not.*lr_scale instead"):
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


def test_the_base_rate_survives_a_checkpoint_taken_in_the_middle():
    first, second = (torch.optim.SGD(param_groups(small_net(), lr=0.5)) for _ in range(2))
    set_rate(first, 0.0)
    second.load_state_dict(first.state_dict())
    set_rate(second, 0.5)
    assert second.param_groups[0]["lr"] == 0.25


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


def test_yolov3_on_two_cards_learns_at_twice_the_rate():
    assert scaled_lr(0.000125, rule="linear", batch_size=16, base_batch_size=8) == 0.00025


@pytest.mark.parametrize("k", [1, 2, 8, 32])
def test_resnet50_learns_at_k_tenths_for_k_times_256_images(k):
    assert scaled_lr(0.1, rule="linear", batch_size=256 * k, base_batch_size=256) == pytest.approx(0.1 * k, rel=1e-15)


def test_an_unknown_scaling_rule_is_refused():
    with pytest.raises(ValueError, match=r"trainer.lr_scaling.rule=square must be none, linear or sqrt"):
        scaled_lr(0.1, rule="square", batch_size=1, base_batch_size=1)


# Clipping.


def grads(net):
    return [parameter.grad.clone() for parameter in net.parameters()]


def total_norm(net):
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()]).norm()


@pytest.mark.parametrize("limit", [0.1, 5.0, 1000.0])
def test_clipping_by_norm_is_torchs_to_the_bit(limit):
    ours, theirs = small_net(), small_net()
    fill_grads(ours)
    fill_grads(theirs)
    norm = clip_(ours.parameters(), norm=limit)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs.parameters(), limit))
    assert same(grads(ours), grads(theirs))


def test_clipping_by_value_is_torchs_to_the_bit():
    ours, theirs = small_net(), small_net()
    fill_grads(ours)
    fill_grads(theirs)
    clip_(ours.parameters(), value=0.3)
    nn.utils.clip_grad_value_(theirs.parameters(), 0.3)
    assert same(grads(ours), grads(theirs))


@pytest.mark.parametrize("ratio", [0.01, 0.5, 10.0])
def test_adaptive_clipping_is_timms_to_the_bit(ratio):
    ours, theirs = small_net(), small_net()
    for net in (ours, theirs):
        fill_grads(net)
        net[3].bias.data.zero_()
        net[8].weight.grad[2] = 0.0
    clip_(ours.parameters(), agc=ratio)
    adaptive_clip_grad(theirs.parameters(), ratio)
    assert same(grads(ours), grads(theirs))


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
    assert same(grads(net), left)


def test_parameters_without_a_gradient_are_passed_over():
    net = small_net()
    assert clip_(net.parameters(), norm=1.0) == 0.0
    net[8].bias.grad = torch.full((5,), 2.0)
    assert clip_(net.parameters(), norm=1.0, value=1.0, agc=1.0) == pytest.approx(20**0.5)


def test_clipping_does_not_wait_for_the_device():
    net = small_net()
    fill_grads(net)
    with NoHostRead():
        norm = clip_(net.parameters(), norm=1.0, value=0.1, agc=0.01)
        with pytest.raises(AssertionError, match="the host read a tensor"):
            norm.item()


# Every optimizer of conf/optimizer.


def test_there_are_the_nine_optimizers():
    assert NAMES == ["adadelta", "adam", "adamw", "lamb", "lion", "muon", "rmsprop", "sgd", "timm"]


@pytest.mark.parametrize("name", NAMES)
def test_one_step_changes_every_weight_tensor(name):
    net = small_net()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    train(net, made(name, net), [0])
    assert not any(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))


def restarted(name, net, optimizer, *, with_state=True):
    """The same run in a new process: all that is left of the old one went through a file."""
    file = io.BytesIO()
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True, map_location="cpu")
    memory_format = torch.channels_last if net[0].weight.is_contiguous(memory_format=torch.channels_last) else None
    fresh = small_net(memory_format or torch.contiguous_format)
    fresh.load_state_dict(saved["model"])
    optimizer = made(name, fresh)
    if with_state:
        optimizer.load_state_dict(saved["optimizer"])
    return fresh, optimizer


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("name", NAMES)
def test_a_restarted_optimizer_goes_on_with_the_same_bits(name, memory_format):
    net = small_net(memory_format)
    optimizer = made(name, net)
    train(net, optimizer, range(3))
    fresh, restored = restarted(name, net, optimizer)
    forgetful, empty = restarted(name, net, optimizer, with_state=False)
    train(net, optimizer, range(3, 6))
    train(fresh, restored, range(3, 6))
    train(forgetful, empty, range(3, 6))
    assert same(weights(net), weights(fresh))
    assert not same(weights(net), weights(forgetful))


@pytest.mark.parametrize("name", NAMES)
def test_two_equal_runs_have_equal_bits(name):
    runs = []
    for _ in range(2):
        net = small_net()
        train(net, made(name, net), range(4))
        runs.append(weights(net))
    assert same(*runs)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_fused_kernel_computes_what_the_plain_one_does(name):
    runs = []
    for fused in (True, False):
        net = small_net()
        train(net, made(name, net, fused=fused), range(3))
        runs.append(weights(net))
    for fused, plain in zip(*runs, strict=True):  # other order of roundings
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)


def test_loading_brings_back_the_checkpoints_settings_and_works_in_its_tensors():
    # Why a checkpoint goes back into the config that it was made with, and is used once.
    old = made("adamw", net := small_net(), fused=False)
    train(net, old, [0])
    saved = copy.deepcopy(old.state_dict())
    new = made("adamw", net := small_net(), fused=True, lr=123.0)
    new.load_state_dict(saved)
    assert [(group["fused"], group["initial_lr"]) for group in new.param_groups] == [(False, 1e-3)] * 2
    kept = copy.deepcopy(saved["state"])
    train(net, new, [1])
    tensors = ([entry["exp_avg"] for entry in state.values()] for state in (kept, saved["state"]))
    assert not same(*tensors)


@pytest.mark.parametrize(
    ("name", "reads"), [("sgd", False), ("adam", False), ("adamw", False), ("rmsprop", True), ("muon", True)]
)
def test_a_gradient_scaler_reads_a_flag_each_step_unless_the_optimizer_is_fused(name, reads):
    net = small_net()
    optimizer = made(name, net)
    scaler = torch.amp.GradScaler("cpu")
    fill_grads(net)
    scaler.scale(torch.ones(()))
    scaler.unscale_(optimizer)
    with NoHostRead():
        if reads:
            with pytest.raises(AssertionError, match="the host read a tensor"):
                scaler.step(optimizer)
        else:
            scaler.step(optimizer)


def test_the_groups_hold_every_trainable_parameter_exactly_once():
    net = timm.create_model("test_vit")
    groups = param_groups(
        net, lr=0.1, no_decay=["norm", "bias", "model"], layer_decay=0.7, lr_scale={"head.*": 10.0, "blocks.1.*": 0.5}
    )
    grouped = [id(parameter) for parameter in chain.from_iterable(group["params"] for group in groups)]
    assert sorted(grouped) == sorted(id(parameter) for parameter in net.parameters())
    assert len({group["name"] for group in groups}) == len(groups)
