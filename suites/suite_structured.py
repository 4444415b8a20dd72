"""Whole channels: every method that takes them out, by MACs, allocated over all layers and evenly; and 2:4 weights.

WoodFisher's best and its rivals stand in with five draws and with 50 samples too; on the convolutional networks of two
hundred thousand weights evenly thinned ones alone, since both scopes would take twice as long, but for `obs-distilled`.
CIFAR-10 is on request: `--tasks cifar10-jpeg-resnet20`; what the suite `cifar` has of it is taken from there.
"""

from dataclasses import replace

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

SMALL = ("digits-cnn", "fashion-mlpnet")
LARGE = ("fashion-resnet20[2000]", "fashion-mobilenetv1[2000]", "cifar10-jpeg-resnet20[2000]")
TASKS = SMALL + LARGE
LEAD = (
    *("obs-distilled", "woodfisher-filter-logits"),
    *("random-filter", "filter-l1", "filter-l2", "fpgm", "bn-scale", "tp-l2", "tp-lamp"),
    *("taylor-filter", "group-fisher", "ggn-filter", "kfac-filter", "thinet", "obs-filter"),
)

EVERY = Grid(
    tasks=TASKS,
    budgets=(10, 100),
    sparsities=(0.3, 0.5, 0.7),
    recoveries=("none", "batchnorm", "repair"),
    seeds=3,
    pattern="filter",
    of="macs",
    scopes=("global", "layer"),
)
FEW = replace(EVERY, methods=LEAD, budgets=(10, 50, 100), seeds=5)
TWO_OF_FOUR = Grid(
    tasks=TASKS,
    methods=("lobs", "magnitude", "sparsegpt", "wanda", "woodfisher", "woodfisher-joint"),
    budgets=(10, 100),
    sparsities=(0.5,),
    recoveries=("none", "batchnorm", "repair"),
    seeds=3,
    pattern="n:m",
)
SUITE = Suite(
    "structured",
    (
        EVERY,
        replace(FEW, tasks=SMALL, methods=("woodfisher-filter-unlabeled", *LEAD)),
        replace(FEW, tasks=LARGE, scopes=("layer",)),
        replace(FEW, tasks=LARGE, scopes=("global",), methods=("obs-distilled",)),
        TWO_OF_FOUR,
    ),
)

test_case = case_test("structured")
