"""From five samples to a hundred: six methods, five draws."""

from collections.abc import Callable

import pytest

from wfbench.harness.case import Case
from wfbench.harness.suite import Suite

SUITE = Suite(
    "lowdata",
    methods=("magnitude", "obc", "snows", "woodfisher", "woodfisher-joint", "woodfisher-unlabeled-joint"),
    budgets=(5, 10, 25, 50, 100),
    sparsities=(0.6, 0.8, 0.9),
    recoveries=("none", "batchnorm"),
    seeds=5,
)


@pytest.mark.lowdata
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
