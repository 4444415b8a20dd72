"""The WoodFisher family: curvature rows, Woodbury inverse, optimal brain surgeon."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from wfbench.crossvalidation import cross_validated
from wfbench.curvature.diagnostics import mean_diagonal, predicted_change, row_diagnostics
from wfbench.curvature.gram import gram
from wfbench.curvature.inverse import WoodburyInverse
from wfbench.curvature.rows import Gradients, gradients
from wfbench.damping import CrossValidated, Damping, Relative, check_damping
from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError
from wfbench.network import Network, Params, flatten, unflatten
from wfbench.obs import independent_update, joint_update, joint_update_and_rescore, saliency
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner
from wfbench.sparsity import Scope, Target, Unstructured, keep_largest

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
    """Gradients of the dense network on the samples, ready for any target."""

    net: Network
    data: Labeled | Unlabeled
    gradients: Gradients
    damping: float
    widths: list[int] | None
    update_kind: Update
    stages: int
    back_off: bool
    first_order: bool
    flops_power: float

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

    @cached_property
    def diagnostics(self) -> dict[str, float]:
        """Of the dense network's curvature; mean leverage is `tr(FA⁻¹)/p`, the share that the rows determine."""
        inverse, diagonal = self._dense
        leverage = float((1 - inverse.damping * diagonal).mean())
        return {"mean_leverage": leverage, **row_diagnostics(self.gradients, self.damping)}

    @cached_property
    def start(self) -> Tensor:
        """Where removal starts from, flat float64: the dense weights, or with the first-order term `w − A⁻¹g`.

        `gᵀδ + ½δᵀAδ` is, up to a constant, `½εᵀAε` with `δ = ε − A⁻¹g`: the same problem from a shifted start.
        """
        dense = flatten(self.net.weights).double()
        if not self.first_order:
            return dense
        gradient = -self.gradients.rows.double().mean(0)  # rows are gradients of log p
        return dense - self.gradients.count * self._dense[0].solve(gradient)

    def prune(self, target: Target) -> Pruned:
        if target.sparsity == 0:
            everything = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.net.weights.items()}
            return Pruned.of(self.net, self.net.weights, everything, self.diagnostics)
        w, kept = self._removed(target)
        found = dict(self.diagnostics)
        if self.back_off:
            w, found["step"] = self._backed_off(w, kept)
        delta, labeled = w - flatten(self.net.weights).double(), isinstance(self.data, Labeled)
        found["predicted_change"] = predicted_change(self.gradients, delta, labeled=labeled)
        return Pruned.of(self.net, unflatten(w, self.net.weights), unflatten(kept, self.net.weights), found)

    def update(self, mask: Params) -> Params:
        """The method's update in one step, for any mask."""
        kept, dense = flatten(mask), self.start
        inverse, diagonal = self._dense
        if self.update_kind == "joint":
            w = joint_update(self.inverse(kept), dense)
        else:
            w = independent_update(inverse, diagonal, dense, kept)
        return unflatten(w, self.net.weights)

    @property
    def _price(self) -> Tensor | float:
        """What each saliency is divided by, flat: the weight's multiply-accumulates to the power β; 1 at β = 0."""
        if self.flops_power == 0:
            return 1.0
        weights, places = self.net.weights, self.net.places(self.data.inputs[:1])
        each = {name: torch.full_like(w, max(1, places[name]), dtype=torch.float64) for name, w in weights.items()}
        return flatten(each) ** self.flops_power

    def _removed(self, target: Target) -> tuple[Tensor, Tensor]:
        """Weights and mask, flat, after all stages of removal; a pattern of groups is made in one stage."""
        dense = self.start
        w, mask, (inverse, diagonal), price = dense, None, self._dense, self._price
        known = self.gradients.gram if self.widths is None and self.gradients.rows.shape[0] <= len(w) else None
        stages = self.stages if isinstance(target.pattern, Unstructured) else 1
        for stage in range(1, stages + 1):
            scores = saliency(w, diagonal * self.gradients.count) / price
            scores = scores if mask is None else torch.where(mask, scores, -torch.inf)
            partial = replace(target, sparsity=target.sparsity * stage / stages)
            kept = flatten(keep_largest(unflatten(scores, self.net.weights), partial))
            last = stage == stages
            if self.update_kind == "independent":
                w = independent_update(inverse, diagonal, w, kept)
            if not last or self.update_kind == "joint":
                gone = ~kept if mask is None else mask & ~kept
                known = None if known is None else known - gram(self.gradients.rows, gone)
                inverse = self.inverse(kept, known)
            if self.update_kind == "joint" and last:
                w = joint_update(inverse, dense)
            elif self.update_kind == "joint":
                w, diagonal = joint_update_and_rescore(inverse, dense)
            elif not last:
                diagonal = inverse.diagonal()
            mask = kept
        assert mask is not None
        return w, mask

    def _backed_off(self, w: Tensor, kept: Tensor) -> tuple[Tensor, float]:
        """The first of 1, 1/2, …, 1/32 of the update that costs no more on the samples than no update; else none."""
        start = torch.where(kept, flatten(self.net.weights).double(), 0)
        limit = self._change(start)
        for halving in range(6):
            step = 0.5**halving
            if self._change(candidate := start + step * (w - start)) <= limit:
                return candidate, step
        return start, 0.0

    def _change(self, w: Tensor) -> float:
        weights = {name: part.to(self.net.dtype) for name, part in unflatten(w, self.net.weights).items()}
        return self.net.change(weights, self.data)


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Fields that every WoodFisher has.

    Args:
        damping: λ; a number is absolute [nats/weight²].
        block_size: width of the diagonal blocks, which never straddle two layers; `"layer"`; None, the full matrix.
        update: `independent`, the sum of single-weight updates (the paper); `joint`, the exact set update.
        stages: the weights go in this many batches, rescored in between; None is 1 for the independent update (the
            paper's one shot) and 32 for the joint one.
        back_off: the update is halved until it costs no more on the samples than leaving the kept weights alone.
        flops_power: β of the paper's FLOPs-aware saliency, which is divided by the weight's multiply-accumulates to
            this power; 0 leaves it as it is.
    """

    damping: Damping = 1e-5
    block_size: BlockSize = 2000
    update: Update = "independent"
    stages: int | None = None
    back_off: bool = False
    flops_power: float = 0.0

    def __post_init__(self) -> None:
        check_damping(self.damping)
        if self.update not in ("independent", "joint"):
            raise WfbenchError(f'update "{self.update}" is unknown; use "independent" or "joint"')
        if self.stages is not None and self.stages < 1:
            raise WfbenchError(f"stages={self.stages} must be at least 1, or None for the default")

        if not 0 <= self.flops_power < float("inf"):
            raise WfbenchError(f"flops_power={self.flops_power} must be a number of at least 0")

    def _fitted(self, net: Network, data: Labeled | Unlabeled, found: Gradients) -> Fitted:
        stages = self.stages or (1 if self.update == "independent" else STAGES)
        assert not isinstance(self.damping, CrossValidated)
        damping = self.damping
        if isinstance(damping, Relative):
            damping = damping.share * mean_diagonal(found)
            if damping == 0:
                raise WfbenchError("all gradients vanish, so no damping is relative to them; give it as a number")
        widths = layer_blocks(net, self.block_size)
        first = isinstance(self, WoodFisher) and self.first_order
        fitted = FittedWoodFisher(
            net, data, found, damping, widths, self.update, stages, self.back_off, first, self.flops_power
        )
        _ = fitted.diagnostics, fitted.start  # the costly part belongs to `fit`
        return fitted


@dataclass(frozen=True, kw_only=True)
class WoodFisher(_Options, Pruner[Labeled]):
    """WoodFisher on labelled samples: empirical Fisher of single samples, or of mini-batches of `batch`.

    Args:
        first_order: the gradient of the loss belongs to the objective (WoodTaylor).
    """

    name: ClassVar[str] = "woodfisher"
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    order_invariant: ClassVar[bool] = True
    updates: ClassVar[bool] = True
    source: ClassVar[str] = "Singh & Alistarh 2020, eq. 2-5, 10-11"
    fidelity: ClassVar[str] = "equal to the paper's recursion in float64; no published figure reproduced"
    fisher: Literal["empirical"] = "empirical"
    batch: int = 1
    first_order: bool = False

    def fit(self, net: Network, data: Labeled) -> Fitted:
        if isinstance(self.damping, CrossValidated):
            return cross_validated(self, self.damping, net, data)
        return self._fitted(net, data, gradients(net, data, self.fisher, batch=self.batch))


@dataclass(frozen=True, kw_only=True)
class WoodFisherUnlabeled(_Options, Pruner[Unlabeled]):
    """WoodFisher without labels: the Fisher of the network's own predictions, sampled `draws` times or exact."""

    name: ClassVar[str] = "woodfisher-unlabeled"
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    updates: ClassVar[bool] = True
    source: ClassVar[str] = "Singh & Alistarh 2020, eq. 1, with labels drawn from the model"
    fidelity: ClassVar[str] = "equal to a dense float64 inverse; not a published configuration"
    fisher: Literal["sampled", "exact", "logits"] = "sampled"
    draws: int = 1

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        if isinstance(self.damping, CrossValidated):
            return cross_validated(self, self.damping, net, data)
        return self._fitted(net, data, gradients(net, data, self.fisher, draws=self.draws))


@dataclass(frozen=True, kw_only=True)
class WoodFisherLayer(WoodFisher):
    """Every layer brought to the target sparsity (the paper's independent layer thresholds)."""

    name: ClassVar[str] = "woodfisher-layer"
    scope: ClassVar[Scope] = "layer"


@dataclass(frozen=True, kw_only=True)
class WoodFisherMiniBatch(WoodFisher):
    """Mean gradients of pairs (the paper's `fisher_mini_bsz`): half the rows for the same samples."""

    name: ClassVar[str] = "woodfisher-minibatch"
    order_invariant: ClassVar[bool] = False
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
    order_invariant: ClassVar[bool] = True
    fisher: Literal["sampled", "exact", "logits"] = "exact"


@dataclass(frozen=True, kw_only=True)
class WoodTaylor(WoodFisher):
    """WoodFisher with the first-order term: the gradient of the loss on the samples belongs to the objective."""

    name: ClassVar[str] = "woodtaylor"
    source: ClassVar[str] = "Singh & Alistarh 2020, WoodTaylor"
    fidelity: ClassVar[str] = "equal to a dense float64 constrained minimum; no published figure reproduced"
    first_order: bool = True


@dataclass(frozen=True, kw_only=True)
class WoodTaylorJoint(WoodTaylor):
    """WoodTaylor with the exact set update, weights removed in 32 stages."""

    name: ClassVar[str] = "woodtaylor-joint"
    update: Update = "joint"
