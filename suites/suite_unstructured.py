"""Single weights: every method, four tasks, three budgets; CIFAR-10 on request (`--tasks cifar10-jpeg-resnet20`)."""

from dataclasses import replace

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

GRID = Grid(
    budgets=(10, 100, 1000),
    sparsities=(0.6, 0.7, 0.8, 0.9, 0.95),
    recoveries=("none", "batchnorm"),
    seeds=3,
)
SUITE = Suite("unstructured", (GRID, replace(GRID, tasks=("cifar10-jpeg-resnet20[2000]",))))

test_case = case_test("unstructured")
