"""Damping: multiples of it, shares of the curvature, and the choice by cross-validation."""

from wfbench import Grid, Suite
from wfbench.curvature.damping import CrossValidated
from wfbench.pytest_plugin import case_test

DAMPED = {
    "chita": 1e-5,
    "kfac": 1e-5,
    "lobs": 0.01,
    "obc": 0.01,
    "sparsegpt": 0.01,
    "woodfisher": 1e-5,
    "woodfisher-joint": 1e-5,
    "woodfisher-unlabeled-joint": 1e-5,
}
"""Methods and their default damping: absolute, or for the layer-wise ones a share of the mean diagonal."""
WOODFISHER = tuple(name for name in DAMPED if name.startswith("woodfisher"))

GRID = Grid(
    tasks=("digits-cnn", "fashion-mlpnet"),
    methods=(
        *(f"{name}[damping={default * by:g}]" for name, default in DAMPED.items() for by in CrossValidated().factors),
        *(f"{name}[damping=relative:{share:g}]" for name in WOODFISHER for share in (0.01, 0.1, 1, 10)),
        *(f"{name}[damping=cross-validated]" for name in DAMPED),
    ),
    budgets=(10, 100),
    sparsities=(0.8, 0.9),
    recoveries=("none",),
    seeds=3,
)
SUITE = Suite("damping", (GRID,))

test_case = case_test("damping")
