"""Masks, updates and recoveries on a residual network: six methods, scored on a fixed subset of 2000 test images."""

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

TASK = "fashion-resnet20[2000]"

MANY = Grid(
    tasks=(TASK,),
    methods=("magnitude", "lobs-global", "obc", "woodfisher", "woodfisher-joint", "woodfisher-unlabeled-joint"),
    budgets=(10, 50, 100),
    sparsities=(0.6, 0.8, 0.9),
    recoveries=("none", "batchnorm", "repair", "distill-200"),
    seeds=5,
)
LONG = Grid(
    tasks=(TASK,),
    methods=("magnitude",),
    budgets=(50,),
    sparsities=(0.9,),
    recoveries=("distill-2000",),
    seeds=5,
)
"""One cell of 2000 steps."""
SUITE = Suite("attribution-resnet20", (MANY, LONG))

test_case = case_test("attribution")
