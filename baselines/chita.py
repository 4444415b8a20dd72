"""CHITA. Benbaki et al. 2023, "Fast as CHITA: neural network pruning with combinatorial optimization".

Fidelity: the published objective, by default without its first-order term, which asks every sample's log-likelihood to
rise by a whole nat and threw the small networks to chance on their validation splits for λ up to 0.01. Iterative hard
thresholding with a step found by halving, then the exact solution on the support; their active sets and coordinate
descent, which save time, are left out, and λ, which they tune for each network, is fixed. No published figure
reproduced.
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wfbench import Fitted, Labeled, Network, Pruned, Pruner, Target, WoodburyInverse, fisher_rows
from wfbench.network import flatten, unflatten
from wfbench.sparsity import keep_largest


@dataclass(frozen=True)
class CHITA(Pruner[Labeled]):
    """Sparse regression on the gradients: weights and support together, one ranking over all layers.

    Args:
        damping: λ, the pull towards the dense weights [nats/weight²].
        first_order: the gradient of the loss belongs to the objective (their "first-order term").
        steps: most thresholding steps.
    """

    name: ClassVar[str] = "chita"
    source: ClassVar[str] = "Benbaki et al. 2023, eq. 5-7 and algorithm 1"
    fidelity: ClassVar[str] = "objective as published, optimum exact on the support; no published figure reproduced"
    damping: float = 1e-5
    first_order: bool = False
    steps: int = 100

    def fit(self, net: Network, data: Labeled) -> Fitted:
        rows = fisher_rows(net, data).double()
        dense = flatten(net.weights).double()
        # rows are gradients of log p, so the loss falls along them: y = Rw̄ + 1/√n
        wanted = rows @ dense + (1 / sqrt(len(data)) if self.first_order else 0)
        problem = Regression(rows, wanted, dense, self.damping)
        return FittedCHITA(net, problem, self.steps)


@dataclass(frozen=True)
class Regression:
    """`½‖y − Rw‖² + (λ/2)‖w − w̄‖²`, nats."""

    rows: Float[Tensor, "k p"]
    wanted: Float[Tensor, " k"]
    dense: Float[Tensor, " p"]
    damping: float

    def value(self, w: Float[Tensor, " p"]) -> float:
        misfit = (self.rows @ w - self.wanted).square().sum()
        return float(misfit + self.damping * (w - self.dense).square().sum()) / 2

    def gradient(self, w: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        return self.rows.T @ (self.rows @ w - self.wanted) + self.damping * (w - self.dense)

    def solve_on(self, kept: Tensor) -> Float[Tensor, " p"]:
        """The exact minimum with zero outside `kept`."""
        start = torch.where(kept, self.dense, 0)
        pull = torch.where(kept, self.rows.T @ (self.wanted - self.rows @ start), 0)
        move = WoodburyInverse(self.rows, self.damping, kept=kept).solve(pull)
        return torch.where(kept, start + move, 0)


@dataclass(frozen=True)
class FittedCHITA:
    """The regression, ready for any target."""

    net: Network
    problem: Regression
    steps: int

    def prune(self, target: Target) -> Pruned:
        if target.sparsity == 0:
            return Pruned.of(self.net, self.net.weights, keep_largest(self.net.weights, target))
        kept = self._top(self.problem.dense, target)
        w = torch.where(kept, self.problem.dense, 0)
        value, step = self.problem.value(w), 1 / self.problem.damping
        for _ in range(self.steps):
            gradient = self.problem.gradient(w)
            found = self._descend(w, value, gradient, step, target)
            if found is None:
                break
            before, (w, kept, value, step) = value, found
            if before - value <= 1e-6 * before:
                break
        weights = self.problem.solve_on(kept)
        return Pruned.of(self.net, unflatten(weights, self.net.weights), unflatten(kept, self.net.weights))

    def _descend(
        self, w: Tensor, value: float, gradient: Tensor, step: float, target: Target
    ) -> tuple[Tensor, Tensor, float, float] | None:
        """A thresholded gradient step that lowers the objective, its length twice the last one and halved until so."""
        step *= 2
        for _ in range(60):
            moved = w - step * gradient
            kept = self._top(moved, target)
            candidate = torch.where(kept, moved, 0)
            reached = self.problem.value(candidate)
            if reached < value:
                return candidate, kept, reached, step
            step /= 2
        return None

    def _top(self, w: Tensor, target: Target) -> Tensor:
        return flatten(keep_largest(unflatten(w.abs(), self.net.weights), target))
