"""Wrong labels and balanced draws: what labelled methods make of them."""

from collections.abc import Callable

import pytest

from wfbench.data import RANDOM, Sampling
from wfbench.harness.case import Case
from wfbench.harness.suite import Suite

SUITE = Suite(
    "lowdata-labels",
    tasks=("digits-cnn", "fashion-mlpnet"),
    methods=("chita", "diag-fisher", "woodfisher", "woodfisher-joint", "woodtaylor", "woodtaylor-joint"),
    budgets=(10, 50),
    sparsities=(0.8, 0.9),
    recoveries=("none",),
    seeds=5,
    samplings=(RANDOM, Sampling("k-shot"), Sampling(wrong_labels=0.1), Sampling(wrong_labels=0.3)),
)


@pytest.mark.lowdata
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
