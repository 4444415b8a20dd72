"""Who earned the accuracy: the mask of one method with the weight update of another.

`MASK+UPDATE` names a method made of the two, for any MASK that is a method and any UPDATE listed in `UPDATES`:
`magnitude+woodfisher-joint` is magnitude's mask with WoodFisher's exact set update.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wfbench.data import Labeled, Unlabeled
from wfbench.layers import as_matrices, damped, second_moments
from wfbench.network import Network, Params, flatten, unflatten
from wfbench.obs import independent_update, joint_update
from wfbench.pruner import Fitted, Pruned, Pruner
from wfbench.repair import solve_kept
from wfbench.sparsity import Target
from wfbench.woodfisher import FittedWoodFisher, WoodFisher, WoodFisherUnlabeled

Applied: TypeAlias = Callable[[Params], Params]
STRENGTH = (type(None), Unlabeled, Labeled)


class Update(ABC):
    """What becomes of the kept weights, for any mask. `licence` is what `fit` is handed."""

    name: ClassVar[str]
    licence: ClassVar[type]

    @abstractmethod
    def fit(self, net: Network, data: Any) -> Applied:
        """From a mask (True = kept) to the weights, zero outside it; float64 or the network's dtype."""


@dataclass(frozen=True)
class NoUpdate(Update):
    """The kept weights stay the dense ones."""

    name: ClassVar[str] = "kept"
    licence: ClassVar[type] = type(None)

    def fit(self, net: Network, data: Any) -> Applied:
        return lambda mask: {name: torch.where(mask[name], weight, 0) for name, weight in net.weights.items()}


@dataclass(frozen=True)
class WoodFisherUpdate(Update):
    """The sum of single-weight updates, empirical Fisher in blocks of 2000. Singh & Alistarh 2020, eq. 10."""

    name: ClassVar[str] = "woodfisher"
    licence: ClassVar[type] = Labeled

    def fit(self, net: Network, data: Any) -> Applied:
        inverse = _woodfisher(WoodFisher().fit(net, data)).inverse()
        diagonal, w = inverse.diagonal(), flatten(net.weights).double()
        return lambda mask: unflatten(independent_update(inverse, diagonal, w, flatten(mask)), net.weights)


@dataclass(frozen=True)
class JointUpdate(Update):
    """The exact set update in one step, empirical Fisher in blocks of 2000."""

    name: ClassVar[str] = "woodfisher-joint"
    licence: ClassVar[type] = Labeled

    def fit(self, net: Network, data: Any) -> Applied:
        return _joint(net, WoodFisher().fit(net, data))


@dataclass(frozen=True)
class UnlabeledJointUpdate(Update):
    """The exact set update in one step, sampled Fisher in blocks of 2000."""

    name: ClassVar[str] = "woodfisher-unlabeled-joint"
    licence: ClassVar[type] = Unlabeled

    def fit(self, net: Network, data: Any) -> Applied:
        return _joint(net, WoodFisherUnlabeled().fit(net, data))


def _joint(net: Network, fitted: Fitted) -> Applied:
    found, w = _woodfisher(fitted), flatten(net.weights).double()

    def apply(mask: Params) -> Params:
        kept: Bool[Tensor, " p"] = flatten(mask)
        return unflatten(joint_update(found.inverse(kept), w), net.weights)

    return apply


def _woodfisher(fitted: Fitted) -> FittedWoodFisher:
    assert isinstance(fitted, FittedWoodFisher)
    return fitted


@dataclass(frozen=True)
class LayerwiseUpdate(Update):
    """Least squares on each layer's outputs in the dense network, as in the optimal brain compressor (OBC).

    Args:
        damping: added to the diagonal of `XXᵀ/m`, as a share of its mean.
    """

    name: ClassVar[str] = "layerwise"
    licence: ClassVar[type] = Unlabeled
    damping: float = 0.01

    def fit(self, net: Network, data: Any) -> Applied:
        hessians = {name: damped(h, self.damping) for name, h in second_moments(net, data.inputs).items()}

        def apply(mask: Params) -> Params:
            return {name: _least_squares(net, name, mask[name], hessians[name]) for name in net.weights}

        return apply


def _least_squares(net: Network, name: str, mask: Tensor, hessians: Float[Tensor, "g d d"]) -> Tensor:
    dense = as_matrices(net.layer_of(name), net.weights[name]).double()
    kept = mask.reshape(dense.shape)
    parts = zip(hessians, dense, kept, strict=True)
    solved = torch.stack([solve_kept(h, w @ h, k) for h, w, k in parts])
    untouched = kept.all(2, keepdim=True)
    return torch.where(untouched, dense, solved).reshape(mask.shape)


UPDATES: dict[str, Update] = {
    update.name: update
    for update in (NoUpdate(), WoodFisherUpdate(), JointUpdate(), UnlabeledJointUpdate(), LayerwiseUpdate())
}


@dataclass(frozen=True)
class Transplant(Pruner[Any]):
    """The mask of one method with the update of another; each sees what its own licence allows."""

    source: ClassVar[str] = "attribution"
    fidelity: ClassVar[str] = "made of two methods, not a published one"
    mask_of: Pruner[Any]
    update: Update

    def __post_init__(self) -> None:
        licence = max(self.mask_of.licence, self.update.licence, key=STRENGTH.index)
        taken = {"name": f"{self.mask_of.name}+{self.update.name}", "scope": self.mask_of.scope, "licence": licence}
        for name, value in taken.items():
            object.__setattr__(self, name, value)

    def fit(self, net: Network, data: Any) -> Fitted:
        mask_of = self.mask_of.fit(net, _allowed(self.mask_of.licence, data))
        return _Transplanted(net, mask_of, self.update.fit(net, _allowed(self.update.licence, data)))


@dataclass(frozen=True)
class _Transplanted:
    net: Network
    mask_of: Fitted
    update: Applied

    def prune(self, target: Target) -> Pruned:
        mask = self.mask_of.prune(target).mask
        weights = self.net.weights if target.sparsity == 0 else self.update(dict(mask))
        return Pruned.of(self.net, weights, dict(mask))


def _allowed(licence: type, data: Any) -> Any:
    """What a licence allows of data that a stronger one was handed."""
    if licence is Labeled:
        return data
    return Unlabeled(data.inputs) if licence is Unlabeled else None
