"""What a method is: `fit` on the dense network and the calibration samples, then `prune` to any target."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    Protocol,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    runtime_checkable,
)

import torch
from torch import Tensor

from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError
from wfbench.network import Network, Params
from wfbench.sparsity import Scope, Target, keep_largest

Track: TypeAlias = Literal["labeled", "unlabeled", "data-free"]
TRACKS: dict[type, Track] = {Labeled: "labeled", Unlabeled: "unlabeled", type(None): "data-free"}

D = TypeVar("D", Labeled, Unlabeled, None, contravariant=True)


@dataclass(frozen=True)
class Pruned:
    """A pruned network.

    Args:
        state: every parameter and buffer, by name.
        mask: True = kept, for every prunable weight.
        removed_channels: indices of channels taken out, by layer.
        diagnostics: figures the method reports about itself, for the record.

    Raises:
        WfbenchError: a mask that does not fit its weight, or a non-zero weight outside its mask.
    """

    state: Params
    mask: Params
    removed_channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    diagnostics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, mask in self.mask.items():
            if name not in self.state:
                raise WfbenchError(f"the mask names {name}, which the state does not hold")
            weight = self.state[name]
            if mask.dtype != torch.bool or mask.shape != weight.shape:
                raise WfbenchError(
                    f"the mask of {name} is {mask.dtype} {tuple(mask.shape)}; it must be bool {tuple(weight.shape)}"
                )
            outside = int((weight[~mask] != 0).sum())
            if outside:
                raise WfbenchError(f"{outside} weights of {name} are not zero outside the mask")

    @classmethod
    def of(
        cls, net: Network, weights: Params, mask: Params, diagnostics: Mapping[str, float] | None = None
    ) -> "Pruned":
        """The dense state with `weights` in place, zero outside `mask`, in the network's dtype."""
        state = net.state()
        for name, weight in weights.items():
            state[name] = torch.where(mask[name], weight, 0).to(state[name].dtype)
        return cls(state, mask, diagnostics=diagnostics or {})


@runtime_checkable
class Fitted(Protocol):
    """A method that has seen its data; `prune` is cheap and may be called for many targets, in any order."""

    def prune(self, target: Target) -> Pruned: ...


class Pruner(ABC, Generic[D]):
    """A pruning method. `D`, the data licence, is what `fit` is handed: `Labeled`, `Unlabeled` or `None`.

    Subclasses are frozen dataclasses whose fields are their hyper-parameters.
    """

    name: ClassVar[str]
    scope: ClassVar[Scope] = "global"
    """Allocation over layers that the suites ask of the method."""
    source: ClassVar[str] = ""
    """Paper and equation."""
    fidelity: ClassVar[str] = ""
    """Against which published figure or code it was reproduced, or "not reproduced", with what differs."""
    patterns: ClassVar[tuple[str, ...]] = ("unstructured",)
    """Names of the sparsity patterns it can reach."""
    order_invariant: ClassVar[bool] = False
    """Claims the same network, up to rounding, whatever the order of the samples."""
    licence: ClassVar[type]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for base in getattr(cls, "__orig_bases__", ()):
            origin, arguments = get_origin(base), get_args(base)
            if isinstance(origin, type) and issubclass(origin, Pruner) and arguments:
                licence = type(None) if arguments[0] is None else arguments[0]
                if licence in TRACKS:
                    cls.licence = licence

    @property
    def track(self) -> Track:
        """The licence in the words of the records."""
        if not hasattr(self, "licence"):
            raise WfbenchError(
                f"{type(self).__name__} does not say what data it may see; derive from Pruner[Labeled], "
                "Pruner[Unlabeled] or Pruner[None]"
            )
        return TRACKS[self.licence]

    @abstractmethod
    def fit(self, net: Network, data: D) -> Fitted:
        """Everything that costs: once per task, budget and draw. Must leave `net` as it is."""


class ScorePruner(Pruner[D]):
    """A method that ranks weights by a score and leaves the kept ones as they are."""

    def fit(self, net: Network, data: D) -> Fitted:
        return ScoreFitted(net, self.scores(net, data))

    @abstractmethod
    def scores(self, net: Network, data: D) -> Params:
        """One tensor for each of `net.weights`, of its shape; higher = keep."""


@dataclass(frozen=True)
class ScoreFitted:
    """Scores, ready for any target."""

    net: Network
    scores: Params

    def __post_init__(self) -> None:
        for name, weight in self.net.weights.items():
            found: Tensor | None = self.scores.get(name)
            if found is None or found.shape != weight.shape:
                shape = None if found is None else tuple(found.shape)
                raise WfbenchError(f"scores of {name} have shape {shape}; they must have shape {tuple(weight.shape)}")

    def prune(self, target: Target) -> Pruned:
        scores = {name: self.scores[name] for name in self.net.weights}
        return Pruned.of(self.net, self.net.weights, keep_largest(scores, target))
