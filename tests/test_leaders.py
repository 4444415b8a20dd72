"""Who leads, against intervals worked out by hand."""

import math
from typing import Any

import pytest

from tests.test_tables import record, text_of
from wfbench.report import frames, leaders


def leader_of(records: list[dict[str, Any]]) -> leaders.Leader:
    ((_, found),) = leaders.leaders(frames.frame_of(records))
    return found


def drawn(method: str, *accuracies: float | None) -> list[dict[str, Any]]:
    return [record(seed, accuracy, method=method, chance=0.1) for seed, accuracy in enumerate(accuracies)]


def test_level_are_those_whose_paired_interval_reaches_zero() -> None:
    """Differences −0.02 ± 2.48 times their spread (t of two degrees of freedom is 4.30): zero from 0.00805 on."""
    half = 4.302653 / math.sqrt(3)
    base = (0.9, 0.5, 0.7)  # draws differ far more than methods do; only pairs can tell them apart
    for spread, reaches in ((0.019 / half, False), (0.021 / half, True)):
        other = [value - 0.02 + step * spread for value, step in zip(base, (-1, 0, 1), strict=True)]
        found = leader_of(drawn("best", *base) + drawn("other", *other))
        assert (found.method, found.level, found.draws) == ("best", ("other",) if reaches else (), 3)
        assert found.accuracy == pytest.approx(0.7)


def test_the_level_ones_come_best_first_and_the_table_names_four() -> None:
    records = drawn("best", 0.9, 0.7, 0.8)
    for number in range(1, 7):
        records += drawn(f"m{number}", 0.9 - 0.02 * number, 0.7, 0.8)
    assert leader_of(records).level == tuple(f"m{number}" for number in range(1, 7))
    assert "best 80.0; level: m1, m2, m3, m4 and 2 more" in text_of(records, "-leaders")


def test_a_failed_draw_scores_chance() -> None:
    found = leader_of(drawn("steady", 0.6, 0.6, 0.6) + drawn("brilliant", 0.9, 0.9, None))
    assert found.method == "brilliant"
    assert found.accuracy == pytest.approx((0.9 + 0.9 + 0.1) / 3)
    assert leader_of(drawn("steady", 0.7, 0.7, 0.7) + drawn("brilliant", 0.9, 0.9, None)).method == "steady"


def test_draws_that_one_of_them_lacks_are_no_pairs() -> None:
    found = leader_of(drawn("best", 0.9, 0.8, 0.9) + drawn("short", 0.8, 0.7))
    assert (found.method, found.level, found.draws) == ("best", (), 3)  # twice −0.1, without spread


def test_one_or_two_draws_tell_nothing_apart_and_say_so() -> None:
    pair = drawn("best", 0.9, 0.8) + drawn("other", 0.9, 0.8)
    assert leader_of(pair).level == ()
    assert "best 85.0 (2 draws, no interval)" in text_of(pair, "-leaders")
    records = drawn("best", 0.9) + drawn("other", 0.9)
    assert leader_of(records).level == ()
    assert "best 90.0 (1 draw, no interval)" in text_of(records, "-leaders")


def test_budgets_recoveries_and_sparsities_have_cells_of_their_own() -> None:
    records = [
        record(seed, accuracy, method=method, budget=budget, recovery=recovery, sparsity=sparsity)
        for budget in (4, 16)
        for recovery in ("repair", "none")
        for sparsity in (0.5, 0.95)
        for seed in range(3)
        for method, accuracy in (("low", 0.3 + (budget == 16) * 0.5), ("high", 0.6))
    ]
    rows = [line.split("|")[1:-1] for line in text_of(records, "-leaders").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[0] == ["samples", "recovery", "50 %", "95 %"]
    assert [row[:2] for row in cells[2:]] == [["4", "none"], ["4", "repair"], ["16", "none"], ["16", "repair"]]
    assert [row[2:] for row in cells[2:]] == [["high 60.0"] * 2] * 2 + [["low 80.0"] * 2] * 2


def test_a_single_method_leads_nobody() -> None:
    assert list(leaders.leaders(frames.frame_of(drawn("alone", 0.9, 0.8)))) == []
    assert list(leaders.leaders(frames.frame_of([]))) == []
