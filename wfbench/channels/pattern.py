"""Whole channels: the pattern, what a result must keep, and the masks of removed channels."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from wfbench.channels.costs import Costs, _allowed
from wfbench.channels.coupled import Coupled, coupled_channels, masked, shrunk, taking_out
from wfbench.channels.footprint import footprint
from wfbench.channels.latency import architecture
from wfbench.channels.limits import AGREEMENT, differ, limit, probe_of, removable
from wfbench.errors import BrokenRule, WfbenchError
from wfbench.network import Network, Params
from wfbench.pruned import Pruned
from wfbench.sparsity import Pattern, Target, Unit


@dataclass(frozen=True)
class Filter(Pattern):
    """Coupled channels go as a whole, and the network shrinks.

    Args:
        shape: of one input, for the network to be traced with.
        tokens: inputs are whole numbers.
    """

    name: ClassVar[str] = "filter"
    units: ClassVar[tuple[Unit, ...]] = ("filters", "params", "macs")
    shape: tuple[int, ...]
    tokens: bool = False

    @classmethod
    def of(cls, x: Shaped[Tensor, "n *input"]) -> "Filter":
        """For inputs like these."""
        return cls(tuple(x.shape[1:]), not x.is_floating_point())

    @classmethod
    def for_task(cls, module: Callable[[], nn.Module], x: Tensor, of: Unit) -> Pattern:
        return cls.of(x)

    def example(self, net: Network) -> Tensor:
        """One input of zeros, of tokens of ones."""
        if self.tokens:
            return torch.ones((1, *self.shape), dtype=torch.int64, device=net.device)
        return torch.zeros((1, *self.shape), dtype=net.dtype, device=net.device)

    def groups(self, net: Network) -> list[Coupled]:
        """Every group of channels that can be taken out; traced once a network.

        Raises:
            WfbenchError: the network cannot be traced, or has no such group.
        """
        found, _ = self._removable(net)
        if not found:
            raise WfbenchError(
                "no channel can be taken out: none is read by a later layer without a norm over channels between"
            )
        return found

    def _removable(self, net: Network) -> tuple[list[Coupled], list[str]]:
        """The groups, and why other layers' channels stay."""
        example = self.example(net)
        return net.memo.take(("groups", self.shape), lambda: removable(net, coupled_channels(net, example), example))

    def costs(self, net: Network) -> Costs:
        """What the channels of every group cost; worked out once a network."""
        _, whole = self._removable(net)
        return net.memo.take(("costs", self.shape), lambda: Costs(net, self.groups(net), self.example(net), whole))

    def achieved(self, target: Target, net: Network, pruned: Pruned, x: Tensor) -> float:
        """The share of what `target.of` counts; what is masked is what the removed channels take with them."""
        groups, gone = self.groups(net), pruned.removed_channels
        unknown = gone.keys() - {group.name for group in groups}
        if unknown:
            raise BrokenRule(f"removed_channels names {', '.join(sorted(unknown))}, which are no groups of channels")
        for group in groups:
            if len(set(gone.get(group.name, ()))) >= group.size:
                raise BrokenRule(f"all {group.size} channels of {group.name} are gone; a layer keeps at least one")
        expected = masks(net, groups, gone)
        for name, mask in expected.items():
            if not torch.equal(pruned.mask.get(name, torch.ones_like(mask)), mask):
                raise BrokenRule(f"the mask of {name} is not what the removed channels take with them")
            if pruned.state[name][~mask].any():
                raise BrokenRule(f"{name} is not zero where channels were removed")
        if extra := [name for name, mask in pruned.mask.items() if name not in expected and not mask.all()]:
            raise BrokenRule(f"the mask of {extra[0]} removes what belongs to no removed channel")
        costs = self.costs(net)
        counts = {name: len(set(channels)) for name, channels in gone.items()}
        whole, left = costs.total({}, target.of), costs.total(counts, target.of)
        allowed = _allowed(target, whole)
        last = max((costs.total({**counts, g: c - 1}, target.of) for g, c in counts.items() if c), default=whole)
        if left > allowed or (last <= allowed and any(counts.values())):
            raise BrokenRule(
                f"{left} of {whole} {target.of} are left; the target is sparsity {target.sparsity}, met to one channel"
            )
        return 1 - left / whole

    def measured(self, net: Network, pruned: Pruned, x: Tensor) -> dict[str, Any]:
        """The shrunk network's architecture; parameters, MACs, activation memory [bytes] of it and of the dense one.

        For one sample; what has an architecture can be timed.

        Raises:
            BrokenRule: the shrunk network's logits are not the masked one's, and nothing in the network is to blame.
            WfbenchError: the network does not run without some channels, or computes something else, or torch counts
                another size than was removed by.
        """
        example = self.example(net)
        probe = probe_of(example)
        removed = {name: list(gone) for name, gone in pruned.removed_channels.items()}
        with torch.no_grad():
            wanted = net.logits(pruned.state, probe)
            try:
                with taking_out(removed):
                    small = shrunk(net, pruned.state, example, removed)
                    found = small(probe)
            except WfbenchError as error:
                raise WfbenchError(limit(net, self.groups(net), removed, probe) or str(error)) from error
        if not (difference := differ(wanted, found)) <= AGREEMENT:
            if (reason := limit(net, self.groups(net), removed, probe)) is not None:
                raise WfbenchError(reason)
            raise BrokenRule(f"masked and shrunk network differ by {difference:.1e} of the largest logit")
        whole = net.memo.take(("footprint", self.shape), lambda: footprint(net.module(), example))
        dense = {f"dense_{name}": value for name, value in whole.items()}
        counts = {name: len(set(channels)) for name, channels in pruned.removed_channels.items()}
        costs = {**footprint(small, example), **dense, "removed_channels": sum(counts.values())}
        for of in self.units[1:]:
            if (expected := self.costs(net).total(counts, of)) != costs[of]:
                raise WfbenchError(
                    f"the smaller network has {costs[of]} {of} where {expected} were expected, so that no target of "
                    "them can be met; call layers rather than functions on their weights"
                )
        return {**costs, "architecture": architecture(small)}


@dataclass(frozen=True)
class ChannelAmounts(Filter):
    """Coupled channels go as a whole, and of each group as many as is said, whatever the sparsity.

    Args:
        counts: of each group by its name, how many channels go; none of a group that is not named.
    """

    counts: tuple[tuple[str, int], ...] = ()

    def costs(self, net: Network) -> Costs:
        return super().costs(net).given(dict(self.counts))


def masks(net: Network, groups: Iterable[Coupled], gone: Mapping[str, Iterable[int]]) -> Params:
    """True = kept, for every prunable weight and every other parameter that a removed channel takes entries of."""
    ones = {name: torch.ones_like(tensor) for name, tensor in net.movable.items()}
    kept = masked(ones, _within(groups, ones), {name: list(channels) for name, channels in gone.items()})
    found = {name: tensor.bool() for name, tensor in kept.items()}
    return {name: mask for name, mask in found.items() if name in net.weights or not mask.all()}


def _within(groups: Iterable[Coupled], names: Mapping[str, Tensor]) -> list[Coupled]:
    """The groups without slices of tensors that are not named."""
    return [
        Coupled(
            group.name,
            group.size,
            tuple(part for part in group.charged if part.name in names),
            tuple(part for part in group.deleted if part.name in names),
            group.consumers,
        )
        for group in groups
    ]


def pruned_of(
    net: Network,
    groups: list[Coupled],
    gone: Mapping[str, Iterable[int]],
    weights: Params | None = None,
    diagnostics: Mapping[str, float] | None = None,
) -> Pruned:
    """The dense state with `weights` in place and the removed channels masked.

    Args:
        gone: removed channels by the group's name.
        weights: changed parameters, of any float dtype.
    """
    removed = {name: tuple(sorted(channels)) for name, channels in gone.items()}
    state = net.state()
    for name, weight in (weights or {}).items():
        state[name] = weight.to(state[name].dtype).reshape(state[name].shape)
    lists = {name: list(channels) for name, channels in removed.items()}
    return Pruned(masked(state, groups, lists), masks(net, groups, lists), removed, diagnostics or {})
