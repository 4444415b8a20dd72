"""From five samples to a hundred: six methods, five draws."""

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

GRID = Grid(
    methods=("magnitude", "obc", "snows", "woodfisher", "woodfisher-joint", "woodfisher-unlabeled-joint"),
    budgets=(5, 10, 25, 50, 100),
    sparsities=(0.6, 0.8, 0.9),
    recoveries=("none", "batchnorm"),
    seeds=5,
)
SUITE = Suite("lowdata", (GRID,))

test_case = case_test("lowdata")
