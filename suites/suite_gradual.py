"""Pruning in steps with training in between: on all 55 000 training samples, and on the few of a budget."""

from collections.abc import Callable

import pytest

from wfbench.harness.case import Case
from wfbench.harness.suite import Suite

METHODS = ("gradual-magnitude", "gradual-woodfisher", "gradual-woodfisher-unlabeled-joint")

SUITE = Suite(
    "gradual",
    tasks=("fashion-mlpnet",),
    methods=METHODS,
    budgets=(100, 1000, 55_000),
    sparsities=(0.9, 0.95),
    recoveries=("none",),
    seeds=3,
    also=(
        Suite(
            "a residual network",
            tasks=("fashion-resnet20",),
            methods=METHODS[:2],
            budgets=(55_000,),
            sparsities=(0.9,),
            recoveries=("none",),
            seeds=1,
        ),
    ),
)


@pytest.mark.gradual
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
