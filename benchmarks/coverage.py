"""How often the 95 % intervals hold the truth, by simulation: `python -m benchmarks.coverage`."""

import numpy as np
from tabulate import tabulate

from wfbench.report.stats import hierarchical, student

TRIALS = 1000
TASKS = 4


def covered(draws: int, kind: str, seed: int = 0, trials: int = TRIALS) -> float:
    """Share of trials whose interval holds the true mean.

    `student`: normal draws of one cell. `skewed`: the same for accuracies near a cliff (Beta(8, 1)). `hierarchical`:
    draws of four tasks whose means are the truth themselves; the interval also allows for other tasks.
    """
    random = np.random.default_rng(seed)
    hits = 0
    for _ in range(trials):
        if kind == "hierarchical":
            means = random.normal(0.8, 0.05, TASKS)
            found = hierarchical(means[:, None] + random.normal(0, 0.05, (TASKS, draws)))
            truth = 0.8
        else:
            values = random.normal(0.8, 0.05, draws) if kind == "student" else random.beta(8, 1, draws)
            truth = 0.8 if kind == "student" else 8 / 9
            found = student(values)
        hits += found.low <= truth <= found.high
    return hits / trials


def main() -> None:
    kinds = ("student", "skewed", "hierarchical")
    rows = [[draws, *(f"{100 * covered(draws, kind):.1f} %" for kind in kinds)] for draws in (3, 5, 10)]
    print(tabulate(rows, headers=["draws", *kinds]))


if __name__ == "__main__":
    main()
