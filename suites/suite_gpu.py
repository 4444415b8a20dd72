"""One case of each kind on a CUDA device, and how fast the engine is there: whether a card works, in one command.

The numbers are to be those of the processor, `--device cpu`, but for last digits and a sample that they move.
"""

from dataclasses import replace

import pytest
import torch

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

WEIGHTS = Grid(
    tasks=("digits-cnn",),
    methods=(
        *("magnitude", "snip", "wanda", "diag-fisher", "kfac", "lobs", "obc", "sparsegpt", "chita", "snows", "mfac"),
        *("woodfisher", "woodfisher-joint", "woodfisher-unlabeled-joint", "woodfisher-full-joint", "woodfisher-staged"),
        "obs-distilled",
    ),
    budgets=(16,),
    sparsities=(0.8,),
    recoveries=("none",),
    seeds=1,
)
RECOVERED = replace(
    WEIGHTS,
    methods=("woodfisher",),
    recoveries=(
        *("batchnorm", "correction", "repair"),
        *("finetune-200", "distill-logits-200", "distill-200", "distill-batchnorm"),
    ),
)
TWO_OF_FOUR = replace(WEIGHTS, methods=("sparsegpt", "woodfisher-joint"), sparsities=(0.5,), pattern="n:m")
CHANNELS = replace(
    WEIGHTS,
    methods=("filter-l2", "group-fisher", "thinet", "obs-filter", "obs-distilled", "woodfisher-filter-unlabeled"),
    sparsities=(0.5,),
    recoveries=("repair",),
    pattern="filter",
    of="macs",
)
SUITE = Suite("gpu", (WEIGHTS, RECOVERED, TWO_OF_FOUR, CHANNELS))

test_case = case_test("gpu")


@pytest.mark.gpu
def test_engine(run_device: torch.device, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the engine's benchmark on the device."""
    engine = pytest.importorskip("benchmarks.__main__", reason="the benchmarks come with the repository alone")
    with capsys.disabled():
        engine.engine(run_device)
