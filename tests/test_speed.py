"""What the benchmarks say of speed, as far as it hangs on no clock."""

import math

import pytest
import torch

from benchmarks import evaluation, exponents
from wfbench import discover


@pytest.mark.parametrize("power", [0.97, 2.05])
def test_an_exponent_is_that_of_a_power(power: float) -> None:
    sizes = (64, 100, 1024)
    assert exponents.exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power, rel=1e-12)


def test_an_exponent_of_even_steps_is_that_between_the_ends() -> None:
    assert exponents.exponent((1, 2, 4), (1, 7, 5)) == pytest.approx(math.log2(5) / 2)


def test_evaluation_is_timed_against_a_loop_that_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    task = discover().task("digits-cnn").scored_on(60)
    row = evaluation.measured(task, torch.device("cpu"), 1)
    assert row["n"] == 60
    assert row["bare loop / ours"] == row["bare loop s"] / row["ours s"]
    monkeypatch.setattr(evaluation, "bare", lambda module, batches: -1)
    with pytest.raises(ValueError, match="right answers, a bare loop -1"):
        evaluation.measured(task, torch.device("cpu"), 1)
