"""Wrong labels and balanced draws: what labelled methods make of them."""

from wfbench import Grid, Suite
from wfbench.draws import RANDOM, Sampling
from wfbench.pytest_plugin import case_test

GRID = Grid(
    tasks=("digits-cnn", "fashion-mlpnet"),
    methods=("chita", "diag-fisher", "woodfisher", "woodfisher-joint", "woodtaylor", "woodtaylor-joint"),
    budgets=(10, 50),
    sparsities=(0.8, 0.9),
    recoveries=("none",),
    seeds=5,
    samplings=(RANDOM, Sampling("k-shot"), Sampling(wrong_labels=0.1), Sampling(wrong_labels=0.3)),
)
SUITE = Suite("lowdata-labels", (GRID,))

test_case = case_test("lowdata")
