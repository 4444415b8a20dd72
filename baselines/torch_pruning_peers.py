"""Importances of torch-pruning (Fang et al. 2023, "DepGraph: towards any structural pruning"), for comparison.

Fidelity: scores are the library's, version 1.6, computed once on the dense network; channels go one by one by our own
ranking over all groups, so the result is not that of its pruner. It looks at parameters alone, depthwise filters left
out.
"""

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import torch
from torch import Tensor

from wfbench import Filter, Fitted, Network, Pruned, Pruner, Target
from wfbench.toolbox import dependency_graph, filters_of, pruned_of, pruning_group, remove_lowest


@dataclass(frozen=True)
class FittedPeer:
    """The library's importance; it is asked once a target, since the shape of inputs comes with the target."""

    net: Network
    method: str
    importance: Any

    def scores(self, pattern: Filter) -> dict[str, Tensor]:
        """By the group's name; channels are those of the group's first layer, in our order. Heads, which the library
        would have to be told of, go last."""
        module = self.net.module()
        graph = dependency_graph(module, pattern.example(self.net))
        found = {}
        for group in pattern.groups(self.net):
            if group.heads:
                found[group.name] = torch.full((group.size,), inf)
                continue
            layer = module.get_submodule(group.name)
            found[group.name] = self.importance(pruning_group(graph, layer, range(group.size)))
        return found

    def prune(self, target: Target) -> Pruned:
        pattern = filters_of(target, self.method)
        groups = pattern.groups(self.net)
        costs = pattern.costs(self.net)
        return pruned_of(self.net, groups, remove_lowest(self.scores(pattern), costs, target))


@dataclass(frozen=True)
class TorchPruningL2(Pruner[None]):
    """Mean of the squared norms of all of a channel's parameters, filters, scales and input slices; over their mean."""

    name: ClassVar[str] = "tp-l2"
    patterns: ClassVar[tuple[str, ...]] = ("filter",)
    source: ClassVar[str] = "Fang et al. 2023; torch-pruning, MagnitudeImportance(p=2)"
    fidelity: ClassVar[str] = "the library's own scores, ranked by us; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def fit(self, net: Network, data: None) -> Fitted:
        return FittedPeer(net, self.name, self.importance())

    def importance(self) -> Any:
        from torch_pruning.pruner import importance  # it takes seconds to import

        return importance.MagnitudeImportance(p=2)


@dataclass(frozen=True)
class TorchPruningLAMP(TorchPruningL2):
    """The same, over the sum of all that are no lower within the group (LAMP, Lee et al. 2021)."""

    name: ClassVar[str] = "tp-lamp"
    source: ClassVar[str] = "Fang et al. 2023; Lee et al. 2021; torch-pruning, LAMPImportance"

    def importance(self) -> Any:
        from torch_pruning.pruner import importance  # it takes seconds to import

        return importance.LAMPImportance(p=2)
