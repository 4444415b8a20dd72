"""K-FAC saliency of whole filters. Wang et al. 2019, "EigenDamage: structured pruning in the Kronecker-factored
eigenbasis", its optimal brain surgeon on filters, without the rotation to the eigenbasis.

Fidelity: the saliency equals that of the dense π-damped Kronecker matrix with the whole filter as removed set; the
update is left out. The authors' code (kron-OBS) has `Σ_ij w_i² A_ij` in place of `wᵀAw`, A undamped, and the update.
Filters are charged, summed over the layers of a coupled group, biases and norms are not. Depthwise filters have the
input factor of all channels' mean, as curvlinops computes it. No published figure reproduced.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from wfbench import ChannelPruner, Network, Unlabeled
from wfbench.toolbox import ChannelScores, Coupled, by_channel, check_damping, producers

from .kfac import FittedKFAC, KFACExact


@dataclass(frozen=True)
class KFACFilter(ChannelPruner[Unlabeled]):
    """`½ w_oᵀ A_π w_o / [B_π⁻¹]_oo` of filter o, summed over the layers of a coupled group, nats.

    Args:
        damping: λ [nats/weight²], split over the factors by π.
        factors: where they come from; a field, so that a record's reuse key covers its code.
    """

    name: ClassVar[str] = "kfac-filter"
    source: ClassVar[str] = "Wang et al. 2019, structured optimal brain surgeon with Kronecker factors"
    fidelity: ClassVar[str] = (
        "saliency equal to the dense Kronecker matrix's; no update; no published figure reproduced"
    )
    order_invariant: ClassVar[bool] = True
    damping: float = KFACExact.damping
    factors: KFACExact = field(default_factory=KFACExact)

    def __post_init__(self) -> None:
        check_damping(self.damping)

    def channel_scores(self, net: Network, groups: list[Coupled], data: Unlabeled) -> ChannelScores:
        fitted = replace(self.factors, damping=self.damping).fit(net, data)
        assert isinstance(fitted, FittedKFAC)
        losses = {}
        for name, weight in net.weights.items():
            filters = fitted.matrix(name, weight.double())
            shifted = torch.linalg.solve(fitted.inputs[name], filters.mT).mT  # A_π w_o: inputs are A_π⁻¹
            losses[name] = (filters * shifted).sum(1) / fitted.outputs[name].diagonal() / 2
        return {
            group.name: torch.stack(
                [by_channel(losses[name], group, name).sum(1) for name in producers(net, group)]
            ).sum(0)
            for group in groups
        }
