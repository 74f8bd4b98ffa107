"""Around torch's and timm's optimizers: parameter groups, the rate of each, scaling with the batch, clipping.

`Optimizer.load_state_dict` restores every setting of a group, `fused` and `foreach` as well as the rates, and keeps the
tensors that it is given: give it tensors that nobody else uses, under the config that the checkpoint was made with.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from plainloop.contracts import Schedule
from plainloop.models.freeze import classifier_names

LR_SCALE = "trainer.param_groups.lr_scale"
ScalingRule = Literal["none", "linear", "sqrt"]


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float | None = None,
    no_decay: Sequence[str] = (),
    layer_decay: float | None = None,
    lr_scale: Mapping[str, float] | None = None,
    without: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Sorts the trainable parameters by rate and weight decay: groups of `params`, `lr`, `weight_decay`, `name`.

    Those without gradients or in `without` are left out, shared ones appear once. By default there is one group,
    "decay".

    Args:
        lr: base rate, after scaling with the batch.
        weight_decay: of parameters that are not exempt; None takes the optimizer's default.
        no_decay: what has none: "norm" (scales and shifts of normalization layers), "bias", "model" (what a timm model
            exempts, such as position embeddings), or a glob on parameter names.
        layer_decay: the head learns at `lr`, each layer below at this times the rate of the one above, in timm's order
            of layers (https://arxiv.org/abs/2106.08254); None is the same rate everywhere.
        lr_scale: `classifier`, or a glob on parameter names -> factor of the rate; the first match counts. None is 1
            everywhere.

    Raises ValueError when a glob matches no parameter, when nothing is trainable, and for a layer_decay of a model
    whose layers timm does not know.
    """
    lr_scale = lr_scale or {}
    trainable = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in without
    }
    if not trainable:
        raise ValueError("the model has no trainable parameter; all are frozen")
    exempt = _exempt(model, no_decay, trainable)
    scales: dict[str, float] = {}
    for pattern, factor in lr_scale.items():
        names = classifier_names(model) if pattern == "classifier" else _matching(pattern, trainable, key=LR_SCALE)
        scales = dict.fromkeys(names, factor) | scales
    depth_scale = {} if layer_decay is None else _depth_scale(model, layer_decay)

    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in trainable.items():
        scale = scales.get(name, 1.0) * depth_scale.get(name, 1.0)
        label = "no_decay" if name in exempt else "decay"
        label += "" if scale == 1.0 else f" x{scale:.6g}"
        group = groups.setdefault(label, {"params": [], "lr": lr * scale, "name": label})
        group["params"].append(parameter)
        decay = 0.0 if name in exempt else weight_decay
        if decay is not None:
            group["weight_decay"] = decay
    return list(groups.values())


def set_rate(optimizer: Optimizer, multiplier: float, momentum: float | None = None) -> None:
    """Gives each group its base rate times the multiplier; called before every update.

    The base rate is what the group was made with, kept in `group["initial_lr"]`. `momentum` goes to the group's
    momentum, or to the first of its betas; None leaves it. Raises ValueError when a group has neither.
    """
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * multiplier
        if momentum is None:
            continue
        if "momentum" in group:
            group["momentum"] = momentum
        elif "betas" in group:
            group["betas"] = (momentum, *group["betas"][1:])
        else:
            raise ValueError(
                f"this schedule cycles the momentum, and {type(optimizer).__name__} has none; "
                "type scheduler.cycle_momentum=false"
            )


def momentum_at(schedule: Schedule, step: int) -> float | None:
    """The momentum of a schedule that has one (onecycle, cyclic)."""
    return schedule.momentum(step) if hasattr(schedule, "momentum") else None


def scaled_lr(lr: float, *, rule: ScalingRule, batch_size: int, base_batch_size: int) -> float:
    """The base rate for this global batch, where `lr` is the rate at `base_batch_size`.

    linear is for SGD (https://arxiv.org/abs/1706.02677), sqrt for adaptive optimizers.
    """
    if rule == "linear":
        return lr * batch_size / base_batch_size
    return lr * math.sqrt(batch_size / base_batch_size) if rule == "sqrt" else lr


def scaling_text(lr: float, *, rule: ScalingRule, batch_size: int, base_batch_size: int) -> str:
    """The arithmetic of `scaled_lr`, for the plan.

    >>> scaling_text(0.001, rule="sqrt", batch_size=1024, base_batch_size=256)
    '0.001 x sqrt(1024 / 256) = 0.002'
    """
    rate = scaled_lr(lr, rule=rule, batch_size=batch_size, base_batch_size=base_batch_size)
    ratio = f"{batch_size} / {base_batch_size}"
    factor = {"none": "", "linear": f" x {ratio}", "sqrt": f" x sqrt({ratio})"}[rule]
    return f"{lr:g}{factor} = {rate:g}" if factor else f"{lr:g}"


@torch.no_grad()
def clip_(
    parameters: Iterable[Tensor], *, norm: float | None = None, value: float | None = None, agc: float | None = None
) -> Tensor:
    """Bounds the gradients in place and returns their total L2 norm before that, 0-d, without a wait for the device.

    Applies `agc`, then `norm`, then `value`, unless they are None. Gradients must be unscaled.

    Args:
        norm: greatest total L2 norm, over all parameters together.
        value: greatest absolute value of each element.
        agc: greatest ratio of gradient norm to weight norm, in each row of a weight and in each bias as a whole
            (https://arxiv.org/abs/2102.06171). The paper leaves the classifier out; this does not.
    """
    with_grad = [parameter for parameter in parameters if parameter.grad is not None]
    grads = [parameter.grad for parameter in with_grad if parameter.grad is not None]
    if not grads:
        return torch.zeros(())
    total = before = _total_norm(grads)
    if agc is not None:
        _clip_to_weights_(with_grad, grads, agc)
        total = before if norm is None else _total_norm(grads)
    if norm is not None:
        # The same small number as in torch.nn.utils.clip_grad_norm_, so that results agree to the bit.
        torch._foreach_mul_(grads, (norm / (total + 1e-6)).clamp(max=1.0))
    if value is not None:
        torch._foreach_clamp_min_(grads, -value)
        torch._foreach_clamp_max_(grads, value)
    return before


def _total_norm(grads: list[Tensor]) -> Tensor:
    # torch.nn.utils.get_total_norm sorts by device and type first, which doubles the time for a small model.
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))


def _clip_to_weights_(parameters: list[Tensor], grads: list[Tensor], ratio: float) -> None:
    limits = [_unit_norm(parameter) for parameter in parameters]
    torch._foreach_clamp_min_(limits, 1e-3)  # the paper's, so that weights of zero can change
    torch._foreach_mul_(limits, ratio)
    norms = [_unit_norm(grad) for grad in grads]
    torch._foreach_clamp_min_(norms, 1e-6)
    torch._foreach_div_(limits, norms)
    torch._foreach_clamp_max_(limits, 1.0)
    torch._foreach_mul_(grads, limits)


def _unit_norm(tensor: Tensor) -> Tensor:
    """L2 norm per row of a weight (out, ...), kept in shape; of a vector as a whole."""
    if tensor.ndim <= 1:
        return torch.linalg.vector_norm(tensor)
    return torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)), keepdim=True)


def _exempt(model: nn.Module, no_decay: Sequence[str], trainable: Mapping[str, Tensor]) -> set[str]:
    """Names of the parameters without weight decay."""
    names: set[str] = set()
    for item in no_decay:
        if item == "norm":
            names |= {
                f"{prefix}.{name}".lstrip(".")
                for prefix, module in model.named_modules()
                if "norm" in type(module).__name__.lower()  # torch's, timm's and other libraries' share no base
                for name, parameter in module.named_parameters(recurse=False)
                if parameter.numel() == max(parameter.shape, default=1)  # a scale or a shift of any shape
            }
        elif item == "bias":
            names |= {name for name in trainable if name.endswith("bias")}  # also in_proj_bias, q_bias
        elif item == "model":
            names |= set(getattr(model, "no_weight_decay", set)())
        else:
            names |= _matching(item, trainable, key="trainer.param_groups.no_decay")
    return names


def _matching(pattern: str, names: Iterable[str], *, key: str) -> set[str]:
    found = {name for name in names if fnmatchcase(name, pattern)}
    if not found:
        near = get_close_matches(pattern, list(names), n=1, cutoff=0.0)
        raise ValueError(f"{key}: {pattern!r} matches no trainable parameter; the nearest is {near[0]!r}")
    return found


def _depth_scale(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Parameter name -> factor of the rate: `layer_decay` to the power of the number of layers above it."""
    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is None:
        raise ValueError(
            "trainer.param_groups.layer_decay: needs a timm model, which knows its layers; "
            f"{type(model).__name__} does not. trainer.param_groups.lr_scale sets rates by parameter names"
        )
    from timm.models import group_parameters

    layers = group_parameters(model, matcher(coarse=False), reverse=True)
    return {name: layer_decay ** (max(layers.values()) - layer) for name, layer in layers.items()}
