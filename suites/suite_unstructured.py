"""Single weights: every method, four tasks, three budgets."""

from collections.abc import Callable

import pytest

from wfbench.harness.case import Case
from wfbench.harness.suite import Suite

SUITE = Suite(
    "unstructured",
    budgets=(10, 100, 1000),
    sparsities=(0.6, 0.7, 0.8, 0.9, 0.95),
    recoveries=("none", "batchnorm"),
    seeds=3,
)


@pytest.mark.unstructured
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
