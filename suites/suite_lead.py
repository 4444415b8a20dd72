"""Ten to a hundred samples: WoodFisher's best against every rival, under the same recoveries."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from wfbench.harness.case import Case
from wfbench.harness.suite import Suite

WOODFISHERS = (
    "woodfisher",
    "woodfisher-joint",
    "woodfisher-unlabeled-joint",
    "woodtaylor-joint",
    "woodfisher-staged",
)
RIVALS = (
    *("random", "magnitude", "magnitude-layer", "lamp", "snip", "taylor", "diag-fisher", "obd", "mfac", "obert"),
    *("kfac-exact", "lobs", "lobs-global", "obc", "sparsegpt", "wanda", "chita", "snows"),
    *("staged-magnitude", "staged-lobs-global"),
)
SMALL = ("digits-cnn", "fashion-mlpnet")

EVERYWHERE = Suite(
    "lead",
    tasks=(*SMALL, "fashion-resnet20[2000]", "fashion-mobilenetv1[2000]"),
    methods=(*WOODFISHERS, *RIVALS),
    budgets=(10, 50, 100),
    sparsities=(0.6, 0.8, 0.9),
    recoveries=("none", "batchnorm", "repair"),
    seeds=5,
    only_declared=True,
)
ROW_A_CLASS = ("woodfisher-exact[update=joint]", "woodfisher-logits")
"""Up to 1000 rows, rescored in 32 stages: too long on the convolutional networks."""
SUITE = replace(
    EVERYWHERE,
    also=(
        replace(EVERYWHERE, tasks=SMALL, methods=ROW_A_CLASS),
        replace(EVERYWHERE, name="the paper's recipe from 1000 samples", methods=("woodfisher",), budgets=(1000,)),
    ),
)


@pytest.mark.lead
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
