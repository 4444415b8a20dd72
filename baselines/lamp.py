"""LAMP. Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning".

Fidelity: the score is the paper's formula, checked against a loop; no published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from wfbench import Network, ScorePruner
from wfbench.toolbox import Params


@dataclass(frozen=True)
class LAMP(ScorePruner[None]):
    """`w_u² / Σ w_v²` over the weights v of the layer that are no smaller than u, one ranking over all layers."""

    name: ClassVar[str] = "lamp"
    order_invariant: ClassVar[bool] = True
    source: ClassVar[str] = "Lee et al. 2021, the LAMP score"
    fidelity: ClassVar[str] = "equal to the paper's formula; no published figure reproduced"

    def scores(self, net: Network, data: None) -> Params:
        found = {}
        for name, weight in net.weights.items():
            squares, order = weight.double().square().flatten().sort(stable=True)
            rest = squares.flip(0).cumsum(0).flip(0)
            score = torch.where(rest > 0, squares / rest, 0)
            found[name] = torch.empty_like(score).scatter_(0, order, score).reshape(weight.shape)
        return found
