"""Whole channels from ten to a hundred samples: WoodFisher's best against every rival, under the same recoveries."""

from collections.abc import Callable

import pytest

from wfbench.case import Case
from wfbench.suite import Suite

SUITE = Suite(
    "lead-structured",
    tasks=("digits-cnn", "fashion-mlpnet", "fashion-resnet20[2000]", "fashion-mobilenetv1[2000]"),
    methods=(
        *("woodfisher-filter-unlabeled", "woodfisher-filter-logits"),
        *("random-filter", "filter-l1", "filter-l2", "fpgm", "bn-scale", "tp-l2", "tp-lamp"),
        *("taylor-filter", "group-fisher", "ggn-filter", "kfac-filter", "thinet", "obs-filter"),
    ),
    budgets=(10, 50, 100),
    sparsities=(0.3, 0.5, 0.7),
    recoveries=("none", "batchnorm", "repair"),
    seeds=5,
    pattern="filter",
    of="macs",
    scopes=("global", "layer"),
    only_declared=True,
)


@pytest.mark.lead
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
