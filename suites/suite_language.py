"""A language model on 8, 32 and 128 texts, half of its weights removed; and listeners to tones.

Texts of 128 tokens, scored by the next one. Methods that choose within layers do so as in their papers.
"""

from dataclasses import replace

from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

HALF = Grid(
    tasks=("smollm2-135m-instruct",),
    methods=("magnitude", "magnitude-layer", "wanda", "sparsegpt", "lobs", "woodfisher", "kfac"),
    budgets=(8, 32, 128),
    sparsities=(0.5,),
    recoveries=("none",),
    seeds=2,
)
PAIRS = replace(
    HALF, methods=("magnitude", "wanda", "sparsegpt", "woodfisher", "kfac"), pattern="n:m", scopes=("layer",)
)
TONES = Grid(
    tasks=("tones-crepe-tiny", "tones-crepe-full"),
    methods=("magnitude", "wanda", "sparsegpt", "lobs", "obc", "woodfisher", "kfac", "woodfisher-staged"),
    budgets=(8, 32, 128),
    sparsities=(0.5, 0.8),
    recoveries=("none", "repair"),
    seeds=2,
)
SUITE = Suite("language", (HALF, PAIRS, TONES))

test_case = case_test("language")
