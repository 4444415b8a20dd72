"""The optimal brain surgeon on curvature rows: saliencies and updates, and a network fitted and ready for any target.

Hassibi & Stork 1993 for one weight, `w_q²/(2[A⁻¹]_qq)` and `−A⁻¹e_q w_q/[A⁻¹]_qq`; Singh & Alistarh 2020 for their sum
over the removed ones. Vectors are flat and float64.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wfbench.curvature.diagnostics import predicted_change, row_diagnostics
from wfbench.curvature.gram import gram
from wfbench.curvature.inverse import WoodburyInverse
from wfbench.curvature.memory import over_columns
from wfbench.curvature.rows import Gradients
from wfbench.data import Labeled, Unlabeled
from wfbench.network import Network, Params, flatten, unflatten
from wfbench.pruned import Pruned
from wfbench.sparsity import Target, keep_largest

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
        widths += [width] * (size // width) + [size % width] * (size % width > 0)
    return widths


def saliency(w: Float[Tensor, " p"], diagonal: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """Predicted loss increase of removing each weight alone, `w²/(2[A⁻¹]_qq)`, nats."""
    return w.square() / (2 * diagonal)


def independent_update(
    inverse: WoodburyInverse, diagonal: Float[Tensor, " p"], w: Float[Tensor, " p"], mask: Bool[Tensor, " p"]
) -> Float[Tensor, " p"]:
    """The weights after the sum over removed q of the updates `−A⁻¹e_q w_q/[A⁻¹]_qq`, then the mask."""
    pulled = torch.where(mask, 0, w / diagonal)
    return torch.where(mask, w - inverse.solve(pulled), 0)


def joint_update(inverse: WoodburyInverse, w: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """The weights after the exact set update `w_K += A_KK⁻¹A_KQ w_Q`, for the inverse's own `kept` K."""
    return _moved(inverse, w, inverse.compensate(w))


def joint_update_and_rescore(
    inverse: WoodburyInverse, w: Float[Tensor, " p"]
) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """`joint_update` and `diag(A_KK⁻¹)`, from one factorisation."""
    moved, diagonal = inverse.compensate_and_rescore(w)
    return _moved(inverse, w, moved), diagonal


def _moved(inverse: WoodburyInverse, w: Float[Tensor, " p"], by: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    return w + by if inverse.kept is None else torch.where(inverse.kept, w + by, 0)


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
        gradient = -over_columns(self.gradients.rows, lambda rows: rows.double().mean(0))  # rows are gradients of log p
        return dense - self.gradients.count * self._dense[0].solve(gradient)

    def prune(self, target: Target) -> Pruned:
        if target.sparsity == 0:
            return replace(Pruned.dense(self.net), diagnostics=self.diagnostics)
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

    @cached_property
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
        stages = self.stages if target.pattern.in_stages else 1
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
