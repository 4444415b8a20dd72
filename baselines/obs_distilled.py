"""Which layer gives how much, which of its weights go, and what repairs them: three choices, each by what tells most.

Layer by layer the optimal brain surgeon has a row for every sample and place, which determine `XᵀX/m` well, so that it
chooses within a layer (Frantar & Alistarh 2022; Wang et al. 2024). Between layers, n samples have n·classes rows of the
logits:
- for a whole channel, with few charged coordinates beside those, WoodFisher's saliency on them says how much of every
  layer goes (Singh & Alistarh 2020, on the Gauss-Newton matrix of the logits), or half-way between that and an even
  thinning where held-out samples say so;
- for single weights, far more than rows, that saliency ranks as size does, so the updated weights' sizes say it.
Last, a brief descent brings every layer's output back to the dense network's (Romero et al. 2015), and the statistics
of BatchNorms go half-way to those of the moved weights.

Fidelity: equal to its three parts one after another, each with an oracle of its own. Not a published method.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from wfbench import RECOVERIES, Filter, Fitted, Network, Pruned, Pruner, Recovery, Target, Unlabeled
from wfbench.toolbox import Allocation, Global, WoodFisherFilterLogits

from .obc import OBC
from .obspa import OBSFilter


@dataclass(frozen=True)
class OBSDistilled(Pruner[Unlabeled]):
    """The optimal brain surgeon within layers, as much of each as the whole network says, then a brief distillation.

    Args:
        weights: takes single weights.
        channels: takes whole channels.
        after: brings the layers back.
    """

    name: ClassVar[str] = "obs-distilled"
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "filter")
    source: ClassVar[str] = (
        "Frantar & Alistarh 2022 within layers, Singh & Alistarh 2020 between, Romero et al. 2015 after"
    )
    fidelity: ClassVar[str] = "equal to its parts one after another; not a published method"
    weights: Pruner[Any] = field(default_factory=lambda: Global(OBC()))
    channels: Pruner[Any] = field(
        default_factory=lambda: Allocation(OBSFilter(), WoodFisherFilterLogits(rank=64), led=True)
    )
    after: Recovery[Any] = field(default_factory=lambda: RECOVERIES["distill-batchnorm"])

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return FittedOBSDistilled(net, data, self)


@dataclass
class FittedOBSDistilled:
    """Either pattern's method, fitted when a target first asks for it."""

    net: Network
    data: Unlabeled
    options: OBSDistilled
    fitted: dict[str, tuple[Fitted, float]] = field(default_factory=dict)

    def prune(self, target: Target) -> Pruned:
        kind = "channels" if isinstance(target.pattern, Filter) else "weights"
        method: Pruner[Any] = getattr(self.options, kind)
        fitted = self.net.memo.take_in(self.fitted, kind, lambda: method.fit(self.net, self.data))
        pruned = fitted.prune(target)
        return self.options.after.apply(self.net, pruned, self.data) if target.sparsity > 0 else pruned
