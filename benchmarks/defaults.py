"""The default damping of every method that has one, by one procedure on validation: `python -m benchmarks.defaults`.

Seven values a method: the published one and its multiples by 10^±1, 10^±2, 10^±3. Cells: three tasks, 10 and 50
samples, 80 and 90 % of the single weights or 30 and 50 % of the MACs in whole channels, two draws, no recovery, and
accuracy on at most 500 validation images; of ResNet-20, 50 samples and one draw. A draw's accuracy is the mean over
its sparsities. In each draw a value loses what it stays below the best of its seven; the least mean over the draws
wins. The published value stays unless the winner's gain on it, paired by draw, has a t-test below 0.05 after
Bonferroni's correction for the values that it was picked from. Values that fail in a case are out. Finished cases are
read from the file and not run again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp
from tabulate import tabulate

from wfbench import Case, Filter, Pruner, Target, Task
from wfbench.curvature.damping import Relative
from wfbench.harness.plugins import Registry, discover
from wfbench.harness.runner import Runner
from wfbench.recoveries.base import Recovery
from wfbench.recoveries.names import RECOVERIES
from wfbench.recoveries.repair import LeastSquaresRepair

TASKS: dict[str, tuple[tuple[int, ...], int]] = {
    "digits-cnn": ((10, 50), 2),
    "fashion-mlpnet": ((10, 50), 2),
    "fashion-resnet20": ((50,), 1),
}
"""Budgets and draws of each; the same splits that methods are developed on, never the test split."""
SMALL_ALONE = ("woodfisher-joint",)
"""Not run on ResNet-20, where one case takes minutes."""
IMAGES = 500
WEIGHTS, CHANNELS = (0.8, 0.9), (0.3, 0.5)
POWERS = range(-3, 4)
DRAW = ["task", "budget", "seed"]
CELL = [*DRAW, "sparsity"]
LEVEL = 0.05

PUBLISHED: dict[str, float] = {
    **dict.fromkeys(("woodfisher", "woodfisher-joint", "woodfisher-filter", "chita"), 1e-5),
    **dict.fromkeys(("kfac", "kfac-exact", "kfac-filter"), 1e-5),
    **dict.fromkeys(("lobs", "lobs-global", "obc", "sparsegpt", "obs-filter", "thinet", "repair"), 0.01),
    "obert": 1e-7,
    "snows": 1e-4,
}
"""The authors' value, or where they give none or tune it, that of the paper which compares with them: K-FAC's is from
the sweep of Singh & Alistarh 2020, the layer-wise 1 % of the mean diagonal from SparseGPT's code. Variants that differ
in labels or scope alone take their parent's: `kfac-sampled` that of `kfac-exact`."""


@dataclass(frozen=True)
class Trial:
    """A method with one value of its damping, or magnitude's network repaired with it."""

    method: str
    damping: float

    def parts(self, registry: Registry) -> tuple[Pruner[Any], Recovery[Any]]:
        if self.method == LeastSquaresRepair.name:
            return registry.pruner("magnitude"), LeastSquaresRepair(damping=self.damping)
        pruner: Any = registry.pruner(self.method)
        value = Relative(self.damping) if isinstance(pruner.damping, Relative) else self.damping
        return replace(pruner, damping=value), RECOVERIES["none"]


def validated(task: Task) -> Task:
    """The task with at most 500 images of its validation split in place of the test split."""
    found = replace(task, test=task.validation, accuracies=())  # type: ignore[arg-type]
    return found.scored_on(min(IMAGES, len(task.validation_set)))


def cases(registry: Registry, methods: list[str], tasks: list[str]) -> Iterator[tuple[Trial, Case]]:
    """Every case, so ordered that those of one draw and method follow each other."""
    for name in tasks:
        task, (budgets, draws) = validated(registry.task(name)), TASKS[name]
        for method, seed, budget, power in product(methods, range(draws), budgets, POWERS):
            if method in SMALL_ALONE and name == "fashion-resnet20":
                continue
            trial = Trial(method, float(f"{PUBLISHED[method] * 10.0**power:.6g}"))
            pruner, recovery = trial.parts(registry)
            for target in targets(task, pruner):
                yield trial, Case(task, budget, seed, seed % task.replicates, target, pruner, recovery)


def targets(task: Task, pruner: Pruner[Any]) -> list[Target]:
    if "unstructured" in pruner.patterns:
        return [Target(sparsity, scope=pruner.scope) for sparsity in WEIGHTS]
    pattern = Filter(tuple(task.train_set.take([0]).inputs.shape[1:]))
    return [Target(sparsity, pattern, pruner.scope, "macs") for sparsity in CHANNELS]


def run(path: Path, registry: Registry, methods: list[str], tasks: list[str]) -> None:
    """Append every case that the file lacks, a line of JSON each."""
    done = {key(json.loads(line)) for line in path.read_text().splitlines()} if path.exists() else set()
    runner = Runner()
    with path.open("a") as file:
        for trial, case in cases(registry, methods, tasks):
            row: dict[str, Any] = {
                "method": trial.method, "damping": trial.damping, "task": case.task.name, "budget": case.budget,
                "seed": case.seed, "sparsity": case.target.sparsity,
            }  # fmt: skip
            if key(row) in done:
                continue
            began = time.perf_counter()
            record = runner.run(case)
            row |= {"accuracy": record.accuracy, "reason": record.reason, "seconds": time.perf_counter() - began}
            print(json.dumps(row), file=file, flush=True)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("method", "damping", *CELL))


def chosen(draws: pd.DataFrame, published: float) -> tuple[float, pd.Series]:
    """The damping that the procedure takes, and the mean accuracy lost by each.

    Args:
        draws: accuracies, a row a draw, a column a damping; NaN where a case failed.
    """
    lost = draws.rsub(draws.max(axis=1), axis=0).mean(skipna=False)
    best = float(lost.idxmin())
    if best == published or np.isnan(lost[published]):
        return best, lost
    if len(draws) < 2:
        return published, lost
    found = ttest_1samp(draws[best] - draws[published], 0)
    return (best if found.pvalue * (lost.notna().sum() - 1) < LEVEL else published), lost


def table(rows: pd.DataFrame) -> str:
    """A line a method: the mean loss of each value, in points, and which value the procedure takes."""
    lines = []
    for method, published in PUBLISHED.items():
        of = rows[rows["method"] == method]
        of = of[of.groupby(CELL)["damping"].transform("size") == len(POWERS)]  # cells that are not complete wait
        if of.empty:
            continue
        cells = of.pivot(index=CELL, columns="damping", values="accuracy")
        draws = cells.groupby(level=DRAW).agg(lambda found: found.mean(skipna=False))
        value, lost = chosen(draws, published)
        points = ["failed" if np.isnan(one) else f"{100 * one:.1f}" for one in lost]
        lines.append([f"`{method}`", len(draws), f"{published:g}", *points, f"{value:g}"])
    powers = ["1" if power == 0 else f"10^{power}" for power in POWERS]
    headers = ["method", "draws", "published", *(f"× {power}" for power in powers), "default"]
    return tabulate(lines, headers, "pipe", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.defaults", description=__doc__)
    parser.add_argument("file", type=Path, help="results, a line of JSON a case; runs only what it lacks")
    parser.add_argument("--methods", default=",".join(PUBLISHED), help="comma-separated (default: all)")
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated (default: all)")
    options = parser.parse_args()
    run(options.file, discover(), options.methods.split(","), options.tasks.split(","))
    print(table(pd.DataFrame(map(json.loads, options.file.read_text().splitlines()))))


if __name__ == "__main__":
    main()
