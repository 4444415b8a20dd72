"""SparseGPT. Frantar & Alistarh 2023, "SparseGPT: massive language models can be accurately pruned in one shot".

Fidelity: blocks, damping and lazy updates as published, for convolutions too. The authors' code differs in three ways.
It zeroes the weights of inputs that never fire beforehand, whatever the target, and gives them a diagonal of 1, which
enters the damping's mean; here the damping alone is their diagonal: they go early at next to no cost, and count.
Every block loses one weight more than its share there; here the shares add up to the target. For N:M it takes columns
as they are stored; here the input channels at one place of the kernel. No published figure reproduced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wfbench import NM, Fitted, Network, Pruned, Pruner, Target, Unlabeled
from wfbench.toolbox import Scope, at_least, check_damping, damped, inverse, keep_all_but, one_by_one, only_layer_scope


@dataclass(frozen=True)
class SparseGPT(Pruner[Unlabeled]):
    """Column by column in blocks, the rest of each row making up for what goes; layer after layer.

    Args:
        damping: added to the diagonal of `XXᵀ/m`, as a share of its mean.
        block: columns that share one choice of mask.
    """

    name: ClassVar[str] = "sparsegpt"
    scope: ClassVar[Scope] = "layer"
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    source: ClassVar[str] = "Frantar & Alistarh 2023, SparseGPT"
    fidelity: ClassVar[str] = (
        "equal to a dense column-by-column oracle; inputs that never fire are not zeroed beforehand, unlike in the "
        "authors' code; no published figure reproduced"
    )
    order_invariant: ClassVar[bool] = True
    damping: float = 0.01
    block: int = 128

    def __post_init__(self) -> None:
        check_damping(self.damping)
        at_least(1, block=self.block)

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return FittedSparseGPT(net, data.inputs, self.damping, self.block)


@dataclass(frozen=True)
class FittedSparseGPT:
    """Nothing is computed beforehand: each layer sees what the pruned ones before it give."""

    net: Network
    inputs: Tensor
    damping: float
    block: int

    def prune(self, target: Target) -> Pruned:
        only_layer_scope("sparsegpt", target)

        def change(name: str, matrices: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
            hessians, choose = damped(moment, self.damping), Quota(matrices.numel(), target).mask
            blocks: Sequence[Tensor] = torch.arange(matrices.shape[2]).split(self.block)
            if isinstance(target.pattern, NM) and target.sparsity > 0:
                choose, blocks = target.pattern.mask, target.pattern.columns(self.net.weights[name].shape)
            parts = [sweep(w, h, blocks, choose) for w, h in zip(matrices, hessians, strict=True)]
            return torch.stack([weights for weights, _ in parts]), torch.stack([mask for _, mask in parts])

        return Pruned.of(self.net, *one_by_one(self.net, self.inputs, change))


class Quota:
    """Shares out the weights a layer has to lose over its blocks, so that the sum is the target's."""

    def __init__(self, size: int, target: Target) -> None:
        self._size, self._removed, self._seen, self._given = size, target.removed(size), 0, 0

    def take(self, weights: int) -> int:
        """How many of the next `weights` go."""
        self._seen += weights
        share = self._removed * self._seen // self._size - self._given
        self._given += share
        return share

    def mask(self, scores: Tensor) -> Tensor:
        """True = kept, for the next block of scores."""
        return keep_all_but(self.take(scores.numel()), scores)


def sweep(
    weights: Float[Tensor, "rows d"],
    hessian: Float[Tensor, "d d"],
    blocks: Sequence[Int[Tensor, " k"]],
    choose: Callable[[Tensor], Tensor],
) -> tuple[Float[Tensor, "rows d"], Bool[Tensor, "rows d"]]:
    """The pruned matrix and its mask. `U`, the upper Cholesky factor of `H⁻¹`, holds every downdated inverse's row.

    Args:
        blocks: the columns in the order in which they are visited, those together that share one choice of mask.
    """
    order = torch.cat(list(blocks)).to(weights.device)
    upper = torch.linalg.cholesky(inverse(hessian[order][:, order]), upper=True)
    w, mask, stop = weights[:, order], torch.ones_like(weights, dtype=torch.bool), 0
    for block in blocks:
        start, stop = stop, stop + len(block)
        pivots = upper.diagonal()[start:stop]
        scores = (w[:, start:stop] / pivots).square()
        mask[:, start:stop] = choose(scores)
        errors = torch.zeros_like(w[:, start:stop])
        for i in range(start, stop):
            errors[:, i - start] = torch.where(mask[:, i], 0, w[:, i]) / upper[i, i]
            w[:, i:stop] -= errors[:, i - start, None] * upper[i, i:stop]
        w[:, stop:] -= errors @ upper[start:stop, stop:]
    back = order.argsort()
    return torch.where(mask, w, 0)[:, back], mask[:, back]
