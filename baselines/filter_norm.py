"""Filter norms. Li et al. 2017, "Pruning filters for efficient ConvNets" (L1); He et al. 2018, "Soft filter pruning for
accelerating deep convolutional neural networks" (L2).

Fidelity: the norm of a channel's filters, mean over the layers of a coupled group. Both papers compare filters within a
layer (`scope="layer"` here) and train, Li et al. afterwards, He et al. meanwhile. No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from wfbench import ChannelPruner, Network
from wfbench.toolbox import ChannelScores, Coupled, by_channel, producers


@dataclass(frozen=True)
class FilterL1(ChannelPruner[None]):
    """Sum of the absolute weights of a channel's filters, one ranking over all layers."""

    name: ClassVar[str] = "filter-l1"
    source: ClassVar[str] = "Li et al. 2017, filter norm"
    fidelity: ClassVar[str] = "equal to the norm by definition; no published figure reproduced"
    order_invariant: ClassVar[bool] = True
    power: ClassVar[int] = 1

    def channel_scores(self, net: Network, groups: list[Coupled], data: None) -> ChannelScores:
        found = {}
        for group in groups:
            norms = [
                by_channel(net.weights[name], group, name).double().norm(self.power, dim=1)
                for name in producers(net, group)
            ]
            found[group.name] = torch.stack(norms).mean(0)
        return found


@dataclass(frozen=True)
class FilterL2(FilterL1):
    """Euclidean norm of a channel's filters, one ranking over all layers."""

    name: ClassVar[str] = "filter-l2"
    source: ClassVar[str] = "He et al. 2018, filter norm"
    power: ClassVar[int] = 2
