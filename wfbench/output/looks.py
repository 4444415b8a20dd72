"""Which methods a picture names, and their colours: colour-blind readers can tell them apart (Okabe & Ito 2008)."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from wfbench.report.rounding import snapped

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = (("o", "-"), ("s", "--"), ("^", ":"))
GREY = "#BBBBBB"
NAMED = 8
"""How many methods a picture names at most."""
ALWAYS = ("magnitude", "woodfisher")
CELL = ["task", "setting", "budget", "recovery", "sparsity"]
Look = tuple[str, str, str]


def looks(shown: pd.DataFrame) -> dict[str, Look | None]:
    """Colour, marker and line of each method, the best first; None for those that stay grey, which are drawn first.

    The best are furthest above the mean of the methods in a cell, on average over the cells that they have: so a
    method that was run on the easy ones alone does not lead. Magnitude and woodfisher are named wherever they are.
    """
    scores = shown.groupby([*CELL, "method"])["accuracy"].mean()
    above = (scores - scores.groupby(level=CELL).transform("mean")).groupby(level="method").mean()
    order = pd.Series(snapped(above), above.index).sort_values(ascending=False, kind="stable").index
    free = NAMED - sum(name in ALWAYS for name in order)
    best = [name for name in order if name not in ALWAYS][:free]
    named = [name for name in order if name in best or name in ALWAYS]
    styles = {
        name: (COLOURS[number % len(COLOURS)], *STYLES[number // len(COLOURS)]) for number, name in enumerate(named)
    }
    return dict.fromkeys(sorted(set(order) - set(named))) | styles


def legend(figure: Figure, axes: Any, title: str = "") -> None:
    """One legend for all panels, to their right."""
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}  # noqa: B905
    found = figure.legend(
        handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False, title=title or None
    )
    found.get_title().set_fontsize(8)
    found.set_alignment("left")
