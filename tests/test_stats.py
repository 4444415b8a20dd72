"""Statistics against scipy, brute force and simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from benchmarks.coverage import covered
from wfbench.report import stats

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("n", [3, 4, 10])
def test_the_student_interval_is_scipys(n: int) -> None:
    values = RANDOM.normal(size=n)
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = stats.student(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.estimate == pytest.approx(values.mean())


@pytest.mark.parametrize("values", [[0.5], [0.3, 0.7]])
def test_fewer_than_three_values_have_no_interval_and_none_has_nothing(values: list[float]) -> None:
    few = stats.student(np.array(values))
    assert few.estimate == 0.5
    assert np.isnan([few.low, few.high]).all()
    assert np.isnan(stats.student(np.array([])).estimate)


@pytest.mark.parametrize("n", [4, 8, 12])
def test_the_interquartile_mean_leaves_a_quarter_out_on_each_side(n: int) -> None:
    values = RANDOM.normal(size=n)
    assert stats.iqm(values) == pytest.approx(np.sort(values)[n // 4 : n - n // 4].mean())


def test_the_hierarchical_bootstrap_of_one_task_is_scipys_percentile_bootstrap() -> None:
    values = RANDOM.normal(size=30)
    expected = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = stats.hierarchical(values[None])
    spread = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.05 * spread)
    assert found.high == pytest.approx(expected.high, abs=0.05 * spread)


def test_the_hierarchical_bootstrap_is_every_resample_there_is() -> None:
    """Two tasks of three draws: 4 pairs of tasks x 27 x 27 ways to draw, enumerated."""
    values = np.array([[0.1, 0.3, 0.35], [0.6, 0.7, 0.9]])
    means = [
        np.mean([values[task][list(draws)].mean() for task, draws in zip(tasks, picks, strict=True)])
        for tasks in itertools.product(range(2), repeat=2)
        for picks in itertools.product(itertools.product(range(3), repeat=3), repeat=2)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    found = stats.hierarchical(values)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.011)


def test_missing_draws_are_left_out_and_missing_tasks_count_for_nothing() -> None:
    values = np.array([[0.4, np.nan, 0.6, 0.5], [np.nan] * 4, [0.9, 0.9, 0.9, 0.9]])
    found = stats.hierarchical(values)
    assert found.estimate == pytest.approx(0.7)
    assert 0.4 <= found.low <= 0.7 <= found.high <= 0.9
    assert np.isnan(stats.hierarchical(np.full((2, 2), np.nan)).estimate)


def test_a_task_of_two_draws_leaves_the_mean_without_an_interval() -> None:
    found = stats.hierarchical(np.array([[0.4, np.nan, 0.6], [0.9, 0.9, 0.9]]))
    assert found.estimate == pytest.approx(0.7)
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("n", [3, 6, 10])
def test_a_difference_has_the_p_of_scipys_test_over_all_signs(n: int) -> None:
    values = RANDOM.normal(0.5, 1, n)
    expected = scipy_stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    (found,) = stats.differences([values])
    assert found.p == found.holm_p == pytest.approx(expected.pvalue)
    assert found.interval.estimate == pytest.approx(values.mean())
    assert found.pairs == n


def test_the_interval_of_a_difference_by_hand() -> None:
    """Six pairs have 63 subsets; 5 % of 64 leave one mean beyond each end: the least pair and the greatest."""
    (found,) = stats.differences([np.array([3.0, 1, 2, 5, 4, 9])])
    assert (found.interval.estimate, found.interval.low, found.interval.high) == (4, 1, 9)
    assert found.p == pytest.approx(2 / 64)
    assert found.significant
    (mixed,) = stats.differences([np.array([3.0, -1, 2, 5, 4, 9])])  # only {-1} has a mean below zero
    assert (mixed.interval.low, mixed.interval.high) == (-1, 9)
    assert mixed.p == pytest.approx(4 / 64)
    assert not mixed.significant


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 9), min_size=1, max_size=9), min_size=1, max_size=5))
def test_an_interval_leaves_out_zero_if_and_only_if_the_difference_is_significant(found: list[list[int]]) -> None:
    for one in stats.differences([np.array(values, dtype=float) for values in found]):
        leaves_out = one.interval.low > 0 or one.interval.high < 0  # never for NaN
        assert leaves_out == one.significant == (one.holm_p <= 0.05)
        assert not one.significant or one.interval.low <= one.interval.estimate <= one.interval.high


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=7))
def test_pairs_that_differ_in_nothing_change_no_p(values: list[int]) -> None:
    """Every assignment of signs: at least as far out, on the side where the mean is, twice."""
    some = np.array(values, dtype=float)
    sums = np.array([np.dot(signs, some) for signs in itertools.product([-1, 1], repeat=len(some))])
    expected = min(1, 2 * np.mean(sums >= abs(some.sum()) - 1e-9))
    assert stats.differences([some])[0].p == pytest.approx(expected)
    assert stats.differences([np.append(some, [0.0, 0.0])])[0].p == pytest.approx(expected)


def test_more_pairs_than_have_all_their_subsets_taken() -> None:
    """Normal differences: the level of a random sample of subsets is that of Student's t within a fifth."""
    values = np.random.default_rng(5).normal(0.4, 1, 40)
    (found,) = stats.differences([values])
    assert found.p == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue, rel=0.2)
    student = stats.student(values)
    assert (found.interval.low, found.interval.high) == pytest.approx((student.low, student.high), abs=0.05)
    assert found == stats.differences([values])[0]


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(6)
    held = [stats.differences([random.normal(1, 2, 8)])[0].interval for _ in range(400)]
    assert np.mean([one.low <= 1 <= one.high for one in held]) == pytest.approx(0.953, abs=0.03)  # 12 of 256 beyond


def test_rounding_noise_is_not_beyond_zero() -> None:
    (found,) = stats.differences([np.array([0.1 + 0.2 - 0.3, *[0.1] * 5])])  # the first is 5.6e-17, no difference
    assert found.p == pytest.approx(4 / 64)
    assert (found.interval.low, found.significant) == (0.0, False)


def test_equal_pairs_and_none() -> None:
    same, none = stats.differences([np.zeros(7), np.array([])])
    assert (same.p, same.interval, same.significant) == (1.0, stats.Interval(0.0, 0.0, 0.0), False)
    assert (none.pairs, none.p, none.significant) == (0, 1.0, False)
    assert np.isnan(none.interval.estimate)


def test_rule_14_ten_pairs_for_twenty_comparisons_and_no_fewer() -> None:
    assert [stats.pairs_needed(comparisons) for comparisons in (1, 2, 12, 13, 20)] == [6, 7, 9, 10, 10]
    rest = [np.array([1.0, -1])] * 19
    for pairs, reached in ((10, True), (9, False)):
        first = stats.differences([np.arange(1.0, pairs + 1), *rest])[0]
        assert first.significant == reached
        assert np.isfinite([first.interval.low, first.interval.high]).all() == reached
        assert (first.needed, first.holm_p) == (10, pytest.approx(20 * 2 / 2**pairs))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_its_definition(p: list[float]) -> None:
    order = sorted(range(len(p)), key=lambda i: p[i])
    expected, running = {}, 0.0
    for place, index in enumerate(order):
        running = max(running, min(1, (len(p) - place) * p[index]))
        expected[index] = running
    assert stats.holm(np.array(p)).tolist() == pytest.approx([expected[i] for i in range(len(p))])


def test_rule_13_a_failed_case_scores_chance_and_ties_for_last() -> None:
    scores = np.array([[0.9, np.nan, 0.05, 0.5], [np.nan, np.nan, 0.2, 0.1]])
    assert stats.ranks(scores, 0.1).tolist() == [[1, 3.5, 3.5, 2], [3, 3, 1, 3]]


@settings(max_examples=50)
@given(st.integers(2, 6), st.integers(2, 8), st.integers(0, 1000))
def test_ranks_of_a_block_add_up(blocks: int, methods: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, (blocks, methods)) / 4
    assert stats.ranks(scores, 0.0).sum(1).tolist() == pytest.approx([methods * (methods + 1) / 2] * blocks)


def test_the_critical_difference_is_demsars_table() -> None:
    """Demšar 2006, table 5(a): q = 1.960 for 2 methods, 2.569 for 4, 3.164 for 10; his example: 1.25 for 4 on 14."""
    for methods, q in ((2, 1.960), (4, 2.569), (10, 3.164)):
        expected = q * (methods * (methods + 1) / 6) ** 0.5
        assert stats.critical_difference(methods, 1) == pytest.approx(expected, rel=1e-3)
    assert stats.critical_difference(4, 14) == pytest.approx(1.25, abs=0.01)


def test_friedman_is_scipys_where_nothing_fails() -> None:
    scores = RANDOM.uniform(0.2, 1, (12, 4))
    assert stats.friedman(scores, 0.1) == pytest.approx(scipy_stats.friedmanchisquare(*scores.T).pvalue)
    assert stats.friedman(np.full((3, 4), np.nan), 0.1) == 1.0


def test_a_profile_counts_the_cases_that_reach_each_threshold() -> None:
    found = stats.profile(np.array([0.2, 0.5, np.nan, 0.9]), np.array([0.0, 0.5, 0.95]))
    assert found.tolist() == [0.75, 0.5, 0.0]


def test_samples_needed_lies_between_budgets_on_a_logarithmic_scale() -> None:
    budgets, rising = np.array([100.0, 10, 1000]), np.array([[0.6, 0.4, 0.8]] * 4)
    found = stats.samples_needed(budgets, rising, 0.7)
    assert found.samples == pytest.approx(10**2.5)
    assert (found.low, found.high) == pytest.approx((found.samples, found.samples))
    assert stats.samples_needed(budgets, rising, 0.3).samples == 0
    assert stats.samples_needed(budgets, rising, 0.9).samples == float("inf")
    assert stats.samples_needed(budgets, rising, 0.6).samples == pytest.approx(100)


def test_samples_needed_has_the_spread_of_its_draws() -> None:
    budgets = np.array([10.0, 100])
    accuracies = np.array([[0.5, 0.9], [0.5, 0.7], [0.6, 0.8]])
    found = stats.samples_needed(budgets, accuracies, 0.75)
    assert found.low < found.samples < found.high == float("inf")
    two = stats.samples_needed(budgets, accuracies[:2], 0.75)
    assert np.isfinite(two.samples)
    assert np.isnan([two.low, two.high]).all()


def test_variance_components_are_those_of_the_simulation() -> None:
    random = np.random.default_rng(3)
    tasks, draws, repeats = 400, 6, 5
    values = (
        random.normal(0, 3, (tasks, 1, 1))
        + random.normal(0, 2, (tasks, draws, 1))
        + random.normal(0, 1, (tasks, draws, repeats))
    )
    found = stats.variance_components(values)
    assert (found.task, found.draw, found.method) == pytest.approx((9, 4, 1), rel=0.15)
    once = stats.variance_components(values[:, :, :1])
    assert np.isnan(once.method)
    assert once.draw == pytest.approx(5, rel=0.15)
    assert np.isnan(stats.variance_components(values[:1]).task)


@pytest.mark.parametrize("draws", [3, 5, 10])
def test_coverage_in_simulation(draws: int) -> None:
    """95 % for normal draws (binomial error of 300 trials: ±4); what else is narrower, and stays above 75 %."""
    assert 0.91 <= covered(draws, "student", trials=300) <= 0.99
    assert 0.75 <= covered(draws, "skewed", trials=300) <= 0.99
    assert 0.75 <= covered(draws, "hierarchical", trials=300) <= 0.99
