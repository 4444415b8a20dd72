"""ThiNet and channel pruning. Luo, Wu & Lin 2017, "ThiNet: a filter level pruning method for deep neural network
compression"; He, Zhang & Sun 2017, "Channel pruning for accelerating very deep neural networks".

Fidelity: greedy choice of the first, checked against the real outputs; least squares for all kept weights as in the
second, where ThiNet scales channels. Both go layer after layer on sampled places; here inputs are the dense network's,
at all places, several readers of a group are added up, and groups are compared by their readers' output energy. The
damping of the least squares, 1 % of the mean diagonal, is our choice. No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wfbench.toolbox import Order, Read, ReadPruner


@dataclass(frozen=True)
class ThiNet(ReadPruner):
    """Greedy removal by the squared error of the readers' outputs with weights as they are, then least squares."""

    name: ClassVar[str] = "thinet"
    source: ClassVar[str] = "Luo et al. 2017, greedy channel selection; He et al. 2017, least squares"
    fidelity: ClassVar[str] = "choice equal to brute force on real outputs; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def order(self, reads: list[Read]) -> Order:
        joint = torch.stack([interactions(read) for read in reads]).sum(0)
        cost = joint.diagonal() / 2  # what each would add
        left = list(range(len(joint)))
        order: list[int] = []
        losses: list[float] = []
        while len(left) > 1:
            best = int(cost[left].argsort(stable=True)[0])
            losses.append(float(cost[left[best]]))
            order.append(left.pop(best))
            cost = cost + joint[:, order[-1]]
        return order, losses


def interactions(read: Read) -> Float[Tensor, "channels channels"]:
    """`tr(W_c H_cd W_dᵀ)`: the mean product of what two channels add to the outputs, summed over outputs."""
    products = (read.weight.mT @ read.weight) * read.moment
    channels, k = read.columns.shape
    every = read.columns.flatten()
    return products[every][:, every].reshape(channels, k, channels, k).sum((1, 3))
