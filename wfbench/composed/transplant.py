"""Who earned the accuracy: the mask of one method with the weight update of another.

`MASK+UPDATE` names a method made of the two, for any MASK that is a method and any UPDATE that is `kept` (the kept
weights stay the dense ones) or a method that has an update for every mask: `magnitude+woodfisher-joint` is magnitude's
mask with WoodFisher's exact set update.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from wfbench.errors import WfbenchError
from wfbench.licence import handed, strongest
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner, Updating, take_after
from wfbench.sparsity import Target

KEPT = "kept"


@dataclass(frozen=True)
class Transplant(Pruner[Any]):
    """The mask of one method with the update of another (None: no update); each sees what its own licence allows."""

    source: ClassVar[str] = "attribution"
    fidelity: ClassVar[str] = "made of two methods, not a published one"
    mask_of: Pruner[Any]
    update_of: Pruner[Any] | None = None

    def __post_init__(self) -> None:
        licence, name = self.mask_of.licence, KEPT
        if self.update_of is not None:
            name = self.update_of.name
            licence = strongest((licence, self.update_of.licence))
            if not self.update_of.updates:
                raise WfbenchError(f"{name} has no update for masks that are not its own")
        take_after(self, self.mask_of, f"{self.mask_of.name}+{name}", licence)

    def fit(self, net: Network, data: Any) -> Fitted:
        mask_of = self.mask_of.fit(net, handed(self.mask_of.licence, data))
        if self.update_of is None:
            return _Transplanted(net, mask_of, None)
        update_of = self.update_of.fit(net, handed(self.update_of.licence, data))
        if not isinstance(update_of, Updating):
            raise WfbenchError(f"{self.update_of.name} promises an update for any mask, but its Fitted has no `update`")
        return _Transplanted(net, mask_of, update_of)


@dataclass(frozen=True)
class _Transplanted:
    net: Network
    mask_of: Fitted
    update_of: Updating | None

    def prune(self, target: Target) -> Pruned:
        mask = dict(self.mask_of.prune(target).mask)
        untouched = target.sparsity == 0 or self.update_of is None
        weights = self.net.weights if untouched else self.update_of.update(mask)  # type: ignore[union-attr]
        return Pruned.of(self.net, weights, mask)
