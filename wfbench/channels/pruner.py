"""Methods that take out whole channels: a score a channel, what goes, and an update of what reads it."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wfbench.channels.costs import remove_lowest
from wfbench.channels.coupled import Coupled
from wfbench.channels.pattern import Filter, pruned_of
from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError
from wfbench.licence import D
from wfbench.network import Network, Params
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner
from wfbench.sparsity import Target, Unit

ChannelScores: TypeAlias = dict[str, Tensor]
Gone: TypeAlias = dict[str, list[int]]


def filters_of(target: Target, method: str) -> Filter:
    """The target's pattern, or an error that says what to ask for."""
    if not isinstance(target.pattern, Filter):
        raise WfbenchError(f"{method} takes out whole channels; ask for a Target with pattern=Filter(shape)")
    return target.pattern


class ChannelPruner(Pruner[D]):
    """A method that ranks channels by a score, and may then change the weights that read them.

    The lowest scores go first, divided by what the channel saves of `per` (None: by nothing), until the target is met.
    """

    patterns: ClassVar[tuple[str, ...]] = ("filter",)
    per: ClassVar[Unit | None] = None

    def fit(self, net: Network, data: D) -> Fitted:
        fitted = ChannelFitted(net, self, data)
        if isinstance(data, (Labeled, Unlabeled)):
            fitted.scores_for(Filter.of(data.inputs))  # what costs belongs to `fit`
        return fitted

    @abstractmethod
    def channel_scores(self, net: Network, groups: list[Coupled], data: D) -> ChannelScores:
        """One tensor `[channels]` for each group, by its name; higher = keep."""

    def updated(self, net: Network, groups: list[Coupled], gone: Gone, data: D) -> Params:
        """The parameters that change when these channels go, by name; none by default."""
        return {}


@dataclass(frozen=True)
class ChannelFitted:
    """A method with its data; scores are kept for each shape of the inputs."""

    net: Network
    method: ChannelPruner[Any]
    data: Any
    _scores: dict[tuple[int, ...], ChannelScores] = field(default_factory=dict)

    def scores_for(self, pattern: Filter) -> ChannelScores:
        if pattern.shape not in self._scores:
            groups = pattern.groups(self.net)
            found = self.method.channel_scores(self.net, groups, self.data)
            for group in groups:
                shape = tuple(found[group.name].shape) if group.name in found else None
                if shape != (group.size,):
                    raise WfbenchError(f"scores of {group.name} have shape {shape}; they must have ({group.size},)")
            self._scores[pattern.shape] = found
        return self._scores[pattern.shape]

    def prune(self, target: Target) -> Pruned:
        pattern = filters_of(target, self.method.name)
        groups, scores = pattern.groups(self.net), self.scores_for(pattern)
        costs = pattern.costs(self.net)
        gone = remove_lowest(scores, costs, target, self.method.per)
        changed = self.method.updated(self.net, groups, gone, self.data) if any(gone.values()) else {}
        return pruned_of(self.net, groups, gone, changed)


def by_channel(tensor: Tensor, group: Coupled, name: str) -> Float[Tensor, "channels n"]:
    """The entries of one of the group's charged or deleted tensors, a row a channel: all that are in it.

    Of a tensor that reads the channels, its columns.

    Raises:
        WfbenchError: the group has no slices of that tensor, which is of filters.
    """
    parts = [part for part in (*group.charged, *group.deleted) if part.name == name]
    for axis in (0, 1):
        if found := [part.index for part in parts if part.axis == axis]:
            if axis == tensor.ndim:
                raise WfbenchError(f"no layer makes the channels of {group.name}, which have no filters; use filter-l2")
            index = torch.cat(found, 1).to(tensor.device).flatten()
            return tensor.movedim(axis, 0)[index].reshape(group.size, -1)
    raise WfbenchError(f"{group.name} makes no channel with {name}")


def producers(net: Network, group: Coupled) -> list[str]:
    """Names of the prunable weights whose outputs are the group's channels; of those that read them, if none are."""
    names = dict.fromkeys(part.name for part in (*group.charged, *group.deleted) if part.axis == 0)
    return [name for name in names if name in net.weights] or list(group.consumers)


def reading(group: Coupled, consumer: str) -> Int[Tensor, "channels width"]:
    """The input positions (second axis of the consumer's weight) of each of the group's channels."""
    parts = (*group.deleted, *group.charged)
    return next(part.index for part in parts if part.name == consumer and part.axis == 1)
