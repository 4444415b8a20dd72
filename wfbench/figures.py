"""Records to pictures: deterministic SVG, colours that colour-blind readers can tell apart (Okabe & Ito 2008)."""

from io import BytesIO

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from wfbench.tables import harmless

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = (("o", "-"), ("s", "--"), ("^", ":"))


CREATOR = f"wfbench, matplotlib {matplotlib.__version__}"
NAMED = 8
ALWAYS = ("magnitude", "woodfisher")
GREY = "#BBBBBB"


def budgets(summary: pd.DataFrame, recovery: str = "none") -> Figure:
    """Accuracy against data budget: a row a task, a column a sparsity, a line a method, bars the 95 % intervals.

    The eight methods with the best mean accuracy, magnitude and woodfisher have a name; the others are grey.
    """
    shown = summary[(summary["recovery"] == recovery) & summary["accuracy"].notna()]
    tasks, sparsities = sorted(shown["task"].unique()), sorted(shown["sparsity"].unique())
    looks = _looks(shown)
    figure = Figure(figsize=(2.6 * len(sparsities) + 2.2, 2.4 * len(tasks) + 0.6), layout="constrained")
    axes = figure.subplots(len(tasks), len(sparsities), sharex=True, sharey="row", squeeze=False)
    for row, task in enumerate(tasks):
        for column, sparsity in enumerate(sparsities):
            axis, cell = axes[row, column], shown[(shown["task"] == task) & (shown["sparsity"] == sparsity)]
            if row == 0:
                axis.set_title(f"{100 * sparsity:g} % of weights removed", fontsize=9)
            if column == 0:
                axis.set_ylabel(f"{harmless(task)}\naccuracy, %", fontsize=9)
            if cell.empty:
                axis.set_axis_off()
                continue
            for number, (method, look) in enumerate(looks.items()):
                _line(axis, cell[cell["method"] == method], 1.03 ** (number - len(looks) / 2), method, look)
            axis.axhline(100 * cell["dense_accuracy"].mean(), color="grey", linewidth=0.8, linestyle=(0, (1, 2)))
            axis.set(xscale="log", ylim=(0, 100), xticks=sorted(shown["budget"].unique()))
            axis.set_xticklabels([f"{budget:g}" for budget in sorted(shown["budget"].unique())])
            axis.minorticks_off()
            axis.tick_params(labelsize=8, labelbottom=True)
            if row == len(tasks) - 1:
                axis.set_xlabel("calibration samples", fontsize=9)
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}  # noqa: B905
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _looks(shown: pd.DataFrame) -> dict[str, tuple[str, str, str] | None]:
    """Colour, marker and line of each method, best mean accuracy first; None for those that stay grey, drawn first."""
    means = shown.groupby("method")["accuracy"].mean().sort_values(ascending=False, kind="stable")
    named = [name for place, name in enumerate(means.index) if place < NAMED or name in ALWAYS]
    styles = {
        name: (COLOURS[number % len(COLOURS)], *STYLES[number // len(COLOURS) % len(STYLES)])
        for number, name in enumerate(named)
    }
    return dict.fromkeys(sorted(set(means.index) - set(named))) | styles


def _line(axis: Axes, line: pd.DataFrame, shift: float, method: str, look: tuple[str, str, str] | None) -> None:
    line = line.sort_values("budget")
    budget, accuracy = line["budget"], 100 * line["accuracy"]
    if look is None:
        axis.plot(budget, accuracy, color=GREY, linewidth=0.6, label="others")
        return
    colour, marker, style = look
    axis.errorbar(
        budget * shift,
        accuracy,
        100 * line["half_width"].fillna(0),
        color=colour,
        marker=marker,
        linestyle=style,
        markersize=3,
        linewidth=1.2,
        elinewidth=0.6,
        ecolor=(*to_rgb(colour), 0.35),
        label=harmless(method),
    )


def render(suite: str, cells: pd.DataFrame) -> dict[str, bytes]:
    """`figures/<suite>.svg`, the same bytes from the same cells; nothing where nothing succeeded."""
    if cells.empty or not ((cells["recovery"] == "none") & cells["accuracy"].notna()).any():
        return {}
    file = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "wfbench", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        budgets(cells).savefig(file, format="svg", metadata={"Date": None, "Creator": CREATOR})
    return {f"figures/{suite}.svg": file.getvalue()}


def from_another_matplotlib(name: str, content: bytes) -> bool:
    """Whether a picture was drawn by another version than this one, whose bytes need not be the same."""
    return name.endswith(".svg") and b"wfbench, matplotlib" in content and CREATOR.encode() not in content
