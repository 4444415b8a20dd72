"""Group Fisher pruning. Liu et al. 2021, "Group Fisher pruning for practical network compression".

Fidelity: half the mean squared derivative by one factor on all charged coordinates of a channel (scale and shift of all
norms of the coupled group). With ReLU that is the paper's mask on the inputs of all that read the channel; both are
checked against autograd. Divided by the MACs that one channel saves; the paper prefers memory, and takes out a channel
now and then while it trains, where the scores here are computed once. No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

from wfbench import ChannelPruner, Labeled, Network
from wfbench.toolbox import ChannelScores, Coupled, Unit, gate_rows


@dataclass(frozen=True)
class GroupFisher(ChannelPruner[Labeled]):
    """Half the mean over samples of `(gᵀw)²` over the channel's charged coordinates, nats per MAC saved."""

    name: ClassVar[str] = "group-fisher"
    source: ClassVar[str] = "Liu et al. 2021, group Fisher, normalised by computation"
    fidelity: ClassVar[str] = "equal to autograd by the mask, one shot, per MAC; no published figure reproduced"
    order_invariant: ClassVar[bool] = True
    per: ClassVar[Unit | None] = "macs"

    def channel_scores(self, net: Network, groups: list[Coupled], data: Labeled) -> ChannelScores:
        return {name: rows.square().sum(0) / 2 for name, rows in gate_rows(net, groups, data).items()}
