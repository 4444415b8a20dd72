"""Masks, updates and recoveries on a residual network: six methods, scored on a fixed subset of 2000 test images."""

from collections.abc import Callable

import pytest

from wfbench.case import Case
from wfbench.suite import Suite

TASK = "fashion-resnet20[2000]"

SUITE = Suite(
    "attribution-resnet20",
    tasks=(TASK,),
    methods=("magnitude", "lobs-global", "obc", "woodfisher", "woodfisher-joint", "woodfisher-unlabeled-joint"),
    budgets=(10, 50, 100),
    sparsities=(0.6, 0.8, 0.9),
    recoveries=("none", "batchnorm", "repair", "distill-200"),
    seeds=5,
    only_declared=True,
    also=(Suite("one cell of 2000 steps", (50,), (0.9,), ("distill-2000",), 5, (TASK,), ("magnitude",)),),
)


@pytest.mark.attribution
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
