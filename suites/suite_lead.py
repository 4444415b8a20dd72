"""Ten to a hundred samples: `obs-distilled` and WoodFisher's best against every rival, under the same recoveries.

CIFAR-10 is on request: `--tasks cifar10-jpeg-resnet20`; what the suite `cifar` has of it is taken from there.
"""

from dataclasses import replace

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

WOODFISHERS = (
    "woodfisher",
    "woodfisher-joint",
    "woodfisher-unlabeled-joint",
    "woodtaylor-joint",
    "woodfisher-staged",
)
RIVALS = (
    *("random", "magnitude", "magnitude-layer", "lamp", "snip", "taylor", "diag-fisher", "obd", "mfac", "obert"),
    *("kfac-exact", "lobs", "lobs-global", "obc", "sparsegpt", "wanda", "chita", "snows", "snows-drift"),
    *("staged-magnitude", "staged-lobs-global"),
)
SMALL = ("digits-cnn", "fashion-mlpnet")
LARGE = ("fashion-resnet20[2000]", "fashion-mobilenetv1[2000]", "cifar10-jpeg-resnet20[2000]")

EVERYWHERE = Grid(
    tasks=SMALL + LARGE,
    methods=("obs-distilled", *WOODFISHERS, *RIVALS),
    budgets=(10, 50, 100),
    sparsities=(0.6, 0.8, 0.9),
    recoveries=("none", "batchnorm", "repair"),
    seeds=5,
)
ROW_A_CLASS = ("woodfisher-exact[update=joint]", "woodfisher-logits")
"""Up to 1000 rows, rescored in 32 stages: too long on the convolutional networks."""
PAPERS_RECIPE = replace(EVERYWHERE, methods=("woodfisher",), budgets=(1000,))
SUITE = Suite("lead", (EVERYWHERE, replace(EVERYWHERE, tasks=SMALL, methods=ROW_A_CLASS), PAPERS_RECIPE))

test_case = case_test("lead")
