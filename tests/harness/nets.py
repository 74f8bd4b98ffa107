"""A small network with every kind of parameter, and what is done to it."""

import functools
from pathlib import Path

import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import nn

from plainloop.loop.optim import param_groups

CONF = Path(__file__).parents[2] / "conf" / "optimizer"


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


def made(name, net, **overrides):
    """The optimizer of a YAML file on the groups of a model, lists as they come from YAML."""
    settings = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")) | overrides
    target, partial = get_object(settings.pop("_target_")), settings.pop("_partial_")
    assert partial is True
    groups = param_groups(net, lr=settings["lr"], weight_decay=settings["weight_decay"], no_decay=["norm", "bias"])
    return functools.partial(target, **settings)(groups)
