"""What a training step keeps in memory between its forward and its backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Kept:
    """Bytes of the tensors that autograd has saved, each storage once; the model's own are not among them."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes = 0
        own = [*model.parameters(), *model.buffers()]
        self._storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in own}

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage  # held, so that its address is not given to another
            self.bytes += storage.nbytes()
        return tensor


@contextmanager
def kept_for_backward(model: nn.Module) -> Iterator[Kept]:
    """Counts what the forward passes of the block save; also on the meta device, where nothing is computed."""
    kept = Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor), _FusedAttention():
        yield kept


class _FusedAttention(TorchFunctionMode):
    """Attention saves what the fused kernels of GPUs do. On the meta device it would save the attention matrix."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention and len(args) >= 3:
            return _Attention.apply(*args[:3], args[3:], kwargs or {})
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, more: Any, kwargs: Any) -> Tensor:
        out = F.scaled_dot_product_attention(query, key, value, *more, **kwargs)
        out = (
            out.transpose(1, 2).contiguous().transpose(1, 2)
        )  # as they lay it out, so that the next layer need not copy
        ctx.save_for_backward(query, key, value, out)
        return out
