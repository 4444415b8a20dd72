"""Records to pictures: which ones a suite has, and the same SVG from the same records."""

import re
from io import BytesIO
from itertools import cycle

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from wfbench.output.budgets import headline
from wfbench.output.looks import COLOURS, GREY, STYLES, legend, looks
from wfbench.report import stats, summary
from wfbench.report.rounding import NOISE, settled_svg
from wfbench.report.tables import harmless, none_first

CREATOR = f"wfbench, matplotlib {matplotlib.__version__}"


def profiles(frame: pd.DataFrame) -> Figure:
    """Share of cases (task, draw, sparsity) that keep some share of the dense accuracy, by budget and recovery.

    The dense network's is that under the same recovery, where it was run.
    Performance profiles of Agarwal et al. 2021; a failed case keeps nothing.
    """
    frame = frame.assign(share=frame["accuracy"] / frame["reference"].fillna(frame["dense_accuracy"]))
    budgets, recoveries = sorted(frame["budget"].unique()), sorted(frame["recovery"].unique(), key=none_first)
    styles = looks(frame[frame["accuracy"].notna()])
    figure = Figure(figsize=(2.8 * len(budgets) + 2.2, 2.4 * len(recoveries) + 0.6), layout="constrained")
    axes = figure.subplots(len(recoveries), len(budgets), sharex=True, sharey=True, squeeze=False)
    thresholds = np.linspace(0, 1, 101)
    for row, recovery in enumerate(recoveries):
        for column, budget in enumerate(budgets):
            axis = axes[row, column]
            cell = frame[(frame["budget"] == budget) & (frame["recovery"] == recovery)]
            for method, look in styles.items():
                shares = cell[cell["method"] == method]["share"].to_numpy(dtype=float)
                if not len(shares):
                    continue
                colour, _, style = look or (GREY, "", "-")
                line = {"color": colour, "linestyle": style, "linewidth": 1.2 if look else 0.6}
                kept = stats.profile(shares, thresholds)
                axis.plot(100 * thresholds, 100 * kept, label=harmless(method) if look else "others", **line)
            axis.set(xlim=(0, 100), ylim=(0, 101))
            axis.tick_params(labelsize=8)
            if row == 0:
                axis.set_title(f"{budget} samples", fontsize=9)
            if column == 0:
                axis.set_ylabel(f"recovery {harmless(recovery)}\nshare of cases, %", fontsize=9)
            if row == len(recoveries) - 1:
                axis.set_xlabel("of the dense accuracy, %", fontsize=9)
    legend(figure, axes)
    return figure


def sensitivity(varied: pd.DataFrame) -> Figure:
    """Accuracy against a numeric option: a panel a method, a colour a task and budget, a line a sparsity.

    Other values, such as `cross-validated`, are horizontal lines of the same colour.
    """
    methods = sorted(varied["base"].unique())
    sparsities = sorted(varied["sparsity"].unique())
    groups = sorted({(task, budget) for task, budget in zip(varied["task"], varied["budget"], strict=True)})
    width = min(4, len(methods))
    rows = -(-len(methods) // width)
    figure = Figure(figsize=(2.9 * width + 2.6, 2.5 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, width, sharey=True, squeeze=False)
    for axis in axes.flat[len(methods) :]:
        axis.set_axis_off()
    for axis, method in zip(axes.flat, methods, strict=False):
        for (marker, style), sparsity in zip(cycle(STYLES), sparsities, strict=False):
            for colour, (task, budget) in zip(cycle(COLOURS), groups, strict=False):
                at = (varied["base"] == method) & (varied["sparsity"] == sparsity) & (varied["task"] == task)
                line = varied[at & (varied["budget"] == budget)].sort_values("number")
                look = {"color": colour, "linestyle": style, "linewidth": 1.2}
                label = f"{harmless(task)}, {budget} samples, {100 * sparsity:g} %"
                numbers = line[line["number"].notna()]
                axis.plot(
                    numbers["number"], 100 * numbers["accuracy"], marker=marker, markersize=3, label=label, **look
                )
                for value in line[line["value"] == "cross-validated"]["accuracy"]:
                    axis.axhline(100 * value, **{**look, "linewidth": 0.6})
        axis.set(xscale="log", ylim=(0, 100))
        axis.set_title(harmless(method), fontsize=9)
        axis.set_xlabel(harmless(varied[varied["base"] == method]["option"].iloc[0]), fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0, 0].set_ylabel("accuracy, %\n(thin: cross-validated)", fontsize=9)
    legend(figure, axes)
    return figure


def macs(frame: pd.DataFrame, recovery: str) -> Figure:
    """Accuracy against the MACs left, at the largest budget: a row a task, a column a scope, a line a method.

    A row begins below its least named point; others may lie lower.
    """
    shown = frame[(frame["recovery"] == recovery) & frame["macs"].notna() & frame["accuracy"].notna()]
    shown = shown[shown["budget"] == shown["budget"].max()]
    names = [name.removesuffix(f" ({scope})") for name, scope in zip(shown["method"], shown["scope"], strict=True)]
    shown = shown.assign(left=shown["macs"] / shown["dense_macs"], method=names)  # a column is a scope already
    tasks, scopes, styles = sorted(shown["task"].unique()), sorted(shown["scope"].unique()), looks(shown)
    figure = Figure(figsize=(3.4 * len(scopes) + 2.4, 2.4 * len(tasks) + 0.6), layout="constrained")
    axes = figure.subplots(len(tasks), len(scopes), sharex=True, sharey="row", squeeze=False)
    for row, task in enumerate(tasks):
        named = shown[(shown["task"] == task) & shown["method"].isin([name for name, look in styles.items() if look])]
        least = 100 * named.groupby(["method", "scope", "sparsity"])["accuracy"].mean().min()
        for column, scope in enumerate(scopes):
            axis, cell = axes[row, column], shown[(shown["task"] == task) & (shown["scope"] == scope)]
            for method, look in styles.items():
                line = cell[cell["method"] == method].groupby("sparsity")[["left", "accuracy"]].mean()
                colour, marker, style = look or (GREY, "", "-")
                axis.plot(
                    100 * line["left"],
                    100 * line["accuracy"],
                    color=colour,
                    marker=marker,
                    linestyle=style,
                    markersize=3,
                    linewidth=1.2 if look else 0.6,
                    label=harmless(method) if look else "others",
                )
            axis.axhline(100 * cell["dense_accuracy"].mean(), color="grey", linewidth=0.8, linestyle=(0, (1, 2)))
            axis.set(xlim=(100, 0), ylim=(max(0, 5 * ((least - 2 + NOISE) // 5)), 100))
            axis.tick_params(labelsize=8)
            if row == 0:
                axis.set_title(f"scope {scope}, recovery {harmless(recovery)}", fontsize=9)
            if column == 0:
                axis.set_ylabel(f"{harmless(task)}\naccuracy, %", fontsize=9)
            if row == len(tasks) - 1:
                axis.set_xlabel("MACs left, %", fontsize=9)
    legend(figure, axes)
    return figure


def render(suite: str, frame: pd.DataFrame, cells: pd.DataFrame) -> dict[str, bytes]:
    """The suite's pictures, the same bytes from the same records; none where nothing succeeded."""
    if cells.empty or not cells["accuracy"].notna().any():
        return {}
    whole = frame
    frame, cells = frame[frame["setting"] == usual(cells)], cells[cells["setting"] == usual(cells)]
    drawn = {f"figures/{suite}-profiles.svg": profiles(frame)}
    if ((cells["recovery"] == "none") & cells["accuracy"].notna()).any():
        drawn[f"figures/{suite}.svg"] = headline(cells)
    if "macs" in whole and (whole["macs"].notna() & whole["accuracy"].notna()).any():
        recoveries = sorted(whole[whole["macs"].notna()]["recovery"].unique(), key=none_first)
        drawn |= {
            f"figures/{suite}-macs-{re.sub(r'[^a-z0-9-]', '_', name)}.svg": macs(whole, name) for name in recoveries
        }
    varied = summary.options(cells)
    varied = varied[(varied["recovery"] == "none") & (varied["option"] == "damping")]
    if len(varied):
        drawn[f"figures/{suite}-sensitivity.svg"] = sensitivity(varied)
    return {name: svg(figure) for name, figure in drawn.items()}


def usual(cells: pd.DataFrame) -> str:
    """The setting that is drawn; the others have tables."""
    return "" if (cells["setting"] == "").any() else str(cells["setting"].mode()[0])


def svg(figure: Figure) -> bytes:
    """The same bytes from the same figure, on every machine."""
    return settled_svg(_saved(figure, "svg", {"Date": None}))


def pdf(figure: Figure) -> bytes:
    """The same bytes from the same figure; letters are letters, as publishers ask for."""
    return _saved(figure, "pdf", {"CreationDate": None})


def _saved(figure: Figure, format: str, metadata: dict[str, str | None]) -> bytes:
    file = BytesIO()
    with matplotlib.rc_context(
        {
            "svg.hashsalt": "wfbench",
            "svg.fonttype": "path",
            "pdf.fonttype": 42,
            "font.family": "DejaVu Sans",
            "path.simplify": False,  # which points of a line could be left out is decided by the last digits
        }
    ):
        figure.savefig(file, format=format, metadata={**metadata, "Creator": CREATOR})
    return file.getvalue()


def from_another_matplotlib(name: str, content: bytes) -> bool:
    """Whether a picture was drawn by another version than this one, whose bytes need not be the same."""
    return name.endswith(".svg") and b"wfbench, matplotlib" in content and CREATOR.encode() not in content
