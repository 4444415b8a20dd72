"""Figures from the literature, as data with their source: shown beside ours, never counted among them.

`literature.csv` holds, in per cent, what the authors of WoodFisher publish with their code (Singh & Alistarh 2020:
gradual pruning of ResNet-50 and MobileNetV1, the comparison with L-OBS). Of a gradual run it is the best epoch at the
final sparsity, which is what the paper's tables give.
"""

from functools import cache
from importlib import resources

import pandas as pd

from wfbench.report.tables import Table, cell, dense_note, percent

SOURCE = "https://github.com/IST-DASLab/WoodFisher"
COMMIT = "207316307361d25160c11eb9c908983c45e269bc"
"""Of the source; each row names the file."""


@cache
def figures() -> pd.DataFrame:
    """What is reported, one row each.

    Columns: task, method, schedule, metric (`top-1`, `top-5`), dense and accuracy [%], sparsity [fraction], file.
    """
    with (resources.files("wfbench.report") / "literature.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def beside_ours(cells: pd.DataFrame) -> list[Table]:
    """One table a task and metric that the literature reports too: its figures first, then ours; sparsities across.

    Args:
        cells: as `summary.cells` gives them; ours are top-1.
    """
    measured = cells[cells["setting"] == ""] if len(cells) else cells
    found = []
    for (task, metric), theirs in figures().groupby(["task", "metric"], sort=True):
        ours = measured[measured["task"].map(lambda name, task=task: name.partition("[")[0] == task).astype(bool)]
        if ours.empty:
            continue
        lines = theirs.assign(how=theirs["schedule"] + " (reported, not measured)")
        lines["text"] = theirs["accuracy"].map("{:.1f}".format)
        if metric == "top-1":
            how = ours["budget"].astype(str) + " samples, " + ours["recovery"] + ", " + ours["scope"]
            lines = pd.concat([lines, ours.assign(how=how, text=[cell(row) for row in ours.itertuples()])])
        rows = list(dict.fromkeys(zip(lines["method"], lines["how"], strict=True)))
        order = sorted(lines["sparsity"].unique())
        table = lines.pivot(index=["method", "how"], columns="sparsity", values="text").fillna("").loc[rows, order]
        dense = " or ".join(f"{value:.1f}" for value in sorted(theirs["dense"].unique()))
        files = ", ".join(sorted(theirs["file"].unique()))
        note = f"Reported: {SOURCE} at {COMMIT}, {files}; from a dense {dense} %."
        rows_of_text = table.rename(columns=lambda share: percent(round(share, 3))).reset_index()
        found.append(Table(f"{task}, {metric}: reported, and ours{dense_note(ours)}", rows_of_text, note))
    return found
