"""Two result sets, paired by case: what changed, the significant first."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wfbench.errors import WfbenchError
from wfbench.harness.record import IDENTITY, NUMERICS
from wfbench.report import stats
from wfbench.report.frames import load_results

GROUP = ["task", "method", "recovery"]


@dataclass(frozen=True)
class Comparison:
    """`changes` has a line a task, method and recovery: B minus A over paired cases, the significant first."""

    changes: pd.DataFrame
    pairs: int
    identical: int
    only_in_a: int
    only_in_b: int
    warnings: tuple[str, ...]

    @property
    def worse(self) -> pd.DataFrame:
        """The groups in which B is significantly below A."""
        return self.changes[self.changes["significant"] & (self.changes["difference"] < 0)]


def compare(a: Path, b: Path) -> Comparison:
    """Pair the cases of two result folders by their identity; a failed case scores 0.

    The cases of a group (draws, budgets, sparsities) are taken as pairs of Wilcoxon's test, Holm over the groups;
    those of one draw are not independent, so this is on the bold side.

    Raises:
        WfbenchError: a folder without records, or no case that both have.
    """
    first, second = _loaded(a), _loaded(b)
    both = first.merge(second, on=["suite", *IDENTITY], suffixes=("_a", "_b"), validate="one_to_one")
    if both.empty:
        raise WfbenchError(f"{a} and {b} have no case in common; compare runs of the same suite, tasks and budgets")
    scores = {side: both[f"accuracy_{side}"].fillna(0).to_numpy(dtype=float) for side in ("a", "b")}
    both["change"] = scores["b"] - scores["a"]
    rows: list[dict[str, Any]] = []
    for names, group in both.groupby(GROUP, sort=True):
        change = group["change"].to_numpy(dtype=float)
        found = stats.paired(change, np.zeros(len(change)))
        rows.append(
            {
                **dict(zip(GROUP, names, strict=True)),
                "difference": found.interval.estimate,
                "low": found.interval.low,
                "high": found.interval.high,
                "pairs": found.pairs,
                "p": found.p,
                "failed_a": int((group["status_a"] == "failed").sum()),
                "failed_b": int((group["status_b"] == "failed").sum()),
            }
        )
    changes = pd.DataFrame(rows)
    changes["holm_p"] = stats.holm(changes["p"].to_numpy(dtype=float))
    changes["significant"] = changes["holm_p"] <= stats.ALPHA
    order = changes.assign(size=-changes["difference"].abs()).sort_values(
        ["significant", "size", *GROUP], ascending=[False, True, True, True, True], kind="stable"
    )
    return Comparison(
        changes.loc[order.index].reset_index(drop=True),
        len(both),
        int((both["change"] == 0).sum()),
        len(first) - len(both),
        len(second) - len(both),
        tuple(_warnings(both)),
    )


def _loaded(folder: Path) -> pd.DataFrame:
    frame = load_results(folder)
    if frame.empty:
        raise WfbenchError(f"no records (*.jsonl) in {folder}; give a results folder")
    return frame


def _warnings(both: pd.DataFrame) -> list[str]:
    found = []
    for name in NUMERICS:
        seen = [
            sorted({str(where.get(name)) for where in both[f"environment_{side}"] if isinstance(where, dict)})
            for side in ("a", "b")
        ]
        if seen[0] != seen[1]:
            found.append(f"{name.replace('_', ' ')} differs: {', '.join(seen[0])} in A, {', '.join(seen[1])} in B")
    return found
