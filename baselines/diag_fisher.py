"""Diagonal Fisher. Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning".

Fidelity: equal to WoodFisher's saliency with blocks of one weight and vanishing damping, which the tests check. The
paper takes out feature maps, greedily, while it distills; here single weights go in one shot. No published figure
reproduced.
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from wfbench import Labeled, Network, ScorePruner
from wfbench.toolbox import Params, flatten, gradients, over_columns, unflatten


@dataclass(frozen=True)
class DiagonalFisher(ScorePruner[Labeled]):
    """`½ w² F_qq` with the diagonal of the empirical Fisher, nats."""

    name: ClassVar[str] = "diag-fisher"
    source: ClassVar[str] = "Theis et al. 2018, Fisher pruning, of single weights"
    fidelity: ClassVar[str] = "equal to the dense diagonal; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def scores(self, net: Network, data: Labeled) -> Params:
        found = gradients(net, data)
        diagonal = over_columns(found.rows, lambda rows: (rows / sqrt(found.count)).double().square().sum(0))
        return unflatten(flatten(net.weights).double().square() * diagonal / 2, net.weights)
