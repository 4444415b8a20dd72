"""SparseGPT. Frantar & Alistarh 2023, "SparseGPT: massive language models can be accurately pruned in one shot",
algorithm 1.

Fidelity: blocks, damping and lazy updates as published, for convolutions too; columns without input keep their weights
until they are pruned. Their code's λ is 1 % of the mean diagonal, on thousands of rows; from few samples 1 keeps more
(docs/defaults.md). No published figure reproduced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
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
    source: ClassVar[str] = "Frantar & Alistarh 2023, algorithm 1"
    fidelity: ClassVar[str] = "equal to a dense column-by-column oracle; no published figure reproduced"
    order_invariant: ClassVar[bool] = True
    damping: float = 1.0
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
            block = self.block
            if isinstance(target.pattern, NM) and target.sparsity > 0:
                choose, block = target.pattern.mask, target.pattern.m
            parts = [sweep(w, h, block, choose) for w, h in zip(matrices, hessians, strict=True)]
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
    weights: Float[Tensor, "rows d"], hessian: Float[Tensor, "d d"], block: int, choose: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "rows d"], Bool[Tensor, "rows d"]]:
    """The pruned matrix and its mask. `U`, the upper Cholesky factor of `H⁻¹`, holds every downdated inverse's row."""
    upper = torch.linalg.cholesky(inverse(hessian), upper=True)
    w, mask = weights.clone(), torch.ones_like(weights, dtype=torch.bool)
    for start in range(0, w.shape[1], block):
        stop = min(start + block, w.shape[1])
        pivots = upper.diagonal()[start:stop]
        scores = (w[:, start:stop] / pivots).square()
        mask[:, start:stop] = choose(scores)
        errors = torch.zeros_like(w[:, start:stop])
        for i in range(start, stop):
            errors[:, i - start] = torch.where(mask[:, i], 0, w[:, i]) / upper[i, i]
            w[:, i:stop] -= errors[:, i - start, None] * upper[i, i:stop]
        w[:, stop:] -= errors @ upper[start:stop, stop:]
    return torch.where(mask, w, 0), mask
