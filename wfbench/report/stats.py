"""Statistics on arrays of accuracies; nothing here has seen a network or a record.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", for the interquartile mean,
performance profiles and stratified bootstrap; Demšar 2006, "Statistical comparisons of classifiers over multiple data
sets", for ranks and the critical difference.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from wfbench.report.rounding import NOISE, snapped

RESAMPLES = 2000
LEVEL = 0.95
ALPHA = 0.05


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval; NaN where there are too few values for one."""

    estimate: float
    low: float
    high: float


def student(values: Float[ndarray, " n"]) -> Interval:
    """Mean with Student's t interval: right for normal values from n = 2 on; none for n = 1."""
    n = len(values)
    mean = float(np.mean(values)) if n else float("nan")
    if n < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half)


def iqm(values: Float[ndarray, " n"]) -> float:
    """Interquartile mean: the mean without the lowest and the highest quarter."""
    return float(stats.trim_mean(values, 0.25))


def hierarchical(values: Float[ndarray, "tasks draws"], seed: int = 0) -> Interval:
    """Mean over tasks of the mean over draws, with a percentile interval from resampling tasks, then draws.

    A bootstrap over few draws is too narrow (see `benchmarks/coverage.py`); NaN marks a draw that a task lacks.
    """
    values = values[np.isfinite(values).any(1)]
    tasks, draws = values.shape
    if not tasks:
        return Interval(float("nan"), float("nan"), float("nan"))
    estimate = float(np.nanmean(values, axis=1).mean())
    if np.isfinite(values).sum() < 2:
        return Interval(estimate, float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    chosen = values[random.integers(tasks, size=(RESAMPLES, tasks))]  # [resamples, tasks, draws]
    present = np.isfinite(chosen)
    order = np.argsort(~present, axis=2, kind="stable")  # draws that are there come first
    counts = present.sum(2)
    picks = (random.random((RESAMPLES, tasks, draws)) * counts[..., None]).astype(int)
    resampled = np.take_along_axis(chosen, np.take_along_axis(order, picks, 2), 2)
    weights = np.arange(draws) < counts[..., None]
    means = np.where(weights, resampled, 0).sum(2) / counts
    low, high = np.quantile(means.mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(estimate, float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """Paired by draw: mean difference, number of pairs, Wilcoxon's p, and the least p so many pairs can give."""

    interval: Interval
    pairs: int
    p: float
    least_p: float


def paired(first: Float[ndarray, " n"], second: Float[ndarray, " n"]) -> Difference:
    """`first − second`, pair by pair; pairs with a NaN are left out."""
    difference = (first - second)[np.isfinite(first) & np.isfinite(second)]
    return Difference(student(difference), len(difference), signed_rank_p(difference), least_p(len(difference)))


def signed_rank_p(difference: Float[ndarray, " n"]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, from the exact distribution over signs, ties included.

    Zeros are left out, as Wilcoxon did. scipy's exact test knows no ties, and its permutation test takes seconds.
    """
    nonzero = difference[np.abs(difference) > NOISE]
    doubled = np.rint(2 * stats.rankdata(snapped(np.abs(nonzero)))).astype(int)  # mean ranks are halves
    ways = np.zeros(doubled.sum() + 1)
    ways[0] = 1.0
    for rank in doubled:
        ways[rank:] = (ways[rank:] + ways[:-rank]) / 2 if rank else ways
        ways[:rank] /= 2
    least = min(doubled[nonzero > 0].sum(), doubled[nonzero < 0].sum())
    return float(min(1.0, 2 * ways[: least + 1].sum()))


def least_p(pairs: int) -> float:
    """The smallest two-sided p of Wilcoxon's signed-rank test on so many pairs, all of one sign."""
    return min(1.0, 2.0 ** (1 - pairs))


def reachable(pairs: int, comparisons: int) -> bool:
    """Whether one of so many comparisons can be significant at 5 % after Holm's correction (10 pairs for 20)."""
    return least_p(pairs) * comparisons <= ALPHA


def holm(p: Float[ndarray, " m"]) -> Float[ndarray, " m"]:
    """Holm's step-down adjusted p values (Holm 1979)."""
    order, m = np.argsort(p, kind="stable"), len(p)
    adjusted = np.minimum(1, np.maximum.accumulate(p[order] * (m - np.arange(m))))
    out = np.empty(m)
    out[order] = adjusted
    return out


def ranks(scores: Float[ndarray, "blocks methods"], chance: float) -> Float[ndarray, "blocks methods"]:
    """Rank 1 is best, ties share their mean rank. A failed case (NaN) scores chance; chance and below tie for last."""
    floored = np.where(np.isfinite(scores), np.maximum(scores, chance), chance)
    return stats.rankdata(-snapped(floored), axis=1)


def critical_difference(methods: int, blocks: int) -> float:
    """Nemenyi's: mean ranks further apart than this differ at 5 %. Demšar 2006."""
    q = stats.studentized_range.ppf(1 - ALPHA, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def friedman(scores: Float[ndarray, "blocks methods"], chance: float) -> float:
    """p of Friedman's test that all methods have the same mean rank; 1 where it has nothing to go by."""
    placed = ranks(scores, chance)
    if scores.shape[0] < 2 or scores.shape[1] < 3 or np.all(placed == placed[:, :1]):
        return 1.0
    return float(stats.friedmanchisquare(*placed.T).pvalue)


def profile(scores: Float[ndarray, " n"], thresholds: Float[ndarray, " t"]) -> Float[ndarray, " t"]:
    """Performance profile: the share of cases that reach each threshold; failed ones (NaN) reach none."""
    return (np.nan_to_num(scores, nan=-np.inf)[:, None] >= thresholds - NOISE).mean(0)


@dataclass(frozen=True)
class Needed:
    """Samples needed to reach a level: `low` and `high` end the interval; 0 and infinity lie outside the budgets."""

    samples: float
    low: float
    high: float


def samples_needed(
    budgets: Float[ndarray, " b"], accuracies: Float[ndarray, "draws b"], level: float, seed: int = 0
) -> Needed:
    """The smallest budget at which the mean over draws reaches `level`, between budgets linear in their logarithm.

    0 where the smallest budget is enough already (so: at most that one), infinity where none is. The interval is the
    percentile bootstrap over draws.
    """
    order = np.argsort(budgets)
    logs, accuracies = np.log(budgets[order]), accuracies[:, order]
    random = np.random.default_rng(seed)
    picks = random.integers(len(accuracies), size=(RESAMPLES, len(accuracies)))
    found = np.sort(_crossings(logs, accuracies[picks].mean(1), level))
    low, high = found[int((1 - LEVEL) / 2 * RESAMPLES)], found[int((1 + LEVEL) / 2 * RESAMPLES) - 1]
    return Needed(float(_crossings(logs, accuracies.mean(0)[None], level)[0]), float(low), float(high))


def _crossings(logs: Float[ndarray, " b"], means: Float[ndarray, "r b"], level: float) -> Float[ndarray, " r"]:
    """Where each row first reaches the level; 0 before the first budget, infinity after the last."""
    reached = means >= level - NOISE
    at = reached.argmax(1)
    rows, before = np.arange(len(means)), np.maximum(at - 1, 0)
    rise = np.where(at > 0, means[rows, at] - means[rows, before], 1.0)
    share = (level - means[rows, before]) / np.where(np.abs(rise) <= NOISE, 1.0, rise)
    between = np.exp(logs[before] + share * (logs[at] - logs[before]))
    return np.where(~reached.any(1), np.inf, np.where(at == 0, 0.0, between))


@dataclass(frozen=True)
class Components:
    """Variances, in squared units of the scores; `method` is NaN where no draw was run more than once."""

    task: float
    draw: float
    method: float


def variance_components(values: Float[ndarray, "tasks draws repeats"]) -> Components:
    """Nested random effects by the method of moments: tasks, draws within tasks, repeats within draws; none below 0.

    With one repeat, `draw` holds the method's own randomness too.
    """
    tasks, draws, repeats = values.shape
    of_draw, of_task = values.mean(2), values.mean((1, 2))
    within = float(values.var(axis=2, ddof=1).mean()) if repeats > 1 else float("nan")
    between_draws = float(of_draw.var(axis=1, ddof=1).mean()) if draws > 1 else float("nan")
    between_tasks = float(of_task.var(ddof=1)) if tasks > 1 else float("nan")
    draw = between_draws - (within / repeats if repeats > 1 else 0)
    task = between_tasks - (between_draws / draws if draws > 1 else 0)
    return Components(*(float(np.maximum(part, 0)) for part in (task, draw, within)))
