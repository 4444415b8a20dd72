"""Magnitude pruning. Han et al. 2015, "Learning both weights and connections for efficient neural networks".

Fidelity: |w| by definition. Han et al. have a threshold a layer, a multiple of the standard deviation of its weights,
and train in between; one threshold for all layers, or the same share of every layer, are the usual baselines of later
papers (global magnitude in Singh & Alistarh 2020). No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

from wfbench import Network, ScorePruner
from wfbench.toolbox import Params, Scope


@dataclass(frozen=True)
class Magnitude(ScorePruner[None]):
    """|w|, one ranking over all layers."""

    name: ClassVar[str] = "magnitude"
    source: ClassVar[str] = (
        "Han et al. 2015, magnitude; one threshold for all layers as in Singh & Alistarh 2020, global magnitude"
    )
    fidelity: ClassVar[str] = "|w| by definition; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def scores(self, net: Network, data: None) -> Params:
        return {name: weight.abs() for name, weight in net.weights.items()}


@dataclass(frozen=True)
class MagnitudeLayer(Magnitude):
    """|w|, every layer to the target sparsity."""

    name: ClassVar[str] = "magnitude-layer"
    source: ClassVar[str] = "Han et al. 2015, magnitude; the same share of every layer"
    scope: ClassVar[Scope] = "layer"
