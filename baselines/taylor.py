"""First-order Taylor pruning. Molchanov et al. 2017, "Pruning convolutional neural networks for resource efficient
inference", for single weights instead of feature maps.

Fidelity: the formula, checked against a loop over samples, without the paper's normalisation of each layer's scores;
the paper goes on training after every few removals. No published figure reproduced.
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from wfbench import Labeled, Network, ScorePruner
from wfbench.toolbox import Params, flatten, gradients, over_columns, unflatten


@dataclass(frozen=True)
class Taylor(ScorePruner[Labeled]):
    """Mean over samples of `|g w|`: the change of each sample's loss to first order, nats."""

    name: ClassVar[str] = "taylor"
    source: ClassVar[str] = "Molchanov et al. 2017, first-order Taylor expansion"
    fidelity: ClassVar[str] = (
        "the paper's formula for single weights, layers not normalised; no published figure reproduced"
    )
    order_invariant: ClassVar[bool] = True

    def scores(self, net: Network, data: Labeled) -> Params:
        found = gradients(net, data)
        mean = over_columns(found.rows, lambda rows: (rows / sqrt(found.count)).abs().double().sum(0)) / sqrt(len(data))
        return unflatten(flatten(net.weights).double().abs() * mean, net.weights)
