"""What a method is: `fit` on the dense network and the calibration samples, then `prune` to any target."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import (
    Any,
    ClassVar,
    Protocol,
    runtime_checkable,
)

from torch import Tensor

from wfbench.errors import WfbenchError
from wfbench.licence import D, Licensed
from wfbench.network import Network, Params
from wfbench.pruned import Pruned
from wfbench.sparsity import Scope, Target, keep_largest

TRIALS = 6
"""Most values of its hyper-parameters that a method may try, inside its samples."""


@runtime_checkable
class Fitted(Protocol):
    """A method that has seen its data; `prune` is cheap and may be called for many targets, in any order."""

    def prune(self, target: Target) -> Pruned: ...


@runtime_checkable
class Updating(Protocol):
    """A fitted method that has an update for any mask."""

    def update(self, mask: Params) -> Params:
        """From a mask (True = kept) of every prunable weight to the weights, zero outside it; float64 or float32."""


class Pruner(Licensed[D]):
    """A pruning method. `D`, the data licence, is what `fit` is handed: `Labeled`, `Unlabeled` or `None`.

    Subclasses are frozen dataclasses whose fields are their hyper-parameters.
    """

    scope: ClassVar[Scope] = "global"
    """Allocation over layers that the suites ask of the method."""
    source: ClassVar[str] = ""
    """Paper, and what of it: a formula by its name."""
    fidelity: ClassVar[str] = ""
    """Against which published figure or code it was reproduced, or "not reproduced", with what differs."""
    patterns: ClassVar[tuple[str, ...]] = ("unstructured",)
    """Names of the sparsity patterns it can reach."""
    updates: ClassVar[bool] = False
    """What `fit` returns is `Updating`: it has an update for any mask, not for its own alone."""
    order_invariant: ClassVar[bool] = False
    """Claims the same network, up to rounding, whatever the order of the samples."""

    @abstractmethod
    def fit(self, net: Network, data: D) -> Fitted:
        """Everything that costs: once per task, budget and draw. Must leave `net` as it is."""


class ScorePruner(Pruner[D]):
    """A method that ranks weights by a score and leaves the kept ones as they are."""

    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")

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


def take_after(made: Pruner[Any], of: Pruner[Any], name: str, licence: type | None = None) -> None:
    """Give one instance a name of its own, and scope, patterns and licence (unless another is given) of `of`."""
    taken = {"name": name, "scope": of.scope, "patterns": of.patterns, "licence": licence or of.licence}
    for attribute, value in taken.items():
        object.__setattr__(made, attribute, value)  # instances are frozen; these are class attributes of most methods


def only_layer_scope(method: str, target: Target) -> None:
    """Raise WfbenchError unless every layer is to reach the target by itself."""
    if target.scope != "layer":
        raise WfbenchError(f'{method} chooses within a layer; ask for a Target with scope="layer"')
