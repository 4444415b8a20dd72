"""Controls: does a method's choice of weights matter, or only how many it takes from each layer?"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch

from wfbench.channels.pattern import Filter
from wfbench.errors import WfbenchError
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner, take_after
from wfbench.sparsity import Target, keep_all_but

By: TypeAlias = Literal["magnitude", "random"]


@dataclass(frozen=True)
class LayerMatched(Pruner[Any]):
    """Magnitude or random pruning with the layer proportions of another method, which sees its data as ever.

    Called `magnitude-as-METHOD` and `random-as-METHOD`. The kept weights stay the dense ones. Where the pattern says how
    many weights of every group stay, as N:M does, the method's proportions are the pattern's, and only which stay differs.
    """

    source: ClassVar[str] = "control"
    fidelity: ClassVar[str] = "a control, not a published method"
    method: Pruner[Any]
    by: By

    def __post_init__(self) -> None:
        take_after(self, self.method, f"{self.by}-as-{self.method.name}")
        patterns = tuple(one for one in self.method.patterns if one != Filter.name)
        if not patterns:
            raise WfbenchError(f"{self.name}: {self.method.name} removes channels; {self.by}-as is of single weights")
        object.__setattr__(self, "patterns", patterns)

    def fit(self, net: Network, data: Any) -> Fitted:
        return _Matching(net, self.method.fit(net, data), self.by)


@dataclass(frozen=True)
class _Matching:
    net: Network
    fitted: Fitted
    by: By

    def prune(self, target: Target) -> Pruned:
        masks = {}
        found = self.fitted.prune(target).mask
        for name, weight in self.net.weights.items():
            kept = found[name]
            scores = weight.abs() if self.by == "magnitude" else torch.rand(weight.shape).to(weight.device)
            dictated = target.pattern.dictated(scores, target)
            masks[name] = keep_all_but(int((~kept).sum()), scores) if dictated is None else dictated
        return Pruned.of(self.net, self.net.weights, masks)
