"""Optimal brain surgeon on channels, for the layers that read them. Wang et al. 2024, "Structurally prune anything: any
architecture, any framework, any time" (OBSPA), in the greedy form of Frantar & Alistarh 2022.

Fidelity: every step's loss and weights equal a dense solve from scratch. Of OBSPA it has the idea, not the algorithm:
inverses are downdated after each channel, and inputs are the dense network's, so that one order serves all sparsities.
The damping, 1 % of the mean diagonal, the sum over all readers of a group, and the normalisation between groups, by the
readers' output energy, are our choice. No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wfbench.toolbox import Order, Read, ReadPruner, cholesky, inverse


@dataclass(frozen=True)
class OBSFilter(ReadPruner):
    """Exact greedy removal by the squared error of the readers' outputs, their kept weights by least squares."""

    name: ClassVar[str] = "obs-filter"
    source: ClassVar[str] = "Wang et al. 2024, OBSPA, with the exact downdates of Frantar & Alistarh 2022"
    fidelity: ClassVar[str] = "every step equal to a dense solve; not OBSPA's algorithm; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def order(self, reads: list[Read]) -> Order:
        weights = [read.weight.clone() for read in reads]
        inverses = [inverse(read.hessian) for read in reads]
        left = list(range(len(reads[0].columns)))
        order: list[int] = []
        losses: list[float] = []
        while len(left) > 1:
            parts = [
                block_losses(w, inverted, read.columns[left])
                for w, inverted, read in zip(weights, inverses, reads, strict=True)
            ]
            found = torch.stack(parts).sum(0)
            best = int(found.argsort(stable=True)[0])
            losses.append(float(found[best]))
            order.append(left.pop(best))
            for w, inverted, read in zip(weights, inverses, reads, strict=True):
                take_out(w, inverted, read.columns[order[-1]])
        return order, losses


def block_losses(
    weight: Float[Tensor, "out d"], inverted: Float[Tensor, "d d"], columns: Int[Tensor, "channels k"]
) -> Float[Tensor, " channels"]:
    """`½ tr(W_c ([H⁻¹]_cc)⁻¹ W_cᵀ)` of every block c of columns."""
    lower = cholesky(inverted[columns[:, :, None], columns[:, None, :]])
    parts = weight[:, columns].permute(1, 2, 0)
    return torch.linalg.solve_triangular(lower, parts, upper=False).square().sum((1, 2)) / 2


def take_out(weight: Float[Tensor, "out d"], inverted: Float[Tensor, "d d"], columns: Int[Tensor, " k"]) -> None:
    """Remove a block of columns, the others taking up what they can; weight and inverse change in place."""
    rows = inverted[columns]
    pull = torch.cholesky_solve(rows, cholesky(rows[:, columns]))
    weight -= weight[:, columns] @ pull
    inverted -= rows.mT @ pull
    weight[:, columns] = 0
    inverted[:, columns] = 0
    inverted[columns] = 0
