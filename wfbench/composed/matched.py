"""How many weights or channels go of each layer, and which: one method's amounts with another's choice.

Controls ask whether a method's choice of weights matters, or only how many it takes from each layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from wfbench.channels.pattern import ChannelAmounts, Filter
from wfbench.errors import WfbenchError
from wfbench.licence import handed, strongest
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


@dataclass(frozen=True)
class Allocation(Pruner[Any]):
    """A method that takes as much of every layer as another one does, and chooses and updates as ever.

    Called `METHOD-as-OTHER`, as `obc-as-staged-magnitude`. Of single weights it takes as many of every layer; of whole
    channels as many of every coupled group, so that the filters, parameters or MACs that go are the other's, too.

    Args:
        of: chooses the weights or channels, and what becomes of the others.
        amounts: says how many go of each layer.
    """

    source: ClassVar[str] = "one method's allocation with another's choice; not a published method"
    fidelity: ClassVar[str] = "equal to the method itself where both take as many; not a published configuration"
    of: Pruner[Any]
    amounts: Pruner[Any]

    def __post_init__(self) -> None:
        licence = strongest((self.of.licence, self.amounts.licence))
        take_after(self, self.amounts, f"{self.of.name}-as-{self.amounts.name}", licence)
        both = [name for name in (Unstructured.name, Filter.name) if name in self.of.patterns]
        patterns = tuple(name for name in both if name in self.amounts.patterns)
        if not patterns:
            reach = ", ".join(f"{one.name} reaches {' and '.join(one.patterns)}" for one in (self.of, self.amounts))
            raise WfbenchError(f"{self.name}: {reach}; give two methods of single weights, or two of whole channels")
        object.__setattr__(self, "patterns", patterns)

    def fit(self, net: Network, data: Any) -> Fitted:
        fitted = (one.fit(net, handed(one.licence, data)) for one in (self.of, self.amounts))
        return _Allocating(self, *fitted)


@dataclass(frozen=True)
class _Allocating:
    method: Allocation
    of: Fitted
    amounts: Fitted

    def prune(self, target: Target) -> Pruned:
        given = self.amounts.prune(target)
        if target.sparsity == 0:
            return given
        if isinstance(target.pattern, Filter):
            counts, what = _channels(given), "channels"
            channels = ChannelAmounts(target.pattern.shape, target.pattern.tokens, tuple(counts.items()))
            asked = replace(target, pattern=channels)
        else:
            counts, what = weights_taken(given.mask), "weights"
            amounts = Amounts(counts=tuple(counts.items()), sparsity=target.sparsity)
            asked = replace(target, pattern=amounts, scope="layer", of="weights")
        found = self.of.prune(asked)
        taken = _channels(found) if what == "channels" else weights_taken(found.mask)
        check_taken(self.method.of.name, taken, self.method.amounts.name, counts, what)
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


def _channels(pruned: Pruned) -> dict[str, int]:
    """How many channels went, by group."""
    return {name: len({*gone}) for name, gone in pruned.removed_channels.items() if gone}
