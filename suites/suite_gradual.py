"""Pruning in steps with training in between: on all 55 000 training samples, and on the few of a budget."""

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

METHODS = ("gradual-magnitude", "gradual-woodfisher", "gradual-woodfisher-unlabeled-joint")

SMALL = Grid(
    tasks=("fashion-mlpnet",),
    methods=METHODS,
    budgets=(100, 1000, 55_000),
    sparsities=(0.9, 0.95),
    recoveries=("none",),
    seeds=3,
)
RESIDUAL = Grid(
    tasks=("fashion-resnet20",),
    methods=METHODS[:2],
    budgets=(55_000,),
    sparsities=(0.9,),
    recoveries=("none",),
    seeds=1,
)
SUITE = Suite("gradual", (SMALL, RESIDUAL))

test_case = case_test("gradual")
