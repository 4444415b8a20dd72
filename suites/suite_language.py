"""A language model on 8, 32 and 128 texts, half of its weights removed; an encoder; and listeners to tones.

Texts of 128 tokens, scored by the next one; descriptions of a line, scored by their section. Methods that choose within
layers do so as in their papers. A layer of the large listener reads 65536 numbers a place, too many for methods that
hold their products by pairs.
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
    tasks=("tones-crepe-tiny",),
    methods=("magnitude", "wanda", "sparsegpt", "lobs", "woodfisher", "kfac"),
    budgets=(8, 32, 128),
    sparsities=(0.5, 0.8),
    recoveries=("none",),
    seeds=2,
)
SECTIONS = replace(TONES, tasks=("debian-minilm-l6",))
LARGE = replace(TONES, tasks=("tones-crepe-full",), methods=("magnitude", "woodfisher"), budgets=(8, 32))
SUITE = Suite("language", (HALF, PAIRS, SECTIONS, TONES, LARGE))

test_case = case_test("language")
