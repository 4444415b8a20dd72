"""One table for a paper, as LaTeX that a document inputs, with the picture of the same cases beside it."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from wfbench.errors import WfbenchError
from wfbench.output import figures
from wfbench.output.budgets import headline
from wfbench.report import summary
from wfbench.report.frames import load_results, scored, told_apart
from wfbench.report.leaders import CELL, leaders
from wfbench.report.overview import provenance
from wfbench.report.rounding import fixed
from wfbench.report.tables import cell, harmless, percent
from wfbench.writing import whole

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tex")
BEST, LEVEL = "textbf:--rwrap;", "textit:--rwrap;"
USUAL = {"setting": "", "recovery": "none"}
"""What a table does not say where it holds for all of it."""
WORDS = {"budget": "{} samples", "recovery": "recovery {}"}
TITLE, DENSE = -2, -1
"""Places above the methods."""


def write(results: Path, chosen: Mapping[str, Collection[Any] | None], file: Path) -> list[Path]:
    """The table of the chosen cases of a suite, and their picture as PDF and SVG; the paths written.

    Args:
        results: folder of the record files.
        chosen: by column of `load_results` the values that are shown, None for all; methods come in this order.
        file: of the table; its name without `.tex` gives the label and the names of the pictures.

    Raises:
        WfbenchError: a value is in no record, the cases are not those of one suite and one recovery, none of them has
            a result, or the name cannot be a label.
    """
    if not NAME.fullmatch(file.name):
        raise WfbenchError(f"--tex {file}: give a name of letters, digits, '.', '_' and '-' that ends in .tex")
    frame = _chosen(scored(load_results(results)), chosen)
    cells = summary.cells(frame)
    if not cells["accuracy"].notna().any():
        raise WfbenchError("no case that is chosen has a result; tables/<suite>-failures.md has the reasons")
    usual = cells[cells["setting"] == figures.usual(cells)]
    picture = headline(usual, usual["recovery"].iloc[0])
    text = f"% {harmless(provenance(frame))}\n% \\usepackage{{booktabs}}\n"
    text += _table(frame, cells, [*(chosen.get("method") or ())], f"tab:{file.stem}")
    found = {".tex": text.encode(), ".pdf": figures.pdf(picture), ".svg": figures.svg(picture)}
    file.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in found.items():
        with whole(file.with_suffix(suffix)) as part:
            part.write_bytes(content)
    return [file.with_suffix(suffix) for suffix in found]


def _chosen(frame: pd.DataFrame, chosen: Mapping[str, Collection[Any] | None]) -> pd.DataFrame:
    """The rows that are shown, of one suite; `base` is the method as it is asked for, `method` tells scopes apart."""
    frame = frame.assign(base=frame["method"], method=told_apart(frame))
    for column, values in chosen.items():
        here = frame["base" if column == "method" else column] if column in frame else pd.Series(dtype=object)
        if missing := [str(value) for value in values or () if value not in set(here)]:
            there = ", ".join(harmless(value) for value in sorted(set(here))) or "none"
            raise WfbenchError(f"no record is of the {column} {', '.join(missing)}; there are: {there}")
        frame = frame if values is None else frame[here.isin([*values])]
    if frame.empty:
        raise WfbenchError("there are no records; run a suite first, or give --results")
    if frame["suite"].nunique() > 1:
        raise WfbenchError(
            f"what is chosen is in several suites; give --suite {' or '.join(sorted(set(frame['suite'])))}"
        )
    return frame


def _table(frame: pd.DataFrame, cells: pd.DataFrame, methods: list[str], label: str) -> str:
    """Methods down, sparsities across; under one another for each task and what else there are several of."""
    usual = {**USUAL, "budget": cells["budget"].iloc[0]}
    blocks = ["task", *(name for name, value in usual.items() if set(cells[name]) != {value})]
    place = {
        told: methods.index(base) if methods else 0 for told, base in zip(frame["method"], frame["base"], strict=True)
    }
    marks: dict[Any, str] = {}
    for of, leader in leaders(frame):
        marks |= {(*of, method): LEVEL for method in leader.level} | {(*of, leader.method): BEST}
    rows = cells.assign(
        text=[cell(row) for row in cells.itertuples()],
        mark=[marks.get(of, "") for of in cells[[*CELL, "method"]].itertuples(index=False, name=None)],
        place=cells["method"].map(place),
    )
    dense = rows.groupby([*blocks, "sparsity"], as_index=False)["dense_accuracy"].mean().assign(mark="")
    texts = [fixed(100 * accuracy, 1) if accuracy == accuracy else "" for accuracy in dense["dense_accuracy"]]
    titles = [", ".join(WORDS.get(name, "{}").format(row[name]) for name in blocks) for row in dense.to_dict("records")]
    above = [dense.assign(method=titles, place=TITLE, text=""), dense.assign(method="dense", place=DENSE, text=texts)]
    both = pd.concat([*above, rows]).pivot(
        index=[*blocks, "place", "method"], columns="sparsity", values=["text", "mark"]
    )
    both = both.fillna("").rename(columns=percent, level="sparsity").rename(harmless, level="method")
    spans = ["rlap:--rwrap;" * (place == TITLE) for place in both.index.get_level_values("place")]
    both.index.names, both.columns.names = [None] * both.index.nlevels, [None, None]
    style = both.xs("text", axis=1).style.hide(axis=0, level=[*range(both.index.nlevels - 1)])
    style = style.format(lambda text: text.replace("±", r"$\pm$").replace("≈", r"$\approx$"), escape="latex")
    style = style.format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
    style = style.apply_index(lambda _: spans, axis=0, level=both.index.nlevels - 1)
    return style.apply(lambda _: both.xs("mark", axis=1), axis=None).to_latex(
        caption=_caption(cells, "budget" in blocks, any("≈" in text for text in rows["text"])),
        label=label,
        hrules=True,
        position_float="centering",
    )


def _caption(cells: pd.DataFrame, budgets: bool, marked: bool) -> str:
    """In LaTeX, of numbers and words of its own alone: names stand in the table, which is escaped."""
    draws = sorted({*(cells["draws"] + cells["failed"])})
    return (
        "Test accuracy (\\%) by sparsity"
        + ("" if budgets else f" from {cells['budget'].iloc[0]} calibration samples")
        + f": mean over {' to '.join(str(number) for number in dict.fromkeys((draws[0], draws[-1])))} draws "
        "$\\pm$ half of the 95\\,\\% Student-$t$ interval. Bold: the best mean; italic: level with it, the 95\\,\\% "
        "interval of the difference, paired by draw, reaches zero (not corrected for the number of methods)."
        + (" $\\approx$: more than 98\\,\\% of the kept weights are those that magnitude keeps." if marked else "")
    )
