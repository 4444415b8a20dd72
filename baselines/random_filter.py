"""Random channels: the lower reference of structured tables."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from wfbench import ChannelPruner, Network
from wfbench.toolbox import ChannelScores, Coupled


@dataclass(frozen=True)
class RandomFilter(ChannelPruner[None]):
    """Uniform random scores."""

    name: ClassVar[str] = "random-filter"
    source: ClassVar[str] = "control"
    fidelity: ClassVar[str] = "a control, not a published method"

    def channel_scores(self, net: Network, groups: list[Coupled], data: None) -> ChannelScores:
        return {group.name: torch.rand(group.size).to(net.device) for group in groups}
