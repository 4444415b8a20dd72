"""Optimal brain surgeon on channels, for the layers that read them. Wang et al. 2024, "Structurally prune anything: any
architecture, any framework, any time" (OBSPA), in the greedy form of Frantar & Alistarh 2022.

Fidelity: every step's loss and weights equal a dense solve from scratch. Of OBSPA it has the idea, not the algorithm:
inverses are downdated after each channel, and inputs are the dense network's, so that one order serves all sparsities.
The damping, 1 % of the mean diagonal, the sum over all readers of a group, and the normalisation between groups, by the
readers' output energy, are our choice. No published figure reproduced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wfbench.toolbox import Order, Read, ReadPruner, cholesky, inverse

LAZY = 32
"""Channels that are taken out between two products over whole matrices."""


@dataclass(frozen=True)
class OBSFilter(ReadPruner):
    """Exact greedy removal by the squared error of the readers' outputs, their kept weights by least squares."""

    name: ClassVar[str] = "obs-filter"
    source: ClassVar[str] = "Wang et al. 2024, OBSPA, with the exact downdates of Frantar & Alistarh 2022"
    fidelity: ClassVar[str] = "every step equal to a dense solve; not OBSPA's algorithm; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def order(self, reads: list[Read]) -> Order:
        readers = [Reader(read) for read in reads]
        left = list(range(len(reads[0].columns)))
        places = left.copy()  # where a reader has them
        order: list[int] = []
        losses: list[float] = []
        while len(left) > 1:
            if len(order) % LAZY == 0:
                for reader in readers:
                    reader.settle(places)
                places = list(range(len(left)))
            found = torch.stack([reader.losses(places) for reader in readers]).sum(0)
            best = int(found.argsort(stable=True)[0])
            losses.append(float(found[best]))
            order.append(left.pop(best))
            place = places.pop(best)
            for reader in readers:
                reader.take_out(place)
        return order, losses


class Reader:
    """What is left of a weight and of `H⁻¹` as channels go, k columns each.

    With q taken out, `W ← W − W_q P` and `V ← V − V_qᵀP`, where `V = H⁻¹` and `P = (V_qq)⁻¹V_q`. What channels cost
    is kept up to date; the whole matrices change when they are settled, in one product for all that went since.
    """

    def __init__(self, read: Read) -> None:
        channels, self.width = read.columns.shape
        columns = read.columns.flatten()
        self.weight, self.inverse = read.weight[:, columns], inverse(read.hessian)[columns][:, columns]
        self.rows = self.pulls = self.inverse[:0]
        self.gone = self.weight[:, :0]
        self.settle(range(channels))

    def settle(self, places: Sequence[int]) -> None:
        """Bring both matrices up to date, without the channels that are not named."""
        every = torch.arange(self.weight.shape[1], device=self.weight.device).reshape(-1, self.width)
        stay = every[list(places)].flatten()
        pulls = self.pulls[:, stay]
        self.weight = self.weight[:, stay] - self.gone @ pulls
        self.inverse = self.inverse[stay][:, stay] - self.rows[:, stay].mT @ pulls
        self.rows = self.pulls = self.inverse[:0]
        self.gone = self.weight[:, :0]
        blocks = self.inverse.reshape(len(places), self.width, len(places), self.width)
        self.blocks = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone()
        parts = self._by_channel(self.weight)
        self.products = parts @ parts.mT

    def losses(self, places: list[int]) -> Float[Tensor, " channels"]:
        """`½ tr(W_c ([H⁻¹]_cc)⁻¹ W_cᵀ)` of every channel c that is named."""
        solved = torch.cholesky_solve(self.products[places], cholesky(self.blocks[places]))
        return solved.diagonal(dim1=1, dim2=2).sum(1) / 2

    def take_out(self, place: int) -> None:
        """Remove a channel, the others taking up what they can."""
        here = slice(place * self.width, (place + 1) * self.width)
        rows = self.inverse[here] - self.rows[:, here].mT @ self.pulls
        weight = self.weight[:, here] - self.gone @ self.pulls[:, here]
        pull = torch.cholesky_solve(rows, cholesky(rows[:, here]))
        lost = weight.mT @ self.weight - (weight.mT @ self.gone) @ self.pulls  # W_qᵀW
        pulled, half = self._by_channel(pull), self._by_channel(lost - (weight.mT @ weight) @ pull / 2)
        change = pulled @ half.mT
        self.products -= change + change.mT
        self.blocks -= self._by_channel(rows) @ pulled.mT
        self.rows, self.pulls = torch.cat([self.rows, rows]), torch.cat([self.pulls, pull])
        self.gone = torch.cat([self.gone, weight], 1)

    def _by_channel(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "channels k n"]:
        return rows.mT.reshape(-1, self.width, len(rows))
