"""Masks, updates and recoveries on a residual network: six methods, scored on a fixed subset of 2000 test images."""

from collections.abc import Callable

import pytest

from wfbench.harness.case import Case
from wfbench.harness.suite import Suite

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
    also=(
        Suite(
            "one cell of 2000 steps",
            tasks=(TASK,),
            methods=("magnitude",),
            budgets=(50,),
            sparsities=(0.9,),
            recoveries=("distill-2000",),
            seeds=5,
        ),
    ),
)


@pytest.mark.attribution
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
