"""How many weights or channels go of each layer: given amounts, and controls that take another method's.

Controls ask whether a method's choice of weights matters, or only how many it takes from each layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from wfbench.channels.pattern import ChannelAmounts, Filter
from wfbench.errors import WfbenchError
from wfbench.modules import counts_of
from wfbench.network import Network, Params
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner, take_after
from wfbench.sparsity import Target, Unstructured, keep_all_but

By: TypeAlias = Literal["magnitude", "random"]


@dataclass(frozen=True)
class LayerMatched(Pruner[Any]):
    """Magnitude or random pruning with the layer proportions of another method, which sees its data as ever.

    Called `magnitude-as-METHOD` and `random-as-METHOD`. The kept weights stay the dense ones. Where the pattern says
    how many weights of every group stay, as N:M does, those are the proportions, and only which stay differs.
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


@dataclass(frozen=True)
class Amounts(Unstructured):
    """Any weight may go, and of each layer as many as is said; of a smaller sparsity the same part of them.

    Args:
        counts: of each layer, how many weights go at the sparsity.
        sparsity: above 0.
    """

    counts: tuple[tuple[str, int], ...] = ()
    sparsity: float = 1.0

    def masks(self, scores: Mapping[str, Tensor], target: Target) -> Params:
        part = target.sparsity / self.sparsity
        return {name: keep_all_but(round(part * count), scores[name]) for name, count in self.counts}


def taking_channels(of: Fitted, name: str, target: Target, counts: Mapping[str, int], amounts: str) -> Pruned:
    """What a method leaves that takes so many channels of every group.

    Args:
        name, amounts: the method, and who says how many, for the error.

    Raises:
        WfbenchError: it took others.
    """
    assert isinstance(target.pattern, Filter)
    channels = ChannelAmounts(target.pattern.shape, target.pattern.tokens, tuple(counts.items()))
    found = of.prune(replace(target, pattern=channels))
    check_taken(name, channels_taken(found), amounts, counts, "channels")
    return found


def check_taken(of: str, taken: Mapping[str, int], amounts: str, counts: Mapping[str, int], what: str) -> None:
    """Raise WfbenchError unless a method took of every layer as much as it was given."""
    for name in {**counts, **taken}:
        if taken.get(name, 0) != counts.get(name, 0):
            raise WfbenchError(
                f"{of} takes {taken.get(name, 0)} {what} of {name} where {amounts} takes {counts.get(name, 0)}: it "
                f"decides for itself how many; give a method that ranks all {what} of a layer"
            )


def weights_taken(masks: Params) -> dict[str, int]:
    """How many weights go, by layer."""
    return counts_of({name: (~mask).sum() for name, mask in masks.items()})


def channels_taken(pruned: Pruned) -> dict[str, int]:
    """How many channels went, by group."""
    return {name: len({*gone}) for name, gone in pruned.removed_channels.items() if gone}
