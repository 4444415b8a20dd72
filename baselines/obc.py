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
    from_matrices,
    inverse,
    keep_largest,
    least_squares,
    only_layer_scope,
    second_moments,
)

TRACE_NUMBERS = 2**21
"""float64 numbers in the inverses that are downdated at a time: those of a few rows, so that they stay in the cache."""


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
        ranks = {}
        for name, weight in net.weights.items():
            layer = net.layer_of(name)
            matrices = as_matrices(layer, weight).double()
            traces = [trace(w, h) for w, h in zip(matrices, hessians[name], strict=True)]
            order = torch.cat([found[0] for found in traces])
            # a weight goes after those that its row loses before it: rows are merged by the running maximum
            losses = torch.cat([found[1] for found in traces]).cummax(1).values
            place = losses.flatten().argsort(stable=True).argsort().reshape(order.shape)
            ranks[name] = from_matrices(
                layer, torch.empty_like(place).scatter_(1, order, place).reshape(matrices.shape)
            ).double()
        return FittedOBC(net, hessians, ranks)


def trace(
    weights: Float[Tensor, "rows d"], hessian: Float[Tensor, "d d"]
) -> tuple[Int[Tensor, "rows d"], Float[Tensor, "rows d"]]:
    """For every row, the weights in the order of greedy removal, and what each removal adds to `½ δ H δᵀ`."""
    inverted = inverse(hessian)
    size = max(1, TRACE_NUMBERS // hessian.numel())
    parts = [_trace(part, inverted) for part in weights.split(size)]
    return torch.cat([order for order, _ in parts]), torch.cat([losses for _, losses in parts])


def _trace(weights: Float[Tensor, "rows d"], inverse: Float[Tensor, "d d"]) -> tuple[Tensor, Tensor]:
    rows, d = weights.shape
    every = torch.arange(rows, device=weights.device)
    w, inverse = weights.clone(), inverse.expand(rows, d, d).clone()
    left = torch.arange(d, device=weights.device).expand(rows, d).clone()
    gone = torch.zeros_like(left, dtype=torch.bool)
    order, losses = torch.empty_like(left), torch.empty_like(weights)
    for step in range(d):
        if d - step < 0.75 * left.shape[1]:  # drop the rows and columns of what is gone
            stay = (~gone).nonzero()[:, 1].reshape(rows, -1)
            left, w, gone = left.gather(1, stay), w.gather(1, stay), gone.gather(1, stay)
            inverse = inverse.gather(1, stay[:, :, None].expand(-1, -1, inverse.shape[2]))
            inverse = inverse.gather(2, stay[:, None, :].expand(-1, stay.shape[1], -1))
        pivots = inverse.diagonal(dim1=1, dim2=2)
        loss = (w.square() / (2 * pivots)).masked_fill(gone, torch.inf)
        losses[:, step], q = loss.min(1)
        order[:, step] = left[every, q]
        column, pivot = inverse[every, q], pivots[every, q, None]
        w -= column * (w[every, q, None] / pivot)
        inverse.baddbmm_(column[:, :, None], (-column / pivot)[:, None, :])
        gone[every, q] = True
        w[every, q] = 0
        inverse[every, q, q] = 1  # never a pivot again
    return order, losses
