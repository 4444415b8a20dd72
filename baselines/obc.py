"""OBC / ExactOBS. Frantar & Alistarh 2022, "Optimal brain compression: a framework for accurate post-training
quantization and pruning": ExactOBS for every row, the rows' losses merged over a layer.

Fidelity: on ten weights equal to exhaustive greedy removal, update to the dense constrained least squares. Rows are
merged by the running maximum of their losses, which is always to take the row whose next loss is least; the authors'
code counts a row's losses among the lowest of the layer and takes as many of its first, another result where a row's
losses fall. It zeroes weights of inputs that never fire beforehand and damps only a singular Hessian, by the identity;
1 % of the mean diagonal is our choice. Data augmentation and the statistics correction of their experiments are left
out. No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wfbench import Fitted, Network, Pruned, Pruner, Target, Unlabeled
from wfbench.toolbox import (
    Params,
    Scope,
    as_matrices,
    check_damping,
    damped,
    digest_of,
    from_matrices,
    inverse,
    keep_largest,
    least_squares,
    only_layer_scope,
    second_moments,
    tiles,
)

TRACE_NUMBERS = 2**24
"""float64 numbers in the inverses that are downdated at a time, at least."""
LAZY = 32
"""Removals a row between two products over whole inverses."""


@dataclass(frozen=True)
class FittedOBC:
    """Every layer's damped Hessian and the rank of each weight in the layer's merged order of removal."""

    net: Network
    hessians: dict[str, Tensor]
    ranks: Params

    def prune(self, target: Target) -> Pruned:
        only_layer_scope("obc", target)
        mask = keep_largest(self.ranks, target)
        return Pruned.of(self.net, self.update(mask), mask)

    def update(self, mask: Params) -> Params:
        return {name: least_squares(self.net, name, mask[name], self.hessians[name]) for name in self.net.weights}


@dataclass(frozen=True)
class OBC(Pruner[Unlabeled]):
    """Exact greedy optimal brain surgeon on each output row's squared error; the rows' losses merged over a layer.

    Args:
        damping: added to the diagonal of `XXᵀ/m`, as a share of its mean.
    """

    name: ClassVar[str] = "obc"
    scope: ClassVar[Scope] = "layer"
    source: ClassVar[str] = "Frantar & Alistarh 2022, ExactOBS"
    fidelity: ClassVar[str] = (
        "equal to exhaustive greedy removal on ten weights, rows merged by the running maximum of their losses; "
        "no published figure reproduced"
    )
    order_invariant: ClassVar[bool] = True
    updates: ClassVar[bool] = True
    damping: float = 0.01

    def __post_init__(self) -> None:
        check_damping(self.damping)

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        hessians = {name: damped(h, self.damping) for name, h in second_moments(net, data.inputs).items()}
        asked = ("obc", self.damping, digest_of(data.inputs))  # what takes its order from here does so on these samples
        ranks = net.memo.take_large(asked, lambda: {name: ranked(net, name, hessians[name]) for name in net.weights})
        return FittedOBC(net, hessians, ranks)


def ranked(net: Network, name: str, hessians: Float[Tensor, "g d d"]) -> Float[Tensor, "..."]:
    """Of each of a layer's weights, how many go before it.

    A weight goes after those that its row loses before it: rows are merged by the running maximum.
    """
    layer = net.layer_of(name)
    matrices = as_matrices(layer, net.weights[name]).double()
    order, losses = trace(matrices, hessians)
    place = losses.cummax(1).values.flatten().argsort(stable=True).argsort().reshape(order.shape)
    return from_matrices(layer, torch.empty_like(place).scatter_(1, order, place).reshape(matrices.shape)).double()


def trace(
    weights: Float[Tensor, "g rows d"], hessians: Float[Tensor, "g d d"]
) -> tuple[Int[Tensor, "all d"], Float[Tensor, "all d"]]:
    """For every row of all groups, the weights in greedy removal's order, and what each adds to `½ δ H δᵀ`."""
    inverses, rows = inverse(hessians), weights.flatten(0, 1)
    groups = torch.arange(len(hessians), device=weights.device).repeat_interleave(weights.shape[1])
    size = max(1, max(TRACE_NUMBERS, tiles(weights.device).numbers) // hessians[0].numel())
    parts = [_trace(w, inverses[of]) for w, of in zip(rows.split(size), groups.split(size), strict=True)]
    return torch.cat([order for order, _ in parts]), torch.cat([losses for _, losses in parts])


def _trace(w: Float[Tensor, "rows d"], inverse: Float[Tensor, "rows d d"]) -> tuple[Tensor, Tensor]:
    """The diagonals are up to date after every removal, the inverses of what is left after `LAZY`, in one product."""
    rows, d = w.shape
    every = torch.arange(rows, device=w.device)
    left = torch.arange(d, device=w.device).expand(rows, d)
    order, losses = torch.empty_like(left, memory_format=torch.contiguous_format), torch.empty_like(w)
    for start in range(0, d, LAZY):
        pivots, w = inverse.diagonal(dim1=1, dim2=2).clone(), w.clone()
        gone, steps = torch.zeros_like(left, dtype=torch.bool), min(LAZY, d - start)
        columns, scaled = w.new_empty((2, rows, steps, left.shape[1]))
        for step in range(steps):
            loss = (w.square() / (2 * pivots)).masked_fill(gone, torch.inf)
            losses[:, start + step], q = loss.min(1)
            order[:, start + step] = left[every, q]
            column, pivot = inverse[every, q], pivots[every, q, None]
            if step:
                before = columns[every, :step, q][:, None]
                column = torch.baddbmm(column[:, None], before, scaled[:, :step], alpha=-1)[:, 0]
            columns[:, step], scaled[:, step] = column, column / pivot
            w -= column * (w[every, q, None] / pivot)
            pivots -= column * scaled[:, step]
            gone[every, q] = True
            w[every, q] = 0
            pivots[every, q] = 1  # never a pivot again
        stay = (~gone).nonzero()[:, 1].reshape(rows, -1)
        left, w = left.gather(1, stay), w.gather(1, stay)
        columns, scaled = (of.gather(2, stay[:, None].expand(-1, steps, -1)) for of in (columns, scaled))
        inverse = inverse[every[:, None], stay].gather(2, stay[:, None].expand(-1, stay.shape[1], -1))
        inverse = inverse.baddbmm_(columns.mT, scaled, alpha=-1)
    return order, losses
