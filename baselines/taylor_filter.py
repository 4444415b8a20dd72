"""First-order Taylor pruning of channels. Molchanov et al. 2019, "Importance estimation for neural network pruning".

Fidelity: the derivative by a gate on the channel, checked against autograd through one. The paper squares gradients of
mini-batches and averages over training steps, pruning little by little; here all samples are one batch, for which the
absolute value gives the same order, and pruning is one-shot. The gate multiplies all charged coordinates of the coupled
group (scale and shift of its norms), so that branches add up before the absolute value. No published figure reproduced.
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from wfbench import ChannelPruner, Labeled, Network
from wfbench.toolbox import ChannelScores, Coupled, gate_rows


@dataclass(frozen=True)
class TaylorFilter(ChannelPruner[Labeled]):
    """Absolute mean over samples of `gᵀw` over the channel's charged coordinates, nats."""

    name: ClassVar[str] = "taylor-filter"
    source: ClassVar[str] = "Molchanov et al. 2019, Taylor-FO on gates"
    fidelity: ClassVar[str] = "equal to autograd by gates, one batch, one shot; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def channel_scores(self, net: Network, groups: list[Coupled], data: Labeled) -> ChannelScores:
        gates = gate_rows(net, groups, data)
        return {name: rows.sum(0).abs() / sqrt(len(data)) for name, rows in gates.items()}
