"""Trees of tensors, compared and copied; modes that notice when the host reads one, or waits to send one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
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


class HostWait(AssertionError):
    pass


class NoHostWaits(NoHostReads):
    """For tensors of the meta device: fails as well where a GPU would make the host wait to send it something.

    That is a tensor made on the device from Python's numbers, a copy that is not `non_blocking`, and an index that
    is on the host. What depends on values (nonzero, a mask as an index) fails on the meta device by itself.
    """

    def __enter__(self) -> Any:
        self._made_there = _MadeThere()
        self._made_there.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made_there.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        copies = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        crosses = func in copies and len({t.device for t in args[:2] if isinstance(t, Tensor)} | _target(kwargs)) > 1
        by_host = func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
        by_host = by_host and any(t is not None and t.device != args[0].device for t in args[1])
        if by_host or (crosses and not (kwargs.get("non_blocking") or True in args[2:])):
            raise HostWait(f"the host waits for the device: {func}")
        return super().__torch_dispatch__(func, types, args, kwargs)


class _MadeThere(TorchFunctionMode):
    """Fails where Python's numbers become a tensor of another device than the host's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = (kwargs or {}).get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type != "cpu":
            raise HostWait(f"the host waits for the device: {func}")
        return func(*args, **(kwargs or {}))


class NotDeterministic(AssertionError):
    pass


class OnlyDeterministic(TorchDispatchMode):
    """Fails for operations that torch refuses on CUDA under use_deterministic_algorithms, and computes elsewhere."""

    REFUSED = ("histc", "kthvalue", "bincount", "grid_sampler_2d_backward", "_ctc_loss", "max_unpool2d")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        summed = name == "nll_loss2d_forward" and args[3] != 0  # 0: no reduction
        floats = name == "cumsum" and args[0].is_floating_point()
        if summed or floats or name in self.REFUSED:
            raise NotDeterministic(f"not deterministic on CUDA: {func}")
        return func(*args, **(kwargs or {}))


def _target(kwargs: dict[str, Any]) -> set[torch.device]:
    return {kwargs["device"]} if kwargs.get("device") is not None else set()
