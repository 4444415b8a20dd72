"""Random pruning: the lower reference of every table."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from wfbench import Network, ScorePruner
from wfbench.toolbox import Params


@dataclass(frozen=True)
class Random(ScorePruner[None]):
    """Uniform random scores."""

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "control"
    fidelity: ClassVar[str] = "a control, not a published method"

    def scores(self, net: Network, data: None) -> Params:
        return {name: torch.rand(weight.shape).to(weight.device) for name, weight in net.weights.items()}
