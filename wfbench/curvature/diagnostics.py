"""What a method can say about its curvature: how much of it there is, how damped it is, what it predicts."""

import torch
from jaxtyping import Float
from torch import Tensor

from wfbench.curvature.memory import by_columns
from wfbench.curvature.rows import Gradients
from wfbench.tiles import tiles


def effective_rank(eigenvalues: Float[Tensor, " k"]) -> float:
    """The exponential of the entropy of the eigenvalues' shares: 1 for one direction, k for k equal ones, 0 for none.

    Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality", definition 1.
    """
    positive = eigenvalues.clamp(min=0)
    if not positive.any():
        return 0.0
    shares = positive / positive.sum()
    return float(torch.special.entr(shares).sum().exp())


def mean_diagonal(found: Gradients) -> float:
    """`tr(RRᵀ)/p`, nats/weight²: the mean diagonal entry of the curvature RᵀR."""
    return float(found.gram.trace()) / found.count / found.rows.shape[1]


def row_diagnostics(found: Gradients, damping: float) -> dict[str, float]:
    """The rank of the rows, λ, and λ as a share of the mean diagonal (infinite where all gradients vanish).

    And how many probes a sample the rows are of, where it is not every class.
    """
    mean = mean_diagonal(found)
    return {
        **({} if found.probes is None else {"probes": float(found.probes)}),
        "effective_rank": effective_rank(torch.linalg.eigvalsh(found.gram)),
        "damping": damping,
        "damping_ratio": damping / mean if mean > 0 else float("inf"),
    }


def predicted_change(found: Gradients, delta: Float[Tensor, " p"], *, labeled: bool) -> float:
    """`gᵀδ + ½‖Rδ‖²` from empirical rows (g the gradient of the loss), `½‖Rδ‖²` from others; nats, without λ."""
    along = torch.zeros(len(found.rows), dtype=torch.float64, device=found.rows.device)
    for where, part in by_columns(found.rows, tiles(found.rows.device).columns):
        along += part.double() @ delta[where]
    second = float(along.square().sum()) / found.count / 2
    return second - float(along.mean()) if labeled else second  # rows are gradients of log p, the loss is −log p
