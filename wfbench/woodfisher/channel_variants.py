"""WoodFisher on whole channels: set saliency, greedy removal, exact update of what reads the channels.

The sets of a channel are those of `channels.coupled`; the algebra is that of `channel_surgeon`. The paper leaves
structured pruning to future work; Q, D and U are chosen so that rescaling a layer cannot make a removal look free.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from wfbench.channels.costs import Removal
from wfbench.channels.coupled import Coupled
from wfbench.channels.pattern import pruned_of
from wfbench.channels.pruner import filters_of
from wfbench.composed.tuned import tuned_or
from wfbench.curvature.damping import Damping, Relative, absolute, check_damping
from wfbench.curvature.diagnostics import mean_diagonal, predicted_change, row_diagnostics
from wfbench.curvature.rows import Gradients, gradients, probes_of
from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError, at_least
from wfbench.network import Network, flatten, unflatten
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner
from wfbench.sparsity import Target
from wfbench.woodfisher.channel_surgeon import Block, Coordinates, blocks_of, compressed

Moves: TypeAlias = Literal["consumers", "none", "all"]
MEAN_DIAGONAL = Relative(1.0)
LEAST = 1e-3
"""Curvature directions below this share of λ are left out; no saliency changes by more than this share."""


@dataclass(frozen=True)
class FittedWoodFisherFilter:
    """Gradients over the movable coordinates, ready for any target."""

    net: Network
    gradients: Gradients
    damping: float
    labeled: bool
    options: "_Options"

    @cached_property
    def columns(self) -> Tensor:
        """Rᵀ, unscaled, the rows turned to their eigenvectors: `[p, r]` with r at most the number of gradients."""
        return compressed(self.gradients.rows, self.gradients.gram, LEAST * self._scaled, self.options.rank)

    @property
    def _scaled(self) -> float:
        return self.damping * self.gradients.count  # the rows are unscaled, so λ is scaled instead

    @cached_property
    def diagnostics(self) -> dict[str, float]:
        eigenvalues = torch.linalg.eigvalsh(self.gradients.gram).clamp(min=0)
        leverage = float((eigenvalues / (eigenvalues + self._scaled)).sum()) / self.gradients.rows.shape[1]
        return {"mean_leverage": leverage, **row_diagnostics(self.gradients, self.damping)}

    def prune(self, target: Target) -> Pruned:
        pattern = filters_of(target, "woodfisher-filter")
        groups = pattern.groups(self.net)
        removal = Removal(pattern.costs(self.net), target)
        if removal.met:
            return pruned_of(self.net, groups, removal.gone, diagnostics=self.diagnostics)
        where = Coordinates(self.net, groups)
        blocks = self._blocks(groups, where)
        w = flatten(self.net.movable).double()
        if self.options.update == "independent":
            delta = self._independent(removal, blocks, w)
        else:
            delta = self._joint(removal, blocks, where, w)
        gone = [where.taken[name][channel] for name, channels in removal.gone.items() for channel in channels]
        delta[torch.cat(gone)] = 0
        charged = [where.charged[name][channel] for name, channels in removal.gone.items() for channel in channels]
        moved = delta.clone()
        moved[torch.cat(charged)] = -w[torch.cat(charged)]
        predicted = predicted_change(self.gradients, moved, labeled=self.labeled)
        weights = unflatten(w + delta, self.net.movable)
        return pruned_of(self.net, groups, removal.gone, weights, {**self.diagnostics, "predicted_change": predicted})

    def _blocks(self, groups: list[Coupled], where: Coordinates) -> dict[str, Block]:
        moves, w = self.options.moves, flatten(self.net.movable).double()
        nothing = torch.zeros(0, dtype=torch.int64)
        if moves == "consumers":
            moving = {group.name: where.consumers(group) for group in groups}
        else:
            moving = dict.fromkeys((group.name for group in groups), where.everything(groups))
            moving = moving if moves == "all" else dict.fromkeys(moving, nothing)
        return blocks_of(self.columns, w, self._scaled, groups, where, moving)

    def _independent(self, removal: Removal, blocks: dict[str, Block], w: Tensor) -> Tensor:
        """Every channel by its own saliency, and the sum of their own updates."""
        scores = {name: block.scores().cpu() for name, block in blocks.items()}
        for _ in self._taken(removal, scores):
            pass
        delta = torch.zeros_like(w)
        for name, channels in removal.gone.items():
            for channel in channels:
                at, by = blocks[name].single_update(channel)
                delta[at] += by
        return delta

    def _joint(self, removal: Removal, blocks: dict[str, Block], where: Coordinates, w: Tensor) -> Tensor:
        """Greedy by set saliency, rescored after every channel, or in stages; then the update of the whole set."""
        scores = {name: block.scores().cpu() for name, block in blocks.items()}
        stages, stage = self.options.stages, 1
        for group, channel in self._taken(removal, scores):
            blocks[group].remove(channel)
            coordinates = where.taken[group][channel]
            for name, block in blocks.items():
                touched = block.drop(coordinates)
                if stages is None and (touched or name == group):
                    scores[name] = block.scores().cpu()
            if stages is not None and removal.share >= stage / stages * removal.target.sparsity and not removal.met:
                stage += 1
                scores.update({name: block.scores().cpu() for name, block in blocks.items()})  # the loop reads them
        delta = torch.zeros_like(w)
        for block in blocks.values():
            if not block.alive.all():
                at, by = block.update()
                delta[at] += by
        return delta

    def _taken(self, removal: Removal, scores: dict[str, Tensor]) -> Iterator[tuple[str, int]]:
        """The channels with the least saliency for what they save; on the host, a score that is gone is infinite."""

        def least(name: str) -> tuple[float, int]:
            return float(scores[name].min()), int(scores[name].argmin())

        for group, channel in removal.run(least, self.options.per):
            scores[group][channel] = torch.inf
            yield group, channel


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Fields that every WoodFisher on channels has.

    Args:
        damping: λ; a number is absolute [nats/weight²].
        update: `joint`, greedy by set saliency with the exact update of the set; `independent`, every channel by
            itself and the sum of the updates.
        moves: U, what the update may change: what is left of the layers that read the channels; nothing; or all.
        per: what a saliency is divided by: nothing (None), or the `params` or `macs` that the channel saves.
        stages: the channels go in this many batches, rescored in between; None is one at a time.
        rank: curvature is cut down to this many of its strongest directions; None keeps all that count.
    """

    damping: Damping = 1e-5
    update: Literal["independent", "joint"] = "joint"
    moves: Moves = "consumers"
    per: Literal["params", "macs"] | None = "macs"
    stages: int | None = None
    rank: int | None = None

    def __post_init__(self) -> None:
        check_damping(self.damping)
        if self.update not in ("independent", "joint"):
            raise WfbenchError(f'update "{self.update}" is unknown; use "independent" or "joint"')
        if self.moves not in ("consumers", "none", "all"):
            raise WfbenchError(f'moves "{self.moves}" is unknown; use "consumers", "none" or "all"')
        if self.per not in (None, "params", "macs"):
            raise WfbenchError(f'per "{self.per}" is unknown; use None, "params" or "macs"')
        if self.stages is not None and self.stages < 1:
            raise WfbenchError(f"stages={self.stages} must be at least 1, or None for one channel at a time")
        if self.rank is not None and self.rank < 1:
            raise WfbenchError(f"rank={self.rank} must be at least 1, or None for every direction")

    def _fitted(self, net: Network, found: Gradients, *, labeled: bool) -> Fitted:
        damping = absolute(self.damping, mean_diagonal(found))
        fitted = FittedWoodFisherFilter(net, found, damping, labeled, self)
        _ = fitted.columns, fitted.diagnostics  # the costly part belongs to `fit`
        return fitted


@dataclass(frozen=True, kw_only=True)
class WoodFisherFilter(_Options, Pruner[Labeled]):
    """WoodFisher on whole channels, empirical Fisher of labelled samples: greedy, exact update of what reads them."""

    name: ClassVar[str] = "woodfisher-filter"
    patterns: ClassVar[tuple[str, ...]] = ("filter",)
    order_invariant: ClassVar[bool] = True
    source: ClassVar[str] = "Singh & Alistarh 2020, empirical Fisher, for sets of coordinates"
    fidelity: ClassVar[str] = "equal to a dense float64 constrained minimum; not a published configuration"

    def fit(self, net: Network, data: Labeled) -> Fitted:
        return tuned_or(self, net, data, self._alone)

    def _alone(self, net: Network, data: Labeled) -> Fitted:
        return self._fitted(net, gradients(net, data, "empirical", over="movable"), labeled=True)


@dataclass(frozen=True, kw_only=True)
class WoodFisherFilterUnlabeled(_Options, Pruner[Unlabeled]):
    """The same without labels: labels drawn from the network's own predictions, or every class weighted."""

    name: ClassVar[str] = "woodfisher-filter-unlabeled"
    patterns: ClassVar[tuple[str, ...]] = ("filter",)
    source: ClassVar[str] = "Singh & Alistarh 2020, the Fisher itself, for sets of coordinates"
    fidelity: ClassVar[str] = WoodFisherFilter.fidelity
    fisher: Literal["sampled", "exact", "logits"] = "sampled"
    draws: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, draws=self.draws)

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return tuned_or(self, net, data, self._alone)

    def _alone(self, net: Network, data: Unlabeled) -> Fitted:
        probes = probes_of(net, data, "movable") if self.fisher == "logits" else None
        found = gradients(net, data, self.fisher, draws=self.draws, probes=probes, over="movable")
        return self._fitted(net, found, labeled=False)


@dataclass(frozen=True, kw_only=True)
class WoodFisherFilterExact(WoodFisherFilterUnlabeled):
    """The exact Fisher, a row for every class of every sample, cut down to rank 256; channels go in 16 stages."""

    name: ClassVar[str] = "woodfisher-filter-exact"
    order_invariant: ClassVar[bool] = True
    fisher: Literal["sampled", "exact", "logits"] = "exact"
    stages: int | None = 16
    rank: int | None = 256


@dataclass(frozen=True, kw_only=True)
class WoodFisherFilterLogits(WoodFisherFilterExact):
    """The same with a row for every centred logit of every sample, which a sure network does not make vanish."""

    name: ClassVar[str] = "woodfisher-filter-logits"
    source: ClassVar[str] = "Singh & Alistarh 2020, for sets of coordinates, on the Gauss-Newton matrix of the logits"
    fisher: Literal["sampled", "exact", "logits"] = "logits"
    damping: Damping = MEAN_DIAGONAL


@dataclass(frozen=True, kw_only=True)
class WoodFisherFilterIndependent(WoodFisherFilterUnlabeled):
    """Sampled Fisher; every channel by its own saliency, and the sum of their updates."""

    name: ClassVar[str] = "woodfisher-filter-independent"
    update: Literal["independent", "joint"] = "independent"


@dataclass(frozen=True, kw_only=True)
class WoodFisherFilterAll(WoodFisherFilterUnlabeled):
    """Sampled Fisher; the update may change every weight that stays, to show why it should not."""

    name: ClassVar[str] = "woodfisher-filter-all"
    moves: Moves = "all"
