"""Records to pictures: deterministic SVG, colours that colour-blind readers can tell apart (Okabe & Ito 2008)."""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = (("o", "-"), ("s", "--"), ("^", ":"))


def budgets(summary: pd.DataFrame, recovery: str = "none") -> Figure:
    """Accuracy against data budget: a row a task, a column a sparsity, a line a method, bars the 95 % intervals."""
    shown = summary[(summary["recovery"] == recovery) & summary["accuracy"].notna()]
    tasks, sparsities = sorted(shown["task"].unique()), sorted(shown["sparsity"].unique())
    methods = sorted(shown["method"].unique())
    figure = Figure(figsize=(3.2 * len(sparsities) + 2.2, 2.4 * len(tasks) + 0.6), layout="constrained")
    axes = figure.subplots(len(tasks), len(sparsities), sharex=True, sharey="row", squeeze=False)
    for row, task in enumerate(tasks):
        for column, sparsity in enumerate(sparsities):
            axis, cell = axes[row, column], shown[(shown["task"] == task) & (shown["sparsity"] == sparsity)]
            for number, method in enumerate(methods):
                line = cell[cell["method"] == method].sort_values("budget")
                marker, style = STYLES[number // len(COLOURS) % len(STYLES)]
                axis.errorbar(
                    line["budget"] * 1.03 ** (number - len(methods) / 2),
                    100 * line["accuracy"],
                    100 * line["half_width"].fillna(0),
                    color=COLOURS[number % len(COLOURS)],
                    marker=marker,
                    linestyle=style,
                    markersize=3,
                    linewidth=1,
                    elinewidth=0.6,
                    ecolor=(*to_rgb(COLOURS[number % len(COLOURS)]), 0.35),
                    label=method,
                )
            axis.axhline(100 * cell["dense_accuracy"].mean(), color="grey", linewidth=0.8, linestyle=(0, (1, 2)))
            axis.set(xscale="log", ylim=(0, 100), xticks=sorted(shown["budget"].unique()))
            axis.set_xticklabels([f"{budget:g}" for budget in sorted(shown["budget"].unique())])
            axis.minorticks_off()
            if row == 0:
                axis.set_title(f"{100 * sparsity:g} % of weights removed", fontsize=9)
            if row == len(tasks) - 1:
                axis.set_xlabel("calibration samples", fontsize=9)
            if column == 0:
                axis.set_ylabel(f"{task}\naccuracy, %", fontsize=9)
            axis.tick_params(labelsize=8)
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}  # noqa: B905
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def write(results: Path, suite: str, summary: pd.DataFrame) -> list[Path]:
    """Write `figures/<suite>.svg`, the same bytes from the same summary; nothing where nothing succeeded."""
    if summary.empty or not ((summary["recovery"] == "none") & summary["accuracy"].notna()).any():
        return []
    path = results / "figures" / f"{suite}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "wfbench", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        budgets(summary).savefig(path, metadata={"Date": None, "Creator": "wfbench"})
    return [path]
