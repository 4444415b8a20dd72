"""L-OBS. Dong, Chen & Pan 2017, "Learning to prune deep neural networks via layer-wise optimal brain surgeon".

Fidelity: saliency and update equal a dense float64 inverse of the layer's Hessian; no published figure reproduced. As
in the authors' code the inverse is computed once and not downdated, and a row's weights go one after another, by rising
saliency, each by the value that it then has. There the bias is one more input, pruned and updated as a weight is; here
it stays as it is. The damping, 1 % of the mean diagonal, is our choice.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wfbench import Fitted, Network, Pruned, Pruner, Target, Unlabeled
from wfbench.toolbox import (
    Scope,
    alike,
    as_matrices,
    check_damping,
    damped,
    from_matrices,
    inverse,
    keep_largest,
    second_moments,
)


@dataclass(frozen=True)
class FittedLOBS:
    """`(XXᵀ/m + αI)⁻¹` of every layer, and what its saliencies are divided by."""

    net: Network
    inverses: dict[str, Tensor]
    divisors: dict[str, float]

    def prune(self, target: Target) -> Pruned:
        saliencies, scores = {}, {}
        for name, weight in self.net.weights.items():
            matrices = as_matrices(self.net.layer_of(name), weight).double()
            saliencies[name] = matrices.square() / self.inverses[name].diagonal(dim1=1, dim2=2)[:, None] / 2
            scores[name] = from_matrices(self.net.layer_of(name), saliencies[name] / self.divisors[name])
        mask, weights = keep_largest(scores, target), {}
        for name, weight in self.net.weights.items():
            layer = self.net.layer_of(name)
            matrices, gone = as_matrices(layer, weight).double(), ~as_matrices(layer, mask[name])
            groups = zip(matrices, self.inverses[name], saliencies[name], gone, strict=True)
            weights[name] = from_matrices(layer, torch.stack([in_turn(*group) for group in groups]))
        return Pruned.of(self.net, weights, mask)


def in_turn(
    weights: Float[Tensor, "rows d"],
    inverse: Float[Tensor, "d d"],
    saliencies: Float[Tensor, "rows d"],
    gone: Bool[Tensor, "rows d"],
) -> Float[Tensor, "rows d"]:
    """Every row after its removals one by one, by rising saliency: `w ← w − w_q/[H⁻¹]_qq H⁻¹e_q` for each.

    The multiples c of the columns of `H⁻¹` solve a triangular system, `tril([H⁻¹]_QQ) c = w_Q` in the order of removal.
    What a later removal puts back on a weight that is gone is dropped at the end.
    """
    updated = weights.clone()
    order = saliencies.masked_fill(~gone, torch.inf).argsort(dim=1, stable=True)
    for these, at, inside in alike(order, gone.sum(1)):
        lower = inverse[at[:, :, None], at[:, None]]  # its upper half is not read
        right = weights[these].gather(1, at)[..., None]
        multiples = torch.linalg.solve_triangular(lower, right, upper=False)[..., 0].where(inside, 0)
        updated[these] -= torch.zeros_like(weights[these]).scatter_(1, at, multiples) @ inverse
    return updated.where(~gone, 0)


@dataclass(frozen=True)
class LOBS(Pruner[Unlabeled]):
    """Optimal brain surgeon on each layer's squared output error, every layer to the target.

    Args:
        damping: α as a share of the mean diagonal of `XXᵀ/m`; a layer of few samples has a singular one.
    """

    name: ClassVar[str] = "lobs"
    scope: ClassVar[Scope] = "layer"
    source: ClassVar[str] = "Dong et al. 2017, L-OBS"
    fidelity: ClassVar[str] = "equal to a dense float64 inverse; no published figure reproduced"
    order_invariant: ClassVar[bool] = True
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    damping: float = 0.01

    def __post_init__(self) -> None:
        check_damping(self.damping)

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        moments = second_moments(net, data.inputs)
        inverses = {}
        for name, moment in moments.items():
            inverses[name] = inverse(damped(moment, self.damping))
        return FittedLOBS(net, inverses, {name: self.divisor(net, name, moments[name]) for name in moments})

    def divisor(self, net: Network, name: str, moment: Tensor) -> float:
        """What the layer's saliencies are divided by before they are compared."""
        return 1.0


@dataclass(frozen=True)
class LOBSGlobal(LOBS):
    """L-OBS with one threshold: saliencies as shares of half the layer's mean squared output, `½ tr(W XXᵀ/m Wᵀ)`."""

    name: ClassVar[str] = "lobs-global"
    scope: ClassVar[Scope] = "global"
    source: ClassVar[str] = "Dong et al. 2017, saliencies normalised by the layer's output energy"
    fidelity: ClassVar[str] = "not a published configuration"

    def divisor(self, net: Network, name: str, moment: Tensor) -> float:
        matrices = as_matrices(net.layer_of(name), net.weights[name]).double()
        energy = float(((matrices @ moment) * matrices).sum() / 2)
        return energy if energy > 0 else 1.0
