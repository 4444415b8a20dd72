"""Who leads: the best mean of every cell, and the methods that the draws cannot tell from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wfbench.report import stats
from wfbench.report.rounding import NOISE, fixed, snapped
from wfbench.report.tables import Table, percent, unusual

LISTED = 4
"""How many of the methods level with the best a table names."""
CELL = ["task", "setting", "budget", "recovery", "sparsity"]


@dataclass(frozen=True)
class Leader:
    """The best of a cell.

    Args:
        accuracy: mean over draws, in [0, 1]; a failed draw scores chance.
        level: the best first, the methods whose difference from it, paired by draw, has a 95 % Student-t interval that
            reaches zero; not corrected for how many are compared.
        draws: of the best method; with fewer than three there are no intervals, and nobody is level.
    """

    method: str
    accuracy: float
    level: tuple[str, ...]
    draws: int


def leaders(frame: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], Leader]]:
    """The leader of every cell (task, setting, budget, recovery, sparsity) that at least two methods share."""
    for cell, part in frame.groupby(CELL, sort=True) if len(frame) else []:
        chance = part["chance"].max() if "chance" in part else 0.0
        scores = part["accuracy"].where(part["status"] == "ok", chance if chance == chance else 0.0)
        wide = part.assign(score=scores).pivot_table(index="seed", columns="method", values="score")
        if wide.shape[1] < 2:
            continue
        means = pd.Series(snapped(wide.mean()), wide.columns).sort_values(ascending=False, kind="stable")
        best = str(means.index[0])
        against = wide.sub(wide[best], axis=0)
        level = [method for method in means.index[1:] if _reaches_zero(against[method].to_numpy(dtype=float))]
        yield cell, Leader(best, float(means.iloc[0]), tuple(level), int(wide[best].notna().sum()))


def _reaches_zero(difference: np.ndarray) -> bool:
    """Whether the upper end of the interval is zero or above; False where too few values have no interval."""
    return stats.student(difference[np.isfinite(difference)]).high >= -NOISE


def by_task(frame: pd.DataFrame) -> list[Table]:
    """One table a task: budgets and recoveries down, sparsities across."""
    cells = pd.DataFrame([(*cell, _text(leader)) for cell, leader in leaders(frame)], columns=[*CELL, "text"])
    found = []
    for (task, setting), part in cells.groupby(["task", "setting"], sort=True):
        table = part.pivot(index=["budget", "recovery"], columns="sparsity", values="text").fillna("")
        table = table.rename(columns=percent).reset_index()
        table = table.sort_values(["budget", "recovery"], key=lambda column: column.replace("none", ""))
        found.append(Table(f"{task}{unusual(setting)}", table.rename(columns={"budget": "samples"}).astype(str)))
    return found


def _text(leader: Leader) -> str:
    named, more = leader.level[:LISTED], len(leader.level) - LISTED
    level = f"; level: {', '.join(named)}" if named else ""
    return (
        f"{leader.method} {fixed(100 * leader.accuracy, 1)}"
        + level
        + (f" and {more} more" if more > 0 else "")
        + (f" ({leader.draws} draw{'s' * (leader.draws > 1)}, no interval)" if leader.draws < stats.DRAWS else "")
    )
