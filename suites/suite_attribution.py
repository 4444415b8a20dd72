"""Mask × update × recovery: every combination of the declared lists, and each mask's controls once."""

from wfbench import Grid, Suite
from wfbench.draws import Sampling
from wfbench.pytest_plugin import case_test

MASKS = ("magnitude", "woodfisher", "woodfisher-joint", "lobs-global", "obc", "random")
UPDATES = ("kept", "woodfisher", "woodfisher-joint", "woodfisher-unlabeled-joint", "obc", "snows")
CONTROLS = tuple(f"{by}-as-{mask}" for mask in MASKS[1:-1] for by in ("magnitude", "random"))

CROSSED = Grid(
    tasks=("digits-cnn",),
    methods=tuple(f"{mask}+{update}" for mask in MASKS for update in UPDATES) + CONTROLS,
    budgets=(50,),
    sparsities=(0.6, 0.8, 0.9),
    recoveries=("none", "batchnorm", "correction", "repair", "distill-200", "finetune-200"),
    seeds=5,
)
WRONG_LABELS = Grid(
    tasks=("digits-cnn",),
    methods=("magnitude+kept",),
    budgets=(50,),
    sparsities=(0.8, 0.9),
    recoveries=("finetune-200",),
    seeds=5,
    samplings=(Sampling("k-shot"), Sampling(wrong_labels=0.1), Sampling(wrong_labels=0.3)),
)
SUITE = Suite("attribution", (CROSSED, WRONG_LABELS))

test_case = case_test("attribution")
