"""The WoodFisher family: curvature rows, Woodbury inverse, optimal brain surgeon."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from wfbench.curvature.gram import gram
from wfbench.curvature.inverse import WoodburyInverse
from wfbench.curvature.rows import Gradients, gradients
from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError
from wfbench.network import Network, flatten, unflatten
from wfbench.obs import independent_update, joint_update, joint_update_and_rescore, saliency
from wfbench.pruner import Fitted, Pruned, Pruner
from wfbench.sparsity import Scope, Target, keep_largest

BlockSize: TypeAlias = int | Literal["layer"] | None
Update: TypeAlias = Literal["independent", "joint"]
STAGES = 32


def layer_blocks(net: Network, block_size: BlockSize) -> list[int] | None:
    """Block widths over the prunable weights that never straddle two layers; None for the full matrix."""
    if block_size is None:
        return None
    widths: list[int] = []
    for weight in net.weights.values():
        size = weight.numel()
        width = size if block_size == "layer" else block_size
        if width < 1:
            raise WfbenchError(f"block_size {block_size} is not a width; give at least 1, 'layer' or None")
        widths += [width] * (size // width) + [size % width] * (size % width > 0)
    return widths


@dataclass(frozen=True)
class FittedWoodFisher:
    """Gradients of the dense network, ready for any target."""

    net: Network
    gradients: Gradients
    damping: float
    widths: list[int] | None
    update: Update
    stages: int

    def inverse(self, mask: Tensor | None = None, gram: Tensor | None = None) -> WoodburyInverse:
        """`(GᵀG + λ·count)⁻¹` over the kept weights: `A⁻¹/count`, because the gradients G are unscaled."""
        return WoodburyInverse(
            self.gradients.rows, self.damping * self.gradients.count, self.widths, kept=mask, gram=gram
        )

    @cached_property
    def _dense(self) -> tuple[WoodburyInverse, Tensor]:
        k, p = self.gradients.rows.shape
        inverse = self.inverse(gram=self.gradients.gram if self.widths is None and k <= p else None)
        return inverse, inverse.diagonal()

    @property
    def leverage(self) -> float:
        """`tr(FA⁻¹)/p`: the share of the coordinates that the rows determine."""
        inverse, diagonal = self._dense
        return float((1 - inverse.damping * diagonal).mean())

    def prune(self, target: Target) -> Pruned:
        if target.sparsity == 0:
            everything = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.net.weights.items()}
            return Pruned.of(self.net, self.net.weights, everything, {"mean_leverage": self.leverage})
        dense = flatten(self.net.weights).double()
        w, mask, (inverse, diagonal) = dense, None, self._dense
        known = self.gradients.gram if self.widths is None and self.gradients.rows.shape[0] <= len(w) else None
        for stage in range(1, self.stages + 1):
            scores = saliency(w, diagonal * self.gradients.count)
            scores = scores if mask is None else torch.where(mask, scores, -torch.inf)
            partial = Target(target.sparsity * stage / self.stages, target.pattern, target.scope, target.of)
            kept = flatten(keep_largest(unflatten(scores, self.net.weights), partial))
            last = stage == self.stages
            if self.update == "independent":
                w = independent_update(inverse, diagonal, w, kept)
            if not last or self.update == "joint":
                gone = ~kept if mask is None else mask & ~kept
                known = None if known is None else known - gram(self.gradients.rows, gone)
                inverse = self.inverse(kept, known)
            if self.update == "joint" and last:
                w = joint_update(inverse, dense)
            elif self.update == "joint":
                w, diagonal = joint_update_and_rescore(inverse, dense)
            elif not last:
                diagonal = inverse.diagonal()
            mask = kept
        assert mask is not None
        like = self.net.weights
        return Pruned.of(self.net, unflatten(w, like), unflatten(mask, like), {"mean_leverage": self.leverage})


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Fields that every WoodFisher has.

    Args:
        damping: λ, absolute [nats/weight²].
        block_size: width of the diagonal blocks, which never straddle two layers; `"layer"`; None, the full matrix.
        update: `independent`, the sum of single-weight updates (the paper); `joint`, the exact set update.
        stages: the weights go in this many batches, rescored in between; None is 1 for the independent update (the
            paper's one shot) and 32 for the joint one.
    """

    damping: float = 1e-5
    block_size: BlockSize = 2000
    update: Update = "independent"
    stages: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.damping < float("inf"):
            raise WfbenchError(f"damping {self.damping} must be positive and finite")
        if self.update not in ("independent", "joint"):
            raise WfbenchError(f'update "{self.update}" is unknown; use "independent" or "joint"')
        if self.stages is not None and self.stages < 1:
            raise WfbenchError(f"stages={self.stages} must be at least 1, or None for the default")

    def _fitted(self, net: Network, found: Gradients) -> Fitted:
        stages = self.stages or (1 if self.update == "independent" else STAGES)
        widths = layer_blocks(net, self.block_size)
        fitted = FittedWoodFisher(net, found, self.damping, widths, self.update, stages)
        _ = fitted._dense  # the costly part belongs to `fit`
        return fitted


@dataclass(frozen=True, kw_only=True)
class WoodFisher(_Options, Pruner[Labeled]):
    """WoodFisher on labelled samples: empirical Fisher of single samples, or of mini-batches of `batch`."""

    name: ClassVar[str] = "woodfisher"
    source: ClassVar[str] = "Singh & Alistarh 2020, eq. 2-5, 10-11"
    fidelity: ClassVar[str] = "equal to the paper's recursion in float64; no published figure reproduced"
    fisher: Literal["empirical"] = "empirical"
    batch: int = 1

    def fit(self, net: Network, data: Labeled) -> Fitted:
        return self._fitted(net, gradients(net, data, self.fisher, batch=self.batch))


@dataclass(frozen=True, kw_only=True)
class WoodFisherUnlabeled(_Options, Pruner[Unlabeled]):
    """WoodFisher without labels: the Fisher of the network's own predictions, sampled `draws` times or exact."""

    name: ClassVar[str] = "woodfisher-unlabeled"
    source: ClassVar[str] = "Singh & Alistarh 2020, eq. 1, with labels drawn from the model"
    fidelity: ClassVar[str] = "equal to a dense float64 inverse; not a published configuration"
    fisher: Literal["sampled", "exact"] = "sampled"
    draws: int = 1

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return self._fitted(net, gradients(net, data, self.fisher, draws=self.draws))


@dataclass(frozen=True, kw_only=True)
class WoodFisherLayer(WoodFisher):
    """Every layer brought to the target sparsity (the paper's independent layer thresholds)."""

    name: ClassVar[str] = "woodfisher-layer"
    scope: ClassVar[Scope] = "layer"


@dataclass(frozen=True, kw_only=True)
class WoodFisherMiniBatch(WoodFisher):
    """Mean gradients of pairs (the paper's `fisher_mini_bsz`): half the rows for the same samples."""

    name: ClassVar[str] = "woodfisher-minibatch"
    batch: int = 2


@dataclass(frozen=True, kw_only=True)
class WoodFisherJoint(WoodFisher):
    """Exact set update, weights removed in 32 stages."""

    name: ClassVar[str] = "woodfisher-joint"
    update: Update = "joint"


@dataclass(frozen=True, kw_only=True)
class WoodFisherFullJoint(WoodFisher):
    """The full matrix, exact set update in 32 stages."""

    name: ClassVar[str] = "woodfisher-full-joint"
    block_size: BlockSize = None
    update: Update = "joint"


@dataclass(frozen=True, kw_only=True)
class WoodFisherUnlabeledJoint(WoodFisherUnlabeled):
    """Without labels: one sampled label a sample, exact set update in 32 stages."""

    name: ClassVar[str] = "woodfisher-unlabeled-joint"
    update: Update = "joint"


@dataclass(frozen=True, kw_only=True)
class WoodFisherExact(WoodFisherUnlabeled):
    """Without labels: the exact Fisher, a row for every class of every sample."""

    name: ClassVar[str] = "woodfisher-exact"
    fisher: Literal["sampled", "exact"] = "exact"
