"""CHITA. Benbaki et al. 2023, "Fast as CHITA: neural network pruning with combinatorial optimization".

Fidelity: the published objective, by default without its first-order term, which asks every sample's log-likelihood to
rise by a whole nat (the authors' code has α = 1/B for gradients of mini-batches of B; B is 1 here) and threw the small
networks to chance on their validation splits for λ up to 0.01. Iterative hard thresholding proposes supports; the exact
minimum on each decides, where the paper takes a thresholded step and solves on the support afterwards. λ, which the
paper tunes for each network, is fixed. No published figure reproduced.
"""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wfbench import Fitted, Labeled, Network, Pruned, Pruner, Target
from wfbench.toolbox import (
    Gradients,
    at_least,
    check_damping,
    cholesky,
    flatten,
    gradients,
    gram,
    keep_largest,
    predicted_change,
    row_diagnostics,
    unflatten,
)

LENGTHS = 11
"""Step lengths tried: 1/L and its doublings, L the largest curvature."""


@dataclass(frozen=True)
class CHITA(Pruner[Labeled]):
    """Sparse regression on the gradients: weights and support together, one ranking over all layers.

    Args:
        damping: λ, the pull towards the dense weights [nats/weight²].
        first_order: the gradient of the loss belongs to the objective (their "first-order term").
        rounds: most changes of the support.
    """

    name: ClassVar[str] = "chita"
    order_invariant: ClassVar[bool] = True
    source: ClassVar[str] = "Benbaki et al. 2023, CHITA"
    fidelity: ClassVar[str] = "objective as published, optimum exact on the support; no published figure reproduced"
    damping: float = 1e-5
    first_order: bool = False
    rounds: int = 20

    def __post_init__(self) -> None:
        check_damping(self.damping)
        at_least(0, rounds=self.rounds)

    def fit(self, net: Network, data: Labeled) -> Fitted:
        fitted = FittedCHITA(net, gradients(net, data), self, len(data))
        _ = fitted.spectrum  # the costly part belongs to `fit`
        return fitted


@dataclass(frozen=True)
class Regression:
    """`½‖y − Rw‖² + (λ/2)‖w − w̄‖²`, nats, over weights that are zero outside a support K."""

    rows: Float[Tensor, "k p"]
    wanted: Float[Tensor, " k"]
    dense: Float[Tensor, " p"]
    damping: float

    def value(self, w: Float[Tensor, " p"]) -> float:
        misfit = (self.rows @ w - self.wanted).square().sum()
        return float(misfit + self.damping * (w - self.dense).square().sum()) / 2

    def gradient(self, w: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        return self.rows.T @ (self.rows @ w - self.wanted) + self.damping * (w - self.dense)

    def minimum(self, kept: Bool[Tensor, " p"], inner: Float[Tensor, "k k"]) -> tuple[float, Float[Tensor, " k"]]:
        """The least value on the support, and u with `w_K = w̄_K + R_Kᵀu`; `inner` is `R_K R_Kᵀ`."""
        misfit = self.wanted - self.rows @ torch.where(kept, self.dense, 0)
        u = torch.cholesky_solve(misfit[:, None], cholesky(inner, self.damping))[:, 0]
        outside = torch.where(kept, 0, self.dense).square().sum()
        return float(self.damping * (misfit @ u + outside)) / 2, u

    def weights(self, kept: Bool[Tensor, " p"], u: Float[Tensor, " k"]) -> Float[Tensor, " p"]:
        return torch.where(kept, self.dense + u @ self.rows, 0)


@dataclass(frozen=True)
class FittedCHITA:
    """The regression, ready for any target."""

    net: Network
    gradients: Gradients
    options: CHITA
    samples: int

    @property
    def problem(self) -> Regression:
        """Made anew each time, for it has the rows in float64, which nothing else does."""
        rows = self.gradients.rows.double() / sqrt(self.gradients.count)
        dense = flatten(self.net.weights).double()
        # rows are gradients of log p, so the loss falls along them: y = Rw̄ + 1/√n
        wanted = rows @ dense + (1 / sqrt(self.samples) if self.options.first_order else 0)
        return Regression(rows, wanted, dense, self.options.damping)

    @cached_property
    def spectrum(self) -> Float[Tensor, " k"]:
        """Eigenvalues of RRᵀ, ascending, nats/weight²."""
        return torch.linalg.eigvalsh(self.gradients.gram) / self.gradients.count

    def prune(self, target: Target) -> Pruned:
        if target.sparsity == 0:
            return Pruned.of(self.net, self.net.weights, keep_largest(self.net.weights, target))
        return self.solved(self.problem, target)

    def solved(self, problem: Regression, target: Target) -> Pruned:
        """The regression brought to the target, from the largest dense weights on."""
        rows, curvature = problem.rows, float(self.spectrum[-1]) + problem.damping  # the largest of the damped one
        kept = self._top(problem.dense, target)
        inner = gram(rows, kept)
        value, u = problem.minimum(kept, inner)
        for _ in range(self.options.rounds):
            w = problem.weights(kept, u)
            gradient, start = problem.gradient(w), kept
            before, base = value, inner
            for doubling in range(LENGTHS):
                candidate = self._top(w - 2**doubling / curvature * gradient, target)
                if torch.equal(candidate, start):
                    continue
                moved = base + gram(rows, candidate & ~start) - gram(rows, start & ~candidate)
                reached, solution = problem.minimum(candidate, moved)
                if reached < value:
                    kept, inner, value, u = candidate, moved, reached, solution
            if value >= before:
                break
        weights = problem.weights(kept, u)
        shares = self.spectrum / (self.spectrum + problem.damping)
        found = {
            "mean_leverage": float(shares.sum()) / len(weights),
            **row_diagnostics(self.gradients, problem.damping),
            "predicted_change": predicted_change(self.gradients, weights - problem.dense, labeled=True),
        }
        return Pruned.of(self.net, unflatten(weights, self.net.weights), unflatten(kept, self.net.weights), found)

    def _top(self, w: Float[Tensor, " p"], target: Target) -> Bool[Tensor, " p"]:
        return flatten(keep_largest(unflatten(w.abs(), self.net.weights), target))
