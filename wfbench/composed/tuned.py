"""A hyper-parameter chosen inside the n samples: folds held out, the same cap of trials for every method."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import inf, isfinite
from typing import Any, ClassVar, TypeVar

from wfbench.curvature.damping import CrossValidated, Relative
from wfbench.data import Labeled, Unlabeled
from wfbench.draws import folds
from wfbench.errors import WfbenchError
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.pruner import TRIALS, Fitted, Pruner, take_after
from wfbench.sparsity import Target

S = TypeVar("S", Labeled, Unlabeled)


@dataclass(frozen=True)
class Tuned(Pruner[Any]):
    """A method whose field `damping` is chosen for each target; called `METHOD[damping=cross-validated]`."""

    source: ClassVar[str] = "cross-validation of a method's damping"
    fidelity: ClassVar[str] = "not a published configuration"
    of: Pruner[Any]
    damping: CrossValidated

    def __post_init__(self) -> None:
        take_after(self, self.of, f"{self.of.name}[damping=cross-validated]")

    def fit(self, net: Network, data: Any) -> Fitted:
        return cross_validated(self.of, self.damping, net, data)


def tuned_or(pruner: Pruner[Any], net: Network, data: S, fit: Callable[[Network, S], Fitted]) -> Fitted:
    """The method's damping chosen by cross-validation where it says so, else what `fit` gives."""
    search = getattr(pruner, "damping", None)
    return cross_validated(pruner, search, net, data) if isinstance(search, CrossValidated) else fit(net, data)


def cross_validated(pruner: Pruner[Any], search: CrossValidated, net: Network, data: Any) -> Fitted:
    """`pruner` with the best damping for each target: least realised change on held-out samples, mean over folds.

    The values are multiples of the method's default; of its share of the mean diagonal, where that is relative.

    Raises:
        WfbenchError: a method without a default damping, without data, more values than a method may
            try, or fewer than 4 samples.
    """
    default = {field.name: field.default for field in fields(pruner)}.get("damping")  # type: ignore[arg-type]
    start = default.share if isinstance(default, Relative) else default
    if not isinstance(start, float) or not isinstance(data, (Labeled, Unlabeled)):
        raise WfbenchError(f"{pruner.name} has no damping to choose from samples")
    if len(search.factors) > TRIALS:
        raise WfbenchError(f"{len(search.factors)} values to try; a method may try {TRIALS}")
    n = len(data) // data.copies
    if n < 4:
        raise WfbenchError(f"cross-validation needs at least 4 samples, not {n}; give the damping as a number")
    relative = isinstance(default, Relative)
    found = _Validated(pruner, net, data, {start * factor: [] for factor in search.factors}, relative)
    for fold in folds(n, min(search.folds, n)):
        held = range(fold.start * data.copies, fold.stop * data.copies)  # whole samples
        rest = data.take([i for i in range(len(data)) if i not in held])
        for value, of_folds in found.folds.items():  # folds outside: the dampings of one share its curvature rows
            of_folds.append((found.fitted(value, rest), data.take(list(held))))
    return found


@dataclass(frozen=True)
class _Validated:
    """Fits of every damping, on the rest of every fold, beside the fold itself."""

    pruner: Pruner[Any]
    net: Network
    data: Labeled | Unlabeled
    folds: dict[float, list[tuple[Fitted | None, Labeled | Unlabeled]]]
    relative: bool

    def fitted(self, value: float, data: Labeled | Unlabeled) -> Fitted | None:
        """None where that damping has no result."""
        try:
            damping = Relative(value) if self.relative else value
            return replace(self.pruner, damping=damping).fit(self.net, data)  # type: ignore[type-var]
        except WfbenchError:
            return None

    def prune(self, target: Target) -> Pruned:
        changes = {
            value: sum(self._change(fitted, target, held) * len(held) for fitted, held in of_folds) / len(self.data)
            for value, of_folds in self.folds.items()
        }
        best = min(changes, key=changes.__getitem__)
        fitted = self.fitted(best, self.data)
        if changes[best] == inf or fitted is None:
            raise WfbenchError(f"no damping among {', '.join(f'{value:g}' for value in changes)} gave a network")
        pruned = fitted.prune(target)
        trials = tuple(
            {"damping": value, "change": change} if isfinite(change) else {"damping": value}
            for value, change in changes.items()
        )
        return replace(pruned, trials=trials, diagnostics={"damping": best, **pruned.diagnostics})

    def _change(self, fitted: Fitted | None, target: Target, held: Labeled | Unlabeled) -> float:
        """On the held-out samples; infinite where there is no result."""
        try:
            change = inf if fitted is None else self.net.change(fitted.prune(target).state, held)
        except WfbenchError:
            return inf
        return change if isfinite(change) else inf
