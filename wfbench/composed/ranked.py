"""A method of single layers under one ranking over all of them: its own updated weights say how much of each goes.

Let k = n·classes be the curvature rows of the logits and p ≫ k the weights. Over the whole network the saliency
`w²/(2[A⁻¹]_qq)` then ranks as w² does, for `Σ(1 − λ[A⁻¹]_qq) ≤ k`: between layers n samples tell no more than size.
Within a layer they tell more: its output has a row for every sample and place, which determine `XᵀX/m`, and the
weights that a layer-wise surgeon leaves have been moved by what it removed. So sizes say how much of each layer goes,
the method says which, and both in turns, since a weight that has taken over from others is larger for good reason.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from wfbench.composed.matched import Amounts, check_taken, weights_taken
from wfbench.composed.staged import shares
from wfbench.errors import WfbenchError, at_least
from wfbench.network import Network, Params
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner, take_after
from wfbench.sparsity import Target, Unstructured, keep_largest


@dataclass(frozen=True)
class Global(Pruner[Any]):
    """A layer-wise method that takes of each layer as many weights as are among the smallest of the whole network.

    Called `global-METHOD`, with options `global[stages=1]-METHOD`. The sizes are those of the weights that the method
    itself has updated in the stage before, at first the dense ones, so that one stage is `METHOD-as-magnitude`. The
    method is fitted once, on the dense network.

    Args:
        of: ranks all weights of a layer.
        stages: rankings, each keeping the same share of what the one before it kept.
    """

    source: ClassVar[str] = "allocation by the sizes of a layer-wise method's updated weights; not a published method"
    fidelity: ClassVar[str] = "one stage equal to METHOD-as-magnitude; not a published configuration"
    of: Pruner[Any]
    stages: int = 3

    def __post_init__(self) -> None:
        take_after(self, self.of, f"global-{self.of.name}")
        if Unstructured.name not in self.of.patterns:
            raise WfbenchError(f"{self.name}: {self.of.name} is not of single weights, which are ranked here")
        at_least(1, stages=self.stages)
        object.__setattr__(self, "patterns", (Unstructured.name,))
        object.__setattr__(self, "scope", "global")

    def fit(self, net: Network, data: Any) -> Fitted:
        return _Ranking(net, self, self.of.fit(net, data))


@dataclass(frozen=True)
class _Ranking:
    net: Network
    options: Global
    of: Fitted

    def prune(self, target: Target) -> Pruned:
        pruned = Pruned.dense(self.net)
        for share in shares(self.options.stages, target.sparsity) if target.sparsity > 0 else ():
            counts = weights_taken(self._largest(pruned, replace(target, sparsity=share)))
            pattern = Amounts(counts=tuple(counts.items()), sparsity=share)
            pruned = self.of.prune(Target(share, pattern, scope="layer"))
            check_taken(self.options.of.name, weights_taken(pruned.mask), "one ranking of all", counts, "weights")
        return pruned

    def _largest(self, pruned: Pruned, target: Target) -> Params:
        """Masks (True = kept) that keep the largest weights; those that are gone stay so."""
        sizes = {name: torch.where(pruned.mask[name], pruned.state[name].abs(), -1) for name in self.net.weights}
        return keep_largest(sizes, target)
