"""Wanda. Sun et al. 2023, "A simple and effective pruning approach for large language models".

Fidelity: score and comparison group (an output row) as published, a filter being a row. The authors' code rounds the
share of a row down; here the first rows lose one weight more, so that the layer meets the target. Its N:M groups are of
linear layers. No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wfbench import Fitted, Network, Pruned, Pruner, Target, Unlabeled
from wfbench.toolbox import Scope, as_matrices, from_matrices, mean_squares, one_by_one, only_layer_scope


@dataclass(frozen=True)
class Wanda(Pruner[Unlabeled]):
    """`|w_ij| ‖X_j‖₂`, compared within each output row, layer after layer; no update."""

    name: ClassVar[str] = "wanda"
    scope: ClassVar[Scope] = "layer"
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    source: ClassVar[str] = "Sun et al. 2023, Wanda"
    fidelity: ClassVar[str] = "equal to the paper's formula; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return FittedWanda(net, data.inputs)


@dataclass(frozen=True)
class FittedWanda:
    """Nothing is computed beforehand: each layer sees what the pruned ones before it give."""

    net: Network
    inputs: Tensor

    def prune(self, target: Target) -> Pruned:
        only_layer_scope("wanda", target)

        def change(name: str, matrices: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
            scores = (matrices.abs() * squares.sqrt()[:, None]).flatten(0, 1)
            in_shape = from_matrices(self.net.layer_of(name), scores.reshape(matrices.shape))
            if (dictated := target.pattern.dictated(in_shape, target)) is not None:
                return matrices, as_matrices(self.net.layer_of(name), dictated)
            each, over = divmod(target.removed(scores.numel()), len(scores))  # the first rows lose one more
            row, rank = (torch.arange(size, device=scores.device) for size in scores.shape)
            stays = rank >= (each + (row < over))[:, None]
            order = scores.argsort(dim=1, stable=True)  # of equal scores the later coordinate stays
            return matrices, torch.empty_like(stays).scatter_(1, order, stays).reshape(matrices.shape)

        return Pruned.of(self.net, *one_by_one(self.net, self.inputs, change, mean_squares))
