"""Statistics on arrays of accuracies; nothing here has seen a network or a record.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", for the interquartile mean,
performance profiles and stratified bootstrap; Demšar 2006, "Statistical comparisons of classifiers over multiple data
sets", for ranks and the critical difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from wfbench.report.rounding import NOISE, snapped

RESAMPLES = 2000
LEVEL = 0.95
ALPHA = 0.05
DRAWS = 3
"""The fewest values of which an interval says anything: Student's t of two is thirteen times their spread."""
WIDTH = 16
"""Up to so many pairs, all subsets of them are taken; of more, as many random ones."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % interval; NaN where there are too few values for one."""

    estimate: float
    low: float
    high: float


def student(values: Float[ndarray, " n"]) -> Interval:
    """Mean with Student's t interval, right for normal values; none of fewer than three."""
    n = len(values)
    mean = float(np.mean(values)) if n else float("nan")
    if n < DRAWS:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half)


def iqm(values: Float[ndarray, " n"]) -> float:
    """Interquartile mean: the mean without the lowest and the highest quarter."""
    return float(stats.trim_mean(values, 0.25))


def hierarchical(values: Float[ndarray, "tasks draws"], seed: int = 0) -> Interval:
    """Mean over tasks of the mean over draws, with a percentile interval from resampling tasks, then draws.

    A bootstrap over few draws is too narrow (see `benchmarks/coverage.py`), and there is none where a task has fewer
    than three; NaN marks a draw that a task lacks.
    """
    values = values[np.isfinite(values).any(1)]
    tasks, draws = values.shape
    if not tasks:
        return Interval(float("nan"), float("nan"), float("nan"))
    estimate = float(np.nanmean(values, axis=1).mean())
    if np.isfinite(values).sum(1).min() < DRAWS:
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
    """A mean paired difference, as one of several that were asked after together.

    Args:
        interval: of the mean; it leaves out zero if and only if `significant`. NaN where the pairs are too few for one.
        p: two-sided, of this comparison alone.
        holm_p: the same after Holm's correction for all of them.
        significant: at 5 % after Holm's correction.
        needed: so many pairs could be significant among so many comparisons, if all had one sign; fewer could not.
    """

    interval: Interval
    pairs: int
    p: float
    holm_p: float
    significant: bool
    needed: int


def differences(found: Sequence[Float[ndarray, " _"]]) -> list[Difference]:
    """Whether paired differences are zero in the mean, each by the exact test over all its signs.

    If every difference could as well have had the other sign, each mean of a non-empty subset of the pairs is as likely
    to lie above the truth as below, and the ordered means of all subsets end its intervals (Hartigan 1969, "Using
    subsample values as typical values"). Test and interval are two readings of these means: the interval has the level
    at which Holm's correction stops. Pairs that differ in nothing speak for zero.
    """
    needed = pairs_needed(max(1, len(found)))
    width = max(WIDTH, needed)
    p = np.array([_sign_p(_subset_means(values, width)) for values in found])
    adjusted = holm(p)
    significant = adjusted <= ALPHA
    level = ALPHA / max(1, len(found) - int(significant.sum()))
    return [
        Difference(_typical(values, width, level), len(values), float(one), float(holm_p), bool(yes), needed)
        for values, one, holm_p, yes in zip(found, p, adjusted, significant, strict=True)
    ]


def _typical(values: Float[ndarray, " n"], width: int, level: float) -> Interval:
    """The mean, between the ordered means of subsets that leave half of the level on each side."""
    means = np.sort(_subset_means(values, width))
    beyond = int((level + 1e-12) * (len(means) + 1) / 2)
    mean = float(values.mean()) if len(values) else float("nan")
    if not beyond:
        return Interval(mean, float("nan"), float("nan"))
    low, high = (0.0 if abs(end) <= NOISE else float(end) for end in (means[beyond - 1], means[-beyond]))
    return Interval(mean, low, high)


def _sign_p(means: Float[ndarray, " subsets"]) -> float:
    """Two-sided p that the mean is zero; the empty subset counts against, and so does a mean of zero."""
    least = min(int((means <= NOISE).sum()), int((means >= -NOISE).sum()))
    return min(1.0, 2 * (least + 1) / (len(means) + 1))


def _subset_means(values: Float[ndarray, " n"], width: int) -> Float[ndarray, " subsets"]:
    """Means of all non-empty subsets of the values, or of `2**width − 1` random ones where there are more."""
    chosen = _subsets(len(values), width)
    return chosen @ values / chosen.sum(1) if len(values) else np.zeros(0)


@lru_cache(maxsize=4)
def _subsets(n: int, width: int) -> Float[ndarray, "subsets n"]:
    """1 for what is in, a row a subset."""
    if n <= width:
        return (np.arange(1, 2**n)[:, None] >> np.arange(n) & 1).astype(float)
    chosen = np.random.default_rng(0).random((2**width - 1, n)) < 0.5
    return chosen[chosen.any(1)].astype(float)


def pairs_needed(comparisons: int) -> int:
    """The fewest pairs that could be significant at 5 % among so many comparisons, all of one sign: 10 for 20."""
    return next(pairs for pairs in count(1) if 2.0 ** (1 - pairs) * comparisons <= ALPHA)


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
    percentile bootstrap over draws, NaN for fewer than three.
    """
    order = np.argsort(budgets)
    logs, accuracies = np.log(budgets[order]), accuracies[:, order]
    samples = float(_crossings(logs, accuracies.mean(0)[None], level)[0])
    if len(accuracies) < DRAWS:
        return Needed(samples, float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    picks = random.integers(len(accuracies), size=(RESAMPLES, len(accuracies)))
    found = np.sort(_crossings(logs, accuracies[picks].mean(1), level))
    low, high = found[int((1 - LEVEL) / 2 * RESAMPLES)], found[int((1 + LEVEL) / 2 * RESAMPLES) - 1]
    return Needed(samples, float(low), float(high))


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
