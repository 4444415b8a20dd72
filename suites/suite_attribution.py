"""Mask × update × recovery: every combination of the declared lists, and each mask's controls once."""

from collections.abc import Callable

import pytest

from wfbench.attribution import UPDATES
from wfbench.case import Case
from wfbench.suite import Suite

MASKS = ("magnitude", "woodfisher", "woodfisher-joint", "lobs-global", "obc", "random")
CONTROLS = tuple(f"{by}-as-{mask}" for mask in MASKS[1:-1] for by in ("magnitude", "random"))

SUITE = Suite(
    "attribution",
    tasks=("digits-cnn",),
    methods=tuple(f"{mask}+{update}" for mask in MASKS for update in UPDATES) + CONTROLS,
    budgets=(50,),
    sparsities=(0.6, 0.8, 0.9),
    recoveries=("none", "batchnorm", "correction", "repair", "distill-200", "finetune-200"),
    seeds=5,
)


@pytest.mark.attribution
def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
    run_case(case)
