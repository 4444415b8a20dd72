"""What torch does, counted as it does it: FLOPs, bytes read and written, operations."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
NOTHING = {aten._unsafe_view, aten.empty, aten.new_empty, aten.empty_like, aten.detach, aten.lift_fresh}
PICKS = {aten.index, aten.gather}
"""They read as much as they write, from a place here and there."""
MAKES = {aten.new_zeros, aten.zeros_like, aten.ones_like, aten.full_like, aten.new_full}
"""They look at the shape of what they are given."""
OVERWRITES = {aten.copy_, aten.fill_, aten.zero_}


def _cholesky(a: Any, *rest: Any, **more: Any) -> float:
    return prod(a.shape[:-2]) * a.shape[-1] ** 3 / 3


def _convolution_backward(g: Any, x: Any, weight: Any, *rest: Any, **more: Any) -> float:
    """Of grouped ones, too, whose groups torch's own counter multiplies with one another."""
    transposed, mask = rest[4], rest[7]
    places = (x if transposed else g).numel()
    return float(2 * places * weight[0].numel() * (mask[0] + mask[1]))


FACTORS: dict[Any, Callable[..., float]] = {
    aten.convolution_backward: _convolution_backward,
    aten.baddbmm_: lambda out, a, b, **more: 2 * a.numel() * b.shape[-1],
    aten.linalg_cholesky_ex: _cholesky,
    aten.cholesky_inverse: lambda a, *rest, **more: 2 * _cholesky(a),
    aten._linalg_eigh: lambda a, *rest, **more: 4 * _cholesky(a),
    aten.linalg_solve_triangular: lambda a, b, **more: b.numel() * a.shape[-1],
    aten._linalg_solve_ex: lambda a, b, **more: 2 * _cholesky(a) + 2 * b.numel() * a.shape[-1],
    aten.cholesky_solve: lambda b, a, *rest: 2 * b.numel() * a.shape[-1],
    aten.mv: lambda a, v: 2 * a.numel(),
    aten.dot: lambda a, b: 2 * a.numel(),
}
"""What torch's own counter leaves out or takes for something else."""


class Counted(TorchDispatchMode):
    """FLOPs by type, bytes and operations of what runs within; views and empty tensors are nothing.

    Each tensor is read or written once an operation, and one that repeats its numbers is as large as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops32 = self.flops64 = self.moved = self.launches = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out, packet = func(*args, **kwargs), func.overloadpacket
        if packet in NOTHING or func.is_view or torch.Tag.inplace_view in func.tags:
            return out
        given = {name: one for name, one in kwargs.items() if name != "out"}
        read = [one for one in tree_leaves((args, given)) if isinstance(one, Tensor)]
        if packet in OVERWRITES:
            read = read[1:]
        written = [one for one in tree_leaves(out) if isinstance(one, Tensor)]
        if packet in MAKES:
            read = []
        if packet in PICKS:
            read[0] = out
        if packet == aten.index_put_:
            written = [args[2]]
            read[0] = args[2]
        self.moved += sum(min(one.nbytes, one.untyped_storage().nbytes()) for one in (*read, *written))
        self.launches += 1
        if packet in FACTORS:
            flops = float(FACTORS[packet](*args, **kwargs))
        else:
            flops = float(flop_registry[packet](*args, **kwargs, out_val=out)) if packet in flop_registry else 0.0
        if read and read[0].dtype == torch.float64:
            self.flops64 += flops
        else:
            self.flops32 += flops
        return out
