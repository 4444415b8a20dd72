"""Selection and recovery in turns: any method in stages, on the network that the stage before it left and repaired."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from wfbench.channels.coupled import masked, shrunk
from wfbench.channels.pattern import Filter, masks
from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError, at_least
from wfbench.licence import handed
from wfbench.network import Network, Params
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner, take_after
from wfbench.recoveries.base import BatchNormReestimation
from wfbench.recoveries.repair import LeastSquaresRepair
from wfbench.sparsity import Target


def shares(stages: int, sparsity: float) -> list[float]:
    """The sparsity after every stage, each keeping the same share of what the one before it kept."""
    return [*(1 - (1 - sparsity) ** (stage / stages) for stage in range(1, stages)), sparsity]


def restored(net: Network, pruned: Pruned, data: Labeled | Unlabeled) -> Pruned:
    """The layers brought back to the dense network's outputs by least squares, then the norms' statistics anew."""
    inputs = Unlabeled(data.inputs)
    return BatchNormReestimation().apply(net, LeastSquaresRepair().apply(net, pruned, inputs), inputs)


@dataclass(frozen=True)
class Staged(Pruner[Any]):
    """A method in stages: between them the layers are repaired, the norms re-estimated.

    Called `staged-METHOD`, with options `staged[restore=false]-METHOD`.
    The method sees the network as the stages before it left it, without the channels that are gone.

    Args:
        of: the method; zero weights must rank last, as they do wherever a weight's size counts.
        stages: removals, the last one to the target.
        restore: False leaves repair and norms out: with a WoodFisher that is recomputation, its curvature taken anew at
            every stage and nothing else.
    """

    source: ClassVar[str] = "selection and recovery in turns; not a published method"
    fidelity: ClassVar[str] = "repair equal to a dense constrained solve; not a published configuration"
    of: Pruner[Any]
    stages: int = 8
    restore: bool = True

    def __post_init__(self) -> None:
        licence = Labeled if self.of.licence is Labeled else Unlabeled
        take_after(self, self.of, f"staged-{self.of.name}", licence)
        object.__setattr__(self, "patterns", tuple(p for p in self.of.patterns if p in ("unstructured", Filter.name)))
        at_least(1, stages=self.stages)

    def fit(self, net: Network, data: Labeled | Unlabeled) -> Fitted:
        return FittedStaged(net, data, self)


@dataclass(frozen=True)
class FittedStaged:
    """Nothing is computed beforehand: all of it depends on the target. The first stage is on the network itself, whose
    curvature other methods and targets ask for too.
    """

    net: Network
    data: Labeled | Unlabeled
    options: Staged

    @cached_property
    def _start(self) -> Pruned:
        return Pruned.dense(self.net)

    def prune(self, target: Target) -> Pruned:
        pruned = self._start
        remove = self._channels if isinstance(target.pattern, Filter) else self._weights
        for share in shares(self.options.stages, target.sparsity) if target.sparsity > 0 else ():
            pruned = remove(pruned, replace(target, sparsity=share))
            pruned = restored(self.net, pruned, self.data) if self.options.restore else pruned
        return pruned

    def _seen(self) -> Any:
        return handed(self.options.of.licence, self.data)

    def _weights(self, before: Pruned, target: Target) -> Pruned:
        net = self.net if before is self._start else self.net.with_state(before.state)
        found = self.options.of.fit(net, self._seen()).prune(target)
        for name, mask in found.mask.items():
            if (mask & ~before.mask[name]).any():
                raise WfbenchError(f"{self.options.of.name} takes weights of {name} back; it cannot work in stages")
        return found

    def _channels(self, before: Pruned, target: Target) -> Pruned:
        """Of the network without what is gone already, whose channels are numbered anew."""
        pattern = target.pattern
        assert isinstance(pattern, Filter)
        groups, gone = pattern.groups(self.net), {name: list(at) for name, at in before.removed_channels.items()}
        small = Network(shrunk(self.net, before.state, pattern.example(self.net), gone))
        whole = pattern.costs(self.net).total({}, target.of)
        left = pattern.costs(small).total({}, target.of)
        rest = replace(target, sparsity=max(0.0, 1 - (1 - target.sparsity) * whole / left))
        found = self.options.of.fit(small, self._seen()).prune(rest)
        state = self._placed(found.state, masked(_ones(self.net), groups, gone))
        for group in groups:
            kept = [channel for channel in range(group.size) if channel not in gone.get(group.name, ())]
            more = [kept[at] for at in found.removed_channels.get(group.name, ())]
            gone[group.name] = [*gone.get(group.name, ()), *more]
        removed = {name: tuple(sorted(at)) for name, at in gone.items()}
        return Pruned(masked(state, groups, gone), masks(self.net, groups, gone), removed, found.diagnostics)

    def _placed(self, small: Params, kept: Params) -> Params:
        """The tensors of the small network where they are in the large one, zeros elsewhere."""
        state = self.net.state()
        for name, where in kept.items():
            state[name] = torch.zeros_like(state[name])
            state[name][where.bool()] = small[name].flatten()
        return state


def _ones(net: Network) -> Params:
    """For every tensor with channels."""
    return {name: torch.ones_like(tensor) for name, tensor in net.state().items() if tensor.ndim}
