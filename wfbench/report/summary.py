"""Records to summaries: one frame a question, numbers only; tables and the report give them their looks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wfbench.report import stats
from wfbench.report.frames import GROUP

BLOCK = ["budget", "recovery", "sparsity", "setting"]
FIGURES = [
    *("dense_accuracy", "reference", "reference_half_width", "accuracy", "half_width", "magnitude_overlap", "seconds"),
    *("draws", "failed"),
]
REFERENCE = "magnitude"
SHARE_OF_DENSE = 0.95


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """One line a cell: mean accuracy over draws, 95 % half-width (Student t; NaN below three draws), counts.

    The mean is over the draws that succeeded; `failed` counts the others. `reference` is the dense network's under the
    same recovery with the same samples.
    """
    if frame.empty:
        return pd.DataFrame(columns=[*GROUP, "accuracy"])
    grouped, ok = frame.groupby(GROUP, sort=True), (frame["status"] == "ok").to_numpy()
    means = frame[ok].groupby(GROUP, sort=True)[["dense_accuracy", "magnitude_overlap", "seconds"]].mean()
    found = grouped.size().rename("draws").to_frame().join(means)
    accuracy, reference = (frame[name].to_numpy(dtype=float) for name in ("accuracy", "reference"))
    places = [np.asarray(grouped.indices[cell]) for cell in found.index]
    good = [at[ok[at]] for at in places]
    intervals = [stats.student(accuracy[at]) for at in good]
    found["accuracy"] = [interval.estimate for interval in intervals]
    found["half_width"] = [interval.high - interval.estimate for interval in intervals]
    levels = [stats.student(reference[at][np.isfinite(reference[at])]) for at in places]
    found["reference"] = [interval.estimate for interval in levels]
    found["reference_half_width"] = [interval.high - interval.estimate for interval in levels]
    found["failed"] = found["draws"] - [len(at) for at in good]
    found["draws"] -= found["failed"]
    return found.reset_index()[[*GROUP, *FIGURES]]


def options(cells: pd.DataFrame) -> pd.DataFrame:
    """The lines of methods named `METHOD[option=value]`, with columns `base`, `option`, `value` and its `number`.

    A value that is no number has NaN there.
    """
    split = cells["method"].str.extract(r"^(?P<base>.+)\[(?P<option>\w+)=(?P<value>[^\]]*)\](?P<under> \(\w+\))?$")
    split["base"] += split.pop("under").fillna("")
    found = cells.join(split)[split["option"].notna()]
    return found.assign(number=pd.to_numeric(found["value"], errors="coerce"))


@dataclass(frozen=True)
class Block:
    """What can be compared over the tasks of a budget, recovery and sparsity.

    Args:
        key: values of `BLOCK`.
        wide: accuracies, a row for each (task, seed), a column a method; NaN is a failed one.
        draws: how many draws of a task are in, and how many its methods have between them.
        lacking: the methods that are left out, with the tasks that they lack.
        apart: the tasks that are left out, as no method has them and all the others.
    """

    key: tuple[Any, ...]
    wide: pd.DataFrame
    draws: dict[str, tuple[int, int]]
    lacking: dict[str, tuple[str, ...]]
    apart: tuple[str, ...]


def blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """For every budget, recovery and sparsity the most tasks that a method has, and the methods that have them all.

    Of several such sets of tasks it is the one that most methods have. Draws are those that all these methods have.
    """
    accuracies = frame.groupby([*BLOCK, "task", "seed", "method"], sort=True)["accuracy"].agg(["mean", "size"])
    for key, group in accuracies.groupby(level=[*BLOCK], sort=True):
        cells = group.droplevel([*BLOCK])
        counted, wide = cells["size"].unstack("method").notna(), cells["mean"].unstack("method")
        has = counted.groupby(level="task").any()
        sets = {method: frozenset(has.index[has[method]]) for method in has}
        tasks = min(sets.values(), key=lambda one: (-len(one), -sum(one <= has for has in sets.values()), sorted(one)))
        lacking = {str(method): tuple(sorted(tasks - found)) for method, found in sets.items() if tasks - found}
        there = counted[counted.index.isin(tasks, level="task")].drop(columns=[*lacking])
        inside = there[there.all(axis=1)]
        if inside.empty:
            continue
        draws = inside.groupby(level="task").size(), there.any(axis=1).groupby(level="task").sum()
        counts = {task: (int(draws[0][task]), int(draws[1][task])) for task in draws[0].index}
        yield Block(key, wide.loc[inside.index, inside.columns], counts, lacking, tuple(sorted({*has.index} - tasks)))


def _by_task(wide: pd.DataFrame) -> np.ndarray:
    """A block's accuracies as an array (method, task, seed), NaN where a task has no such seed."""
    tasks = wide.index.get_level_values("task").nunique()
    return wide.unstack("seed").to_numpy(dtype=float).reshape(tasks, wide.shape[1], -1).swapaxes(0, 1)


def overall(frame: pd.DataFrame) -> pd.DataFrame:
    """Over tasks: mean accuracy with the hierarchical bootstrap's interval, mean rank and the critical difference.

    On complete blocks (task × draw). A failed case scores chance in the ranks, where the record tells chance, else
    nothing; means are over the successes.
    """
    rows = []
    chance = float(frame["chance"].max()) if "chance" in frame else 0.0
    tracks: dict[tuple[str, str], set[str]] = {}
    for method, recovery, track in zip(frame["method"], frame["recovery"], frame["track"], strict=True):
        tracks.setdefault((method, recovery), set()).add(track)
    for block in blocks(frame):
        wide = block.wide
        places = stats.ranks(wide.to_numpy(), chance).mean(0)
        difference = stats.critical_difference(wide.shape[1], len(wide)) if wide.shape[1] > 1 else float("nan")
        friedman = stats.friedman(wide.to_numpy(), chance)
        for method, rank, values in zip(wide.columns, places, _by_task(wide), strict=True):
            interval = stats.hierarchical(values)
            good = values[np.isfinite(values)]
            rows.append(
                {
                    **dict(zip(BLOCK, block.key, strict=True)),
                    "method": method,
                    "track": "/".join(sorted(tracks[method, block.key[1]])),
                    "accuracy": interval.estimate,
                    "low": interval.low,
                    "high": interval.high,
                    "iqm": stats.iqm(good) if len(good) else float("nan"),
                    "rank": rank,
                    "critical_difference": difference,
                    "friedman_p": friedman,
                    "tasks": len(values),
                    "blocks": len(wide),
                    "failed": len(wide) - len(good),
                }
            )
    return pd.DataFrame(rows)


def differences(frame: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """Every method minus the reference, paired by task and draw: mean, interval, p by Holm over the block's methods.

    The interval leaves out zero if and only if p is at most 5 %; it is NaN where that is out of reach of so few pairs.
    """
    rows: list[dict[str, Any]] = []
    for block in blocks(frame):
        wide = block.wide
        if reference not in wide:
            continue
        against = wide.drop(columns=reference).sub(wide[reference], axis=0)
        values = against.to_numpy(dtype=float).T
        found = stats.differences([one[np.isfinite(one)] for one in values])
        for method, one in zip(against.columns, found, strict=True):
            rows.append(
                {
                    **dict(zip(BLOCK, block.key, strict=True)),
                    "method": method,
                    "reference": reference,
                    "difference": one.interval.estimate,
                    "low": one.interval.low,
                    "high": one.interval.high,
                    "pairs": one.pairs,
                    "needed": one.needed,
                    "p": one.p,
                    "holm_p": one.holm_p,
                    "significant": one.significant,
                }
            )
    return pd.DataFrame(rows)


def efficiency(frame: pd.DataFrame) -> pd.DataFrame:
    """How many samples a method needs to reach magnitude with BatchNorm re-estimation, and 95 % of the dense accuracy.

    For each task, sparsity and recovery, over draws that have every budget. Magnitude's level is its mean over
    all draws at the largest budget; the dense network's is that under the same recovery, where it was run.
    """
    rows = []
    ways = ["task", "sparsity", "setting"]
    for (task, sparsity, unusual), part in frame.groupby(ways, sort=True) if len(frame) else []:
        base = part[(part["method"] == REFERENCE) & (part["recovery"] == "batchnorm")]
        base = base[base["budget"] == base["budget"].max()]["accuracy"].mean()
        most = part[part["budget"] == part["budget"].max()]
        dense = most.groupby("recovery")["reference"].mean().fillna(part["dense_accuracy"].mean())
        by_draw = part.pivot_table(index=["method", "recovery", "seed"], columns="budget", values="accuracy")
        budgets = by_draw.columns.to_numpy(dtype=float)
        for (method, recovery), group in by_draw.groupby(level=["method", "recovery"], sort=True):
            wide = group.to_numpy(dtype=float)
            run = np.isfinite(wide).any(0)
            wide = wide[np.isfinite(wide[:, run]).all(1)][:, run]
            if len(wide) < 1 or wide.shape[1] < 2:
                continue
            levels = {
                "magnitude + batchnorm": base,
                "95 % of dense": SHARE_OF_DENSE * dense.get(recovery, part["dense_accuracy"].mean()),
            }
            for name, level in levels.items():
                if not np.isfinite(level):
                    continue
                needed = stats.samples_needed(budgets[run], wide, float(level))
                found = {"samples": needed.samples, "low": needed.low, "high": needed.high}
                limits = {"smallest": budgets[run].min(), "largest": budgets[run].max(), "draws": len(wide)}
                where = {"task": task, "sparsity": sparsity, "setting": unusual, "recovery": recovery, "method": method}
                rows.append({**where, "level": name, "level_accuracy": level, **found, **limits})
    return pd.DataFrame(rows)


def components(frame: pd.DataFrame) -> pd.DataFrame:
    """For every budget, recovery and sparsity: standard deviations between tasks and between draws, mean over methods.

    A draw is run once, so its part holds the method's own randomness too.
    """
    rows = []
    for block in blocks(frame):
        found = []
        for values in _by_task(block.wide):
            values = values[:, ~np.isnan(values).any(0)]
            if values.shape[0] > 1 and values.shape[1] > 1:
                found.append(stats.variance_components(values[:, :, None]))
        if found:
            task, draw = np.mean([one.task for one in found]), np.mean([one.draw for one in found])
            rows.append({**dict(zip(BLOCK, block.key, strict=True)), "task_sd": task**0.5, "draw_sd": draw**0.5})
    return pd.DataFrame(rows)


def failures(frame: pd.DataFrame) -> pd.DataFrame:
    """What failed, where, how often, and why."""
    if frame.empty or "reason" not in frame:
        return pd.DataFrame(columns=["task", "method", "budget", "recovery", "reason", "cases"])
    failed = frame[frame["status"] == "failed"].fillna({"reason": "no reason given"})
    grouped = failed.groupby(["task", "method", "budget", "recovery", "reason"], sort=True)
    return grouped.size().reset_index(name="cases")
