"""L-OBS. Dong, Chen & Pan 2017, "Learning to prune deep neural networks via layer-wise optimal brain surgeon".

Fidelity: saliency and update equal a dense float64 inverse of the layer's Hessian; no published figure reproduced.
The inverse is computed once and not downdated, and all updates of a row are added up, as in their algorithm 1. The
damping, 1 % of the mean diagonal, is our choice.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wfbench import Fitted, Network, Pruned, Pruner, Target, Unlabeled
from wfbench.toolbox import Scope, as_matrices, check_damping, damped, inverse, keep_largest, second_moments


@dataclass(frozen=True)
class FittedLOBS:
    """`(XXᵀ/m + αI)⁻¹` of every layer, and what its saliencies are divided by."""

    net: Network
    inverses: dict[str, Tensor]
    divisors: dict[str, float]

    def prune(self, target: Target) -> Pruned:
        pulls, scores = {}, {}
        for name, weight in self.net.weights.items():
            matrices = as_matrices(self.net.layer_of(name), weight).double()
            pulls[name] = matrices / self.inverses[name].diagonal(dim1=1, dim2=2)[:, None]
            scores[name] = (matrices * pulls[name] / 2 / self.divisors[name]).reshape(weight.shape)
        mask, weights = keep_largest(scores, target), {}
        for name, weight in self.net.weights.items():
            removed = ~mask[name].reshape(pulls[name].shape)
            update = (pulls[name] * removed) @ self.inverses[name]
            weights[name] = weight.double() - update.reshape(weight.shape)
        return Pruned.of(self.net, weights, mask)


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
