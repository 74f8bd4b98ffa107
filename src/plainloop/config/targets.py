"""Which objects a config may name: an allowlist, compared with the text before the import and with the object after."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# Of our own package only the parts that are made to be named: nothing that runs, loads, writes or launches.
OURS = tuple(f"plainloop.{part}" for part in ("augment", "data", "loggers", "models", "schedule", "tasks"))
LIBRARIES = (
    "torch.optim",
    "torch.nn",
    "timm",
    "torchvision.models",
    "torchvision.transforms",
    "torchmetrics",
    "segmentation_models_pytorch",
)

# Libraries offer these beside what they are allowed for; they read, write or reconfigure rather than build a part.
_NOT_PARTS = ("load", "save", "download", "push", "register", "set_", "export", "import_", "clean", "checkpoint")

# What offers more than parts, as the standard library does: none of it is anybody's own package.
NO_PLUGINS = (
    *("hydra", "hydra_plugins", "matplotlib", "numpy", "omegaconf", "PIL", "plainloop", "rich", "safetensors", "scipy"),
    *("sklearn", "submitit", "timm", "torch", "torchvision", "wandb", "yaml"),
)


class Forbidden(ValueError):
    """A target outside the allowlist."""


def is_no_plugin(package: str) -> bool:
    """Whether a package is not the user's own: allowing all of it would allow what loads, writes or runs things.

    >>> is_no_plugin("os"), is_no_plugin("torch.hub"), is_no_plugin("my_package")
    (True, True, False)
    """
    top = package.partition(".")[0]
    return top in sys.stdlib_module_names or top in NO_PLUGINS


def authorize(target: Any, plugins: Sequence[str] = ()) -> str:
    """Compares the text of a `_target_` with the allowlist; imports nothing. Raises Forbidden."""
    if not isinstance(target, str):
        raise Forbidden(f"_target_ must be the dotted name of a class or function, got {target!r}")
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() and part.isascii() and part[0] != "_" for part in parts):
        raise Forbidden(f"{target!r} is not the dotted name of a public class or function")
    if not _inside(target, (*OURS, *LIBRARIES, *plugins)):
        raise Forbidden(_outside(target, target, plugins))
    if _inside(target, LIBRARIES) and parts[-1].startswith(_NOT_PARTS):
        raise Forbidden(f"{target!r} does not build a part of a run; only classes and functions that do are allowed")
    return target


def locate(target: Any, plugins: Sequence[str] = ()) -> Callable[..., Any]:
    """The class or function that an allowed `_target_` names.

    Modules are entered by import alone, never through an attribute, so that a module's own imports (torch.nn.os) are
    out of reach; the object found must itself be defined inside the allowlist.

    Raises Forbidden, or ValueError when there is no such object.
    """
    module_name, _, name = authorize(target, plugins).rpartition(".")
    found = getattr(_import(module_name, target), name, None)
    if found is None:
        raise ValueError(f"{target!r} does not exist: module {module_name} has no {name!r}")
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise Forbidden(f"{target!r} is neither a class nor a function")
    if not _inside(f"{found.__module__}.{found.__qualname__}", (*OURS, *LIBRARIES, *plugins)):
        raise Forbidden(_outside(target, f"{found.__module__}.{found.__qualname__}", plugins))
    return found


def _import(name: str, target: str) -> ModuleType:
    """Imports one package after the other; only what is a module by import counts, whatever attributes there are."""
    module: ModuleType | None = None
    path = ""
    for part in name.split("."):
        path = f"{path}.{part}" if path else part
        if (module is not None and not hasattr(module, "__path__")) or find_spec(path) is None:
            raise ValueError(f"{target!r} does not exist: there is no module {path!r}")
        module = import_module(path)
        if module.__name__ != path:
            raise Forbidden(f"{target!r}: module {path!r} is another name of {module.__name__!r}")
    assert module is not None
    return module


def _inside(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _outside(target: str, defined: str, plugins: Sequence[str]) -> str:
    where = f"{target!r}" if target == defined else f"{target!r} is {defined!r}, which"
    return f"{where} is outside the allowlist (plainloop's parts, {', '.join((*LIBRARIES, *plugins))})"
