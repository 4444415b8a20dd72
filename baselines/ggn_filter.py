"""Optimal brain damage of channels. LeCun, Denker & Solla 1989, with the diagonal of the Gauss-Newton matrix.

Fidelity: the diagonal equals the dense one. The sum over a channel's charged coordinates leaves out their interactions,
and is not what the paper, which removes single weights, does. No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from wfbench import ChannelPruner, Network, Unlabeled, fisher_rows
from wfbench.toolbox import ChannelScores, Coupled, flatten, over_charged, unflatten

DIAGONAL_SAMPLES = 32
"""Samples whose gradients are held at a time."""


@dataclass(frozen=True)
class GGNFilter(ChannelPruner[Unlabeled]):
    """Sum of `½ w² h_qq` over the channel's charged coordinates, with the diagonal of the Gauss-Newton matrix, nats."""

    name: ClassVar[str] = "ggn-filter"
    source: ClassVar[str] = "LeCun et al. 1989, with the Levenberg-Marquardt approximation, summed over channels"
    fidelity: ClassVar[str] = "equal to the dense diagonal; not a published configuration"
    order_invariant: ClassVar[bool] = True

    def channel_scores(self, net: Network, groups: list[Coupled], data: Unlabeled) -> ChannelScores:
        w = flatten(net.movable).double()
        diagonal = torch.zeros_like(w)
        for x in data.inputs.split(DIAGONAL_SAMPLES):
            rows = fisher_rows(net, Unlabeled(x), "exact", over="movable")
            diagonal += rows.square().sum(0).double() * len(x) / len(data)
        losses = unflatten(w.square() * diagonal / 2, net.movable)
        return {group.name: over_charged(net, group, lambda name: losses[name][None])[0] for group in groups}
