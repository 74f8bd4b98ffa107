"""Trees of tensors, compared and copied; a mode that notices when the host reads one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def equal(one: Any, other: Any) -> bool:
    """To the last bit and by type, through dictionaries, lists and tuples."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


def clone(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: clone(value) for key, value in tree.items()}
    return type(tree)(clone(value) for value in tree) if isinstance(tree, list | tuple) else tree


class HostRead(AssertionError):
    pass


class NoHostReads(TorchDispatchMode):
    """Fails where a value leaves the device: .item(), .tolist(), bool(), a copy to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            raise HostRead(f"the host reads a tensor: {func}")
        return func(*args, **(kwargs or {}))
