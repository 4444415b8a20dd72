"""The headline picture: accuracy against data budget, or a dot a method where there is one budget only."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy import ndarray

from wfbench.output.looks import GREY, NAMED, Look, legend, looks
from wfbench.report.rounding import fixed
from wfbench.report.tables import harmless

MARGIN = 0.07
"""Room at both ends of an axis, as a share of what it shows."""
ASIDE = 0.014
"""From one to the next of points that would overlap, as a share of what the axis shows."""
TALL = 0.025
"""Share of the height that a point takes."""
GRIDS = (0.1, 0.2, 0.5, 1, 2, 5, 10)
"""Ends of an accuracy axis are multiples of one of these, in points."""
SCALES = "each panel has its own scale;\nbars: 95 % intervals; dotted: dense"


def headline(cells: pd.DataFrame, recovery: str = "none") -> Figure:
    """A row a task, a column a sparsity, bars the 95 % intervals; the best methods have a name, the rest are grey.

    An axis of accuracies spans the means of the named methods, so that their differences show: others may lie outside.

    Args:
        cells: of `summary.cells`, those of one setting.
        recovery: which of their recoveries is drawn.
    """
    shown = cells[(cells["recovery"] == recovery) & cells["accuracy"].notna()]
    shown = shown.assign(
        percent=[float(fixed(100 * value, 2)) for value in shown["accuracy"]],  # all that decides about scales
        width=[float(fixed(100 * value, 2)) for value in shown["half_width"].fillna(0)],
    )
    return _lines(shown) if shown["budget"].nunique() > 1 else _dots(shown)


def _lines(shown: pd.DataFrame) -> Figure:
    styles, budgets = looks(shown), sorted(map(int, shown["budget"].unique()))
    tasks, sparsities = shown["task"].nunique(), shown["sparsity"].nunique()
    figure = Figure(figsize=(2.7 * sparsities + 2.6, 2.4 * tasks + 0.6), layout="constrained")
    axes = figure.subplots(tasks, sparsities, sharex=True, squeeze=False)
    room = (budgets[-1] / budgets[0]) ** MARGIN
    for axis, cell in _panels(axes, shown, "accuracy, %, "):
        axis.set(xscale="log", xlim=(budgets[0] / room, budgets[-1] * room), xticks=budgets)
        axis.set_xticklabels([f"{budget:g}" for budget in budgets])
        axis.minorticks_off()
        axis.tick_params(labelbottom=True)
        axis.set_ylim(*_ends(_named(cell, styles)))
        axis.axhline(100 * cell["dense_accuracy"].mean(), color="grey", linewidth=0.8, linestyle=(0, (1, 2)))
        _draw(axis, cell, styles, budgets)
    for axis in axes[-1]:
        axis.set_xlabel("calibration samples", fontsize=9)
    legend(figure, axes, SCALES)
    return figure


def _panels(axes: ndarray, shown: pd.DataFrame, unit: str = "") -> Iterator[tuple[Axes, pd.DataFrame]]:
    """Each panel with its cells; it has its titles, and is empty where there are no cells."""
    setting = shown["setting"].iloc[0]
    what = f"removed, {harmless(setting)}" if setting else "of weights removed"
    tasks, sparsities = sorted(shown["task"].unique()), sorted(shown["sparsity"].unique())
    for column, sparsity in enumerate(sparsities):
        axes[0, column].set_title(f"{100 * sparsity:g} % {what}", fontsize=9)
    for row, task in enumerate(tasks):
        ours = shown[shown["task"] == task]
        label = f"{harmless(task)}\n{unit}dense {fixed(100 * ours['dense_accuracy'].mean(), 1)} %"
        for column, sparsity in enumerate(sparsities):
            axis, cell = axes[row, column], ours[ours["sparsity"] == sparsity]
            axis.tick_params(labelsize=8)
            if cell.empty:
                axis.set_axis_off()
                continue
            axis.set_ylabel(label, fontsize=8)
            label = ""
            yield axis, cell


def _draw(axis: Axes, cell: pd.DataFrame, styles: dict[str, Look | None], budgets: list[int]) -> None:
    """The lines of one panel, points that would overlap side by side around their budget."""
    low, high = axis.get_ylim()
    gap = float(np.diff(np.log(budgets)).min()) / np.log(budgets[-1] / budgets[0])
    factor = (budgets[-1] / budgets[0]) ** min(ASIDE, 0.7 * gap / (NAMED - 1))
    order = {method: number for number, method in enumerate(styles)}
    cell = cell.assign(order=cell["method"].map(order), x=cell["budget"].astype(float))
    cell = cell.sort_values(["order", "budget"], ignore_index=True)
    named = cell["method"].map(lambda name: styles[name] is not None)
    for _, part in cell[named].groupby("budget"):
        steps = aside(part["percent"].to_numpy(), TALL * (high - low))
        cell.loc[part.index, "x"] = part["budget"] * factor**steps
    for method, line in cell.groupby("method", sort=False):
        if look := styles[str(method)]:
            _bars(axis, line["x"], line["percent"], look, label=harmless(method), yerr=line["width"])
        else:
            axis.plot(line["x"], line["percent"], color=GREY, linewidth=0.6, marker=".", markersize=1, label="others")


def aside(heights: Float[ndarray, " n"], tall: float) -> Float[ndarray, " n"]:
    """Steps to the side for points of one budget, so that those of a group that overlaps stand side by side around 0.

    A group keeps the order in which it came; a point that is further than `tall` from the next stays at 0.
    """
    steps, order = np.zeros(len(heights)), np.argsort(heights, kind="stable")
    for group in np.split(order, 1 + np.flatnonzero(np.diff(heights[order]) >= tall)):
        steps[np.sort(group)] = np.arange(len(group)) - (len(group) - 1) / 2
    return steps


def _bars(axis: Axes, x: pd.Series, y: pd.Series, look: Look, **more: Any) -> None:
    colour, marker, style = look
    axis.errorbar(
        x,
        y,
        color=colour,
        marker=marker,
        linestyle=style,
        markersize=3,
        linewidth=1.2,
        elinewidth=0.6,
        ecolor=(*to_rgb(colour), 0.35),
        **more,
    )


def _dots(shown: pd.DataFrame) -> Figure:
    """Methods down, the best first, those without a name together below; accuracies across."""
    styles = looks(shown)
    names = [name for name, look in styles.items() if look]
    others = len(styles) - len(names)
    labels = [*map(harmless, names), *([f"{others} others"] if others else [])]
    tasks, sparsities = shown["task"].nunique(), shown["sparsity"].nunique()
    figure = Figure(figsize=(2.3 * sparsities + 2.6, (0.2 * len(labels) + 0.7) * tasks + 0.3), layout="constrained")
    axes = figure.subplots(tasks, sparsities, sharey=True, squeeze=False)
    for axis, cell in _panels(axes, shown):
        axis.set_xlim(*_ends(_named(cell, styles)))
        axis.set(yticks=range(len(labels)), ylim=(len(labels) - 0.5, -0.5))
        axis.set_yticklabels(labels)
        axis.grid(axis="y", color="#EEEEEE", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.axvline(100 * cell["dense_accuracy"].mean(), color="grey", linewidth=0.8, linestyle=(0, (1, 2)))
        for place, name in enumerate(names):
            dot = cell[cell["method"] == name]
            colour, marker, _ = styles[name] or (GREY, "o", "")
            _bars(axis, dot["percent"], 0 * dot["percent"] + place, (colour, marker, ""), xerr=dot["width"])
        rest = cell[~cell["method"].isin(names)]["percent"]
        axis.plot(rest, 0 * rest + len(names), color=GREY, marker="o", markersize=3, linestyle="")
    for axis in axes[-1]:
        axis.set_xlabel(f"accuracy, %, from {shown['budget'].iloc[0]} samples", fontsize=9)
    return figure


def _named(cell: pd.DataFrame, styles: dict[str, Look | None]) -> pd.Series:
    """What an axis must show: the means of the methods with a name, or of all where none of them is there."""
    named = cell[cell["method"].map(lambda name: styles[name] is not None)]
    return (named if len(named) else cell)["percent"]


def _ends(values: pd.Series) -> tuple[float, float]:
    """Ends of an axis that shows the values, in per cent, with some room: round numbers between 0 and 100."""
    least, most = float(values.min()), float(values.max())
    span = max(most - least, 0.5)
    grid = next((grid for grid in GRIDS if 8 * grid >= span), GRIDS[-1])
    low, high = np.floor((least - MARGIN * span) / grid) * grid, np.ceil((most + MARGIN * span) / grid) * grid
    return max(0.0, float(low)), min(100.0, float(high))
