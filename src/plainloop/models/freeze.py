"""Which parameters of a model do not learn, until when, and what that means for its BatchNorm layers."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BACKBONE = "backbone"
PLACES = ("backbone", "encoder")  # submodules that are one, by the names of torchvision, segmentation_models_pytorch


class Frozen:
    """Parameters that do not learn before step `until`, and BatchNorm layers that keep their statistics so long.

    Without gradients they get no update, no weight decay and no state of the optimizer. A BatchNorm layer is frozen
    with all of its parameters. What was frozen otherwise stays so.

    Args:
        names: of the parameters.
        until: finished steps; None: the whole run.
    """

    def __init__(self, model: nn.Module, names: Collection[str], until: int | None) -> None:
        self.until = until
        self.parameters = [
            parameter for name, parameter in model.named_parameters() if name in names and parameter.requires_grad
        ]
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        self.norms = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm) and "train" not in vars(module) and _has_only(module, self.parameters)
        ]
        for module in self.norms:
            keep_statistics(module)

    def thaw(self) -> None:
        """From here on they learn; the caller calls `model.train()`."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        for module in self.norms:
            del module.train  # its own again


def frozen_names(model: nn.Module, freeze: str | Sequence[str] | None) -> list[str]:
    """Names of the parameters that trainer.freeze means: `backbone`, a glob on parameter names, or several of these.

    Raises ValueError for one that means no parameter, and where nothing is left to learn.
    """
    if freeze is None:
        return []
    names, found = [name for name, _ in model.named_parameters()], set[str]()
    for pattern in [freeze] if isinstance(freeze, str) else freeze:
        meant = backbone_names(model) if pattern == BACKBONE else [name for name in names if fnmatchcase(name, pattern)]
        if not meant:
            near = get_close_matches(pattern, names, n=1, cutoff=0.0)
            raise ValueError(
                f"trainer.freeze: {pattern!r} matches no parameter; the nearest is {near[0]!r}. A glob such as "
                f"'{near[0].partition('.')[0]}*' does, or type trainer.freeze=backbone"
            )
        found.update(meant)
    if all(name in found for name, parameter in model.named_parameters() if parameter.requires_grad):
        raise ValueError(f"trainer.freeze={freeze} leaves no parameter to learn; type trainer.freeze=backbone")
    return [name for name in names if name in found]


def backbone_names(model: nn.Module) -> list[str]:
    """The parameters of the submodule `backbone` or `encoder`; where there is none, all but the classifier."""
    _, inner = inner_model(model)
    if inner is not None:
        inside = {id(parameter) for parameter in inner.parameters()}
        return [name for name, parameter in model.named_parameters() if id(parameter) in inside]
    head = classifier_names(model)
    return [name for name, _ in model.named_parameters() if name not in head]


def inner_model(model: nn.Module) -> tuple[str, nn.Module | None]:
    """The part of a model that is a model of images by itself, and what it is called; "" and None where none is."""
    parts = ((name, getattr(model, name, None)) for name in PLACES)
    return next(((name, part) for name, part in parts if isinstance(part, nn.Module)), ("", None))


def classifier_names(model: nn.Module) -> set[str]:
    """Keys of the classifier: of the model's `class_layers`, else of the layers that timm names, else of the last
    linear or convolutional one.
    """
    modules = getattr(model, "class_layers", None)
    modules = modules or (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    if modules is None:
        layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        modules = layers[-1:]
    names = (modules,) if isinstance(modules, str) else tuple(modules)
    return {key for key in model.state_dict() if key.rpartition(".")[0] in names}


def freeze_batchnorm(model: nn.Module) -> None:
    """BatchNorm keeps the statistics, weights and biases that it has, whatever the loop makes of the model."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)
            keep_statistics(module)


def keep_statistics(module: nn.Module) -> None:
    module.eval()
    # `model.train()` calls this for each module. A copy of the model, as for EMA, gets its own.
    module.train = functools.partial(_stay, module)  # type: ignore[method-assign]


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _has_only(module: nn.Module, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether a layer has parameters, and all are among these."""
    among = {id(parameter) for parameter in parameters}
    own = [id(parameter) for parameter in module.parameters()]
    return bool(own) and among.issuperset(own)
