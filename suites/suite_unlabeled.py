"""Without labels: how many labels to draw from the network itself, against methods that need none."""

from collections.abc import Callable

import pytest

from wfbench.harness.case import Case
from wfbench.harness.suite import Suite

SUITE = Suite(
    "unlabeled",
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


@pytest.mark.unlabeled
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
