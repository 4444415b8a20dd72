"""Without labels: how many labels to draw from the network itself, against methods that need none."""

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

GRID = Grid(
    methods=(
        "magnitude",
        "obc",
        "woodfisher-unlabeled-joint",
        "woodfisher-unlabeled-joint[draws=4]",
        "woodfisher-unlabeled-joint[draws=16]",
        "woodfisher-exact[update=joint]",
    ),
    budgets=(10, 25, 50),
    sparsities=(0.6, 0.8, 0.9),
    recoveries=("none", "batchnorm"),
    seeds=5,
)
SUITE = Suite("unlabeled", (GRID,))

test_case = case_test("unlabeled")
