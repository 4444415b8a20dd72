"""SNIP. Lee, Ajanthan & Torr 2019, "SNIP: single-shot network pruning based on connection sensitivity".

Fidelity: the formula; the paper prunes at initialisation, here the network is trained. No published figure reproduced.
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from wfbench import Labeled, Network, ScorePruner
from wfbench.toolbox import Params, flatten, gradients, over_columns, unflatten


@dataclass(frozen=True)
class SNIP(ScorePruner[Labeled]):
    """`|ḡ w|` with the gradient ḡ of the mean loss: the sensitivity of the loss to a connection's strength."""

    name: ClassVar[str] = "snip"
    source: ClassVar[str] = "Lee et al. 2019, connection sensitivity"
    fidelity: ClassVar[str] = "equal to the paper's formula, on a trained network; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def scores(self, net: Network, data: Labeled) -> Params:
        found = gradients(net, data)
        gradient = over_columns(found.rows, lambda rows: (rows / sqrt(found.count)).double().sum(0)) / sqrt(len(data))
        return unflatten((flatten(net.weights).double() * gradient).abs(), net.weights)
