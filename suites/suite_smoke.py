"""A few methods on the embedded digits: shows in minutes that everything works, and what a table looks like."""

from collections.abc import Callable

import pytest

from wfbench.harness.case import Case
from wfbench.harness.suite import Suite

SUITE = Suite(
    "smoke",
    tasks=("digits-cnn",),
    methods=("magnitude", "random", "diag-fisher", "woodfisher", "woodfisher-joint", "woodfisher-unlabeled-joint"),
    budgets=(16, 64, 256),
    sparsities=(0.5, 0.8, 0.9),
    recoveries=("none",),
    seeds=3,
)


@pytest.mark.smoke
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
