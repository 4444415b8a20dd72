"""EfficientNet-Lite0 on a thousand classes: half of the weights, or 30 % of the MACs, from 16 to 256 photographs.

744 photographs are scored, so that the standard error of an accuracy, in the tables, is as large as many differences.
"""

from dataclasses import replace

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

WEIGHTS = Grid(
    tasks=("imagenet-efficientnet-lite0",),
    methods=("magnitude", "woodfisher", "obc", "obs-distilled", "lobs", "kfac", "sparsegpt"),
    budgets=(16, 64, 256),
    sparsities=(0.5,),
    recoveries=("none", "batchnorm"),
    seeds=1,
)
"""`obc` stands before `obs-distilled`, which takes its order of the same samples from there."""
CHANNELS = replace(
    WEIGHTS,
    methods=("filter-l1", "obs-filter"),
    sparsities=(0.3,),
    pattern="filter",
    of="macs",
    scopes=("layer",),
)
ALLOCATED = replace(CHANNELS, methods=("obs-distilled",), scopes=("global",))
FEW = replace(CHANNELS, methods=("woodfisher-filter",), budgets=(16, 64))
MANY = replace(CHANNELS, methods=("woodfisher-filter[rank=64]",), budgets=(256,))
"""As many rows as samples for each of thousands of channels would be too much: their strongest directions."""
SNOWS = replace(WEIGHTS, methods=("snows",), budgets=(16,), recoveries=("none",))
REPAIRED = replace(WEIGHTS, methods=("magnitude", "woodfisher"), budgets=(16,), recoveries=("repair",))
"""It keeps less than BatchNorm re-estimation; from more photographs it takes a minute a case, or longer."""
SUITE = Suite("imagenet", (WEIGHTS, CHANNELS, ALLOCATED, FEW, MANY, SNOWS, REPAIRED))

test_case = case_test("imagenet")
