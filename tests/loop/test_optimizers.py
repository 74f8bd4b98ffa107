"""Every optimizer of conf/optimizer: it learns, goes on after a restart with the same bits, and waits for nobody."""

import io

import pytest
import torch
from torch import nn

from plainloop.loop.optim import set_rate
from tests.harness.nets import CONF, fill_grads, made, small_net
from tests.harness.tensors import NoHostReads, equal

NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


def train(net, optimizer, steps):
    """Real gradients on data that follow from the step."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images, labels = torch.randn(6, 3, 8, 8, generator=generator), torch.randint(5, (6,), generator=generator)
        set_rate(optimizer, 1.0 - step / 10)
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def weights(net):
    return [tensor.clone() for tensor in net.state_dict().values()]


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
    assert equal(weights(net), weights(fresh))
    assert not equal(weights(net), weights(forgetful))


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
    with NoHostReads():
        if reads:
            with pytest.raises(AssertionError, match="the host reads a tensor"):
                scaler.step(optimizer)
        else:
            scaler.step(optimizer)
