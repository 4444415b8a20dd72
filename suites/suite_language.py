"""A language model on 8, 32 and 128 texts, half of its weights removed; an encoder of texts and a listener to tones.

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
SUITE = Suite("language", (HALF, PAIRS))

test_case = case_test("language")
