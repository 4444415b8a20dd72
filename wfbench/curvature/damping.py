"""The damping λ: absolute, relative to the curvature, or chosen inside the samples. Never a hidden constant."""

from dataclasses import dataclass
from typing import TypeAlias

from wfbench.errors import WfbenchError


@dataclass(frozen=True)
class Relative:
    """λ as a share of the mean diagonal of the whole curvature, `tr(RRᵀ)/p`."""

    share: float

    def __post_init__(self) -> None:
        _positive("share", self.share)


@dataclass(frozen=True)
class CrossValidated:
    """λ, among multiples of the method's default, by the realised change of the loss on held-out folds.

    Args:
        factors: what the default is multiplied with, as many as a method may try.
        folds: parts of the samples, each held out once; at most one a sample.
    """

    factors: tuple[float, ...] = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
    folds: int = 4

    def __post_init__(self) -> None:
        for factor in self.factors:
            _positive("factor", factor)
        if self.folds < 2 or not self.factors:
            raise WfbenchError(f"{self.folds} folds of {len(self.factors)} factors: give at least 2 folds and 1 factor")


Damping: TypeAlias = float | Relative | CrossValidated


def absolute(damping: Damping, mean_diagonal: float) -> float:
    """λ as a number, for a curvature of this mean diagonal [nats/weight²].

    Raises:
        WfbenchError: a share of nothing, or a value that is still to be chosen.
    """
    if isinstance(damping, CrossValidated):
        raise WfbenchError("a cross-validated damping has no value before it is chosen")
    if not isinstance(damping, Relative):
        return damping
    if mean_diagonal == 0:
        raise WfbenchError("all gradients vanish, so no damping is relative to them; give it as a number")
    return damping.share * mean_diagonal


def _positive(what: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise WfbenchError(f"{what} {value} must be positive and finite")


def check_damping(damping: Damping) -> None:
    """Raise WfbenchError for an absolute damping that is not positive and finite."""
    if isinstance(damping, (int, float)):
        _positive("damping", damping)
