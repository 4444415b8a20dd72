"""`python -m benchmarks.probes`: how far random probes are from every logit, by their number, where both fit."""

import argparse

import torch
from tabulate import tabulate
from torch import Tensor

from wfbench.curvature.rows import Gradients, gradients
from wfbench.data import Unlabeled
from wfbench.draws import draw
from wfbench.harness.plugins import discover
from wfbench.network import Network, flatten

PROBES = (1, 2, 4, 8, 16, 32)
SEEDS = 10
DAMPING = 0.1
"""λ as a share of the mean diagonal of the exact curvature."""


def relative_errors(every: Gradients, some: Gradients, w: Tensor) -> tuple[float, float]:
    """Of `RᵀR` in the Frobenius norm, and of the joint update's direction `(RᵀR + λI)⁻¹RᵀRw`, in the 2-norm."""
    exact, drawn = (found.rows.double() / found.count**0.5 for found in (every, some))
    inner = [(a @ b.T).square().sum() for a, b in ((exact, exact), (exact, drawn), (drawn, drawn))]
    distance = (inner[0] - 2 * inner[1] + inner[2]).clamp(min=0)
    damping = DAMPING * float(exact.square().sum()) / exact.shape[1]
    moved = [_ridge(rows, w, damping) for rows in (exact, drawn)]
    return float((distance / inner[0]).sqrt()), float((moved[0] - moved[1]).norm() / moved[0].norm())


def _ridge(rows: Tensor, w: Tensor, damping: float) -> Tensor:
    dual = rows @ rows.T + damping * torch.eye(len(rows)).double()
    return rows.T @ torch.linalg.solve(dual, rows @ w)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__)
    parser.add_argument("--task", default="digits-cnn", help="a task with few outputs (default: digits-cnn)")
    parser.add_argument("--budgets", default="10,50", help="numbers of samples, with commas (default: 10,50)")
    asked = parser.parse_args()
    task = discover().task(asked.task)
    net = Network(task.dense(0))
    w = flatten(net.weights).double()
    small = torch.where(w.abs() < w.abs().quantile(0.8), w, 0)
    rows = []
    for n in map(int, asked.budgets.split(",")):
        data = Unlabeled(draw(task.train_set, n, 0).inputs)
        for kind in ("logits", "exact"):
            every = gradients(net, data, kind)
            for probes in PROBES:
                seeds = [gradients(net, data, kind, probes=probes, seed=seed) for seed in range(SEEDS)]
                errors = torch.tensor([relative_errors(every, one, small) for one in seeds]).quantile(0.5, dim=0)
                rows.append([n, kind, probes, n * probes, *errors.tolist()])
    about = f"{asked.task}, median of {SEEDS} seeds; the update is for the smallest 80 % of the weights gone"
    headers = ["samples", "rows of", "probes", "rows", "error of RᵀR", "error of the update"]
    print(f"{about}\n{tabulate(rows, headers, floatfmt='.3f')}")


if __name__ == "__main__":
    main()
