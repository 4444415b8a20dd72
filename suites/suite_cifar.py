"""CIFAR-10 as JPEG with the paper's ResNet-20: single weights and whole channels from 10 to 100 unlabelled samples.

Scored on a fixed subset of 2000 test images. Distillation follows the methods that other tasks rank first, and
magnitude. Channels are thinned evenly, but by `obs-distilled` and the guide that it follows. The paper's recipe from
1000 samples stands beside them.
"""

from dataclasses import replace

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

WEIGHTS = Grid(
    tasks=("cifar10-jpeg-resnet20[2000]",),
    methods=(
        *("obs-distilled", "magnitude", "lamp", "woodfisher", "woodfisher-joint", "woodfisher-staged", "kfac-exact"),
        *("lobs-global", "obc", "sparsegpt", "wanda", "snows", "staged-magnitude"),
    ),
    budgets=(10, 50, 100),
    sparsities=(0.6, 0.8, 0.9),
    recoveries=("none", "batchnorm", "repair"),
    seeds=5,
)
CHANNELS = replace(
    WEIGHTS,
    methods=(
        *("random-filter", "filter-l1", "woodfisher-filter", "woodfisher-filter-logits"),
        *("kfac-filter", "group-fisher", "thinet", "obs-filter"),
    ),
    sparsities=(0.3, 0.5, 0.7),
    pattern="filter",
    of="macs",
    scopes=("layer",),
)
ALLOCATED = replace(CHANNELS, methods=("obs-distilled", "woodfisher-filter-logits"), scopes=("global",))
DISTILLED = tuple(
    replace(grid, methods=methods, recoveries=("distill-200", "distill-batchnorm"))
    for grid, methods in (
        (WEIGHTS, ("magnitude", "woodfisher", "woodfisher-staged", "obc", "staged-magnitude")),
        (CHANNELS, ("filter-l1", "woodfisher-filter-logits", "obs-filter")),
    )
)
PAPERS_RECIPE = replace(WEIGHTS, methods=("woodfisher",), budgets=(1000,))
SUITE = Suite("cifar", (WEIGHTS, CHANNELS, ALLOCATED, *DISTILLED, PAPERS_RECIPE))

test_case = case_test("cifar")
