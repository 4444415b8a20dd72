"""FPGM. He et al. 2019, "Filter pruning via geometric median for deep convolutional neural networks acceleration".

Fidelity: the sum of distances by definition. The paper prunes every layer by the same share (`scope="layer"` here)
while it trains; depthwise filters and rows of linear layers count as filters. No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wfbench import ChannelPruner, Network
from wfbench.toolbox import ChannelScores, Coupled, by_channel, producers


@dataclass(frozen=True)
class FPGM(ChannelPruner[None]):
    """Sum of the Euclidean distances to the layer's other filters, mean over the layers of a coupled group."""

    name: ClassVar[str] = "fpgm"
    source: ClassVar[str] = "He et al. 2019, FPGM"
    fidelity: ClassVar[str] = "equal to the sum of distances by definition; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def channel_scores(self, net: Network, groups: list[Coupled], data: None) -> ChannelScores:
        return {
            group.name: torch.stack(
                [distances(by_channel(net.weights[name], group, name).double()) for name in producers(net, group)]
            ).mean(0)
            for group in groups
        }


def distances(filters: Float[Tensor, "channels d"]) -> Float[Tensor, " channels"]:
    """From each filter to all others, summed."""
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
