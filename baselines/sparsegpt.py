"""SparseGPT. Frantar & Alistarh 2023, "SparseGPT: massive language models can be accurately pruned in one shot".

Fidelity: blocks, damping and lazy updates as published, for convolutions too. The authors' code differs in three ways.
It zeroes the weights of inputs that never fire beforehand, whatever the target, and gives them a diagonal of 1, which
enters the damping's mean; here the damping alone is their diagonal: they go early at next to no cost, and count.
Every block loses one weight more than its share there; here the shares add up to the target. For N:M it takes columns
as they are stored; here the input channels at one place of the kernel. Their λ is 1 % of the mean diagonal, on
thousands of rows; from few samples more may keep more (docs/defaults.md). No published figure reproduced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wfbench import NM, Fitted, Network, Pruned, Pruner, Target, Unlabeled
from wfbench.toolbox import Scope, at_least, check_damping, damped, inverse, keep_all_but, one_by_one, only_layer_scope

Choose: TypeAlias = Callable[[Tensor, int, int], Tensor]


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
            blocks: Sequence[Tensor] = torch.arange(matrices.shape[2]).split(self.block)
            choose = quotas(matrices, target)
            if isinstance(target.pattern, NM) and target.sparsity > 0:
                blocks, choose = target.pattern.columns(self.net.weights[name].shape), each(target.pattern)
            return sweep(matrices, damped(moment, self.damping), blocks, choose)

        return Pruned.of(self.net, *one_by_one(self.net, self.inputs, change))


def quotas(matrices: Float[Tensor, "g rows d"], target: Target) -> Choose:
    """The lowest scores of every group's block go, so many that the layer meets the target, group after group."""
    _, rows, d = matrices.shape
    removed = target.removed(matrices.numel())

    def before(weights: int) -> int:
        return removed * weights // matrices.numel()

    def choose(scores: Tensor, start: int, stop: int) -> Tensor:
        ends = [(rows * (group * d + start), rows * (group * d + stop)) for group in range(len(scores))]
        counts = [before(end) - before(begin) for begin, end in ends]
        return torch.stack([keep_all_but(count, of) for count, of in zip(counts, scores, strict=True)])

    return choose


def each(pattern: NM) -> Choose:
    """The pattern's own choice in every block, which is one of its groups."""
    return lambda scores, start, stop: torch.stack([pattern.mask(of) for of in scores])


def sweep(
    weights: Float[Tensor, "g rows d"],
    hessians: Float[Tensor, "g d d"],
    blocks: Sequence[Int[Tensor, " k"]],
    choose: Choose,
) -> tuple[Float[Tensor, "g rows d"], Bool[Tensor, "g rows d"]]:
    """The pruned matrices and their masks; `U`, the upper Cholesky factor of `H⁻¹`, has a row of every downdated one.

    Args:
        blocks: the columns in the order in which they are visited, those together that share one choice of mask.
        choose: from a block's scores `[g rows k]`, and where it starts and stops in that order, to its masks.
    """
    order = torch.cat(list(blocks)).to(weights.device)
    upper = torch.linalg.cholesky(inverse(hessians[:, order[:, None], order]), upper=True)
    w, mask, stop = weights[..., order], torch.ones_like(weights, dtype=torch.bool), 0
    for block in blocks:
        start, stop = stop, stop + len(block)
        pivots = upper.diagonal(dim1=1, dim2=2)[:, None, start:stop]
        scores = (w[..., start:stop] / pivots).square()
        mask[..., start:stop] = choose(scores, start, stop)
        errors = torch.zeros_like(w[..., start:stop])
        for i in range(start, stop):
            error = torch.where(mask[..., i], 0, w[..., i]) / upper[:, None, i, i]
            errors[..., i - start] = error
            w[..., i:stop].sub_(error[..., None] * upper[:, None, i, i:stop])  # x -= y would copy x onto itself
        w[..., stop:].sub_(errors @ upper[:, start:stop, stop:])
    back = order.argsort()
    return torch.where(mask, w, 0)[..., back], mask[..., back]
