"""Network slimming. Liu et al. 2017, "Learning efficient convolutional networks through network slimming".

Fidelity: the criterion alone; the paper trains with an L1 penalty on the scales first, here the network is as it is.
No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from wfbench import ChannelPruner, Network, WfbenchError
from wfbench.toolbox import ChannelScores, Coupled, by_channel


@dataclass(frozen=True)
class BNScale(ChannelPruner[None]):
    """Absolute scale of the norm that a channel ends in, mean over the norms of a coupled group."""

    name: ClassVar[str] = "bn-scale"
    source: ClassVar[str] = "Liu et al. 2017, network slimming"
    fidelity: ClassVar[str] = "the scale by definition, without the paper's sparse training; no figure reproduced"
    order_invariant: ClassVar[bool] = True

    def channel_scores(self, net: Network, groups: list[Coupled], data: None) -> ChannelScores:
        found = {}
        for group in groups:
            # a scale is the `weight` of what is no prunable layer: a norm
            names = [
                part.name
                for part in group.charged
                if part.name.endswith("weight") and part.name in net.movable and part.name not in net.weights
            ]
            if not names:
                raise WfbenchError(
                    f"the channels of {group.name} end in no norm with a scale, which bn-scale ranks by; "
                    "use filter-l1, or a network with norms"
                )
            scales = [by_channel(net.movable[name], group, name).double().abs().mean(1) for name in names]
            found[group.name] = torch.stack(scales).mean(0)
        return found
