"""A few methods on the embedded digits: shows in minutes that everything works, and what a table looks like."""

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

GRID = Grid(
    tasks=("digits-cnn",),
    methods=("magnitude", "random", "diag-fisher", "woodfisher", "woodfisher-joint", "woodfisher-unlabeled-joint"),
    budgets=(16, 64, 256),
    sparsities=(0.5, 0.8, 0.9),
    recoveries=("none",),
    seeds=3,
)
SUITE = Suite("smoke", (GRID,))

test_case = case_test("smoke")
