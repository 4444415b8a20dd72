"""Records to tables: titles, cells of text and notes, which `files` writes as Markdown and CSV."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wfbench.report import summary
from wfbench.report.frames import with_perplexity
from wfbench.report.rounding import NOISE, fixed, significant

IN_EFFECT = 0.98
DENSE_ROW = "(dense network)"
"""Stands for a method in the rows of the network that nothing is taken from."""
NOTE = (
    "Test accuracy in per cent by sparsity: mean over draws ± half of the 95 % Student-t interval. "
    "≈: magnitude in effect (the mask shares more than 98 % of its kept weights with global magnitude's)."
)


AGREEMENT = "Where a title says agreement, it stands in the place of accuracy: there are no labels to be scored by. "


def note(frame: pd.DataFrame) -> str:
    """What must be known of the figures of these cases."""
    words = NOTE if (frame["measure"] == "accuracy").all() else AGREEMENT + NOTE
    beside = frame.loc[frame["recovery"] != "none", "reference"].notna().any()
    dense = [f"{DENSE_ROW}: the dense one under the same recovery with the same samples."] if beside else []
    return " ".join([words, *dense, *sampling_error(frame)])


def sampling_error(frame: pd.DataFrame) -> list[str]:
    """How far accuracies may be off because so few test samples are scored: `√(a(1 − a)/n)`, at most ½/√n.

    Of the tasks whose records say how many; nothing where none does.
    """
    known = frame.dropna(subset=["scored"]) if "scored" in frame else frame[:0]
    counts: dict[Any, float] = known.groupby("task", sort=True)["scored"].max().to_dict() if len(known) else {}
    found = [f"{fixed(50 / count**0.5, 1)} on {task} ({int(count)} scored)" for task, count in counts.items()]
    return (
        [f"Standard error of an accuracy as that of a sample, in points, at most {', '.join(found)}."] if found else []
    )


@dataclass(frozen=True)
class Table:
    """A title, cells of text, and what a reader must know about them."""

    title: str
    rows: pd.DataFrame
    note: str = ""


def harmless(text: object) -> str:
    """Text without control and direction characters, which are shown by their code points instead."""
    return "".join(
        f"\\u{ord(char):04x}" if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") else char
        for char in str(text)
    )


def percent(value: Any) -> str:
    """A fraction as a sparsity is written."""
    return f"{100 * value:g} %"


def none_first(recovery: str) -> str:
    """By which recoveries are sorted."""
    return "" if recovery == "none" else recovery


def mean_and_width(mean: float, half_width: float) -> str:
    """In per cent; without a width where there is none."""
    width = "" if np.isnan(half_width) else f" ± {fixed(100 * half_width, 1)}"
    return f"{fixed(100 * mean, 1)}{width}"


def cell(row: Any) -> str:
    """Mean ± half-width of a row of `summary.cells`, in per cent, with what a reader must know beside it."""
    failed = f" ({row.failed} failed)" if row.failed else ""
    if not row.draws:
        return f"failed ({row.failed})"
    same = " ≈" if row.magnitude_overlap > IN_EFFECT + NOISE and not row.method.startswith("magnitude") else ""
    return f"{mean_and_width(row.accuracy, row.half_width)}{same}{failed}"


def _pivot(part: pd.DataFrame, across: str, label: Callable[[Any], str]) -> pd.DataFrame:
    """Methods down, by recovery with `none` first; `across` across."""
    cells = part.assign(text=[cell(row) for row in part.itertuples()])
    first = [name for name in ("place",) if name in cells]
    cells = pd.concat([cells, _dense_rows(part, across, first)])
    ways = [*first, "recovery", "method", "track", "scope"]
    table = cells.pivot(index=ways, columns=across, values="text").fillna("")
    order = sorted(part[across].unique())
    table = table[order].rename(columns=label).reset_index()
    by = [*first, "recovery", "method", "scope"]
    table = table.sort_values(by, key=lambda column: column.replace({"none": "", DENSE_ROW: ""}))
    return table[["method", "track", "recovery", *(label(value) for value in order)]]


def _dense_rows(part: pd.DataFrame, across: str, first: list[str]) -> pd.DataFrame:
    """The dense network under every recovery, as far as it was run; what it is without one stands in the title."""
    cases = part.assign(cases=part["draws"] + part["failed"])
    known = cases[(cases["recovery"] != "none") & cases["reference"].notna()]
    most = known.sort_values("cases", ascending=False, kind="stable")  # a method may have run on fewer draws
    rows = most.drop_duplicates(["recovery", across])
    levels, widths = (rows[name].to_numpy(dtype=float) for name in ("reference", "reference_half_width"))
    found = rows[["recovery", across]].assign(method=DENSE_ROW, track="", scope="")
    found["text"] = [mean_and_width(level, width) for level, width in zip(levels, widths, strict=True)]
    return found.assign(place=-1) if first else found


def dense_note(part: pd.DataFrame) -> str:
    """The dense accuracy, for a title; empty where there is none."""
    dense = part["dense_accuracy"].mean()
    return f" (dense {fixed(100 * dense, 2)} %)" if dense == dense else ""


def unusual(setting: Any) -> str:
    """What is unusual about the cases, for a title; empty where nothing is."""
    return f", {setting}" if setting else ""


def by_sparsity(cells: pd.DataFrame) -> list[Table]:
    """One table a task and budget: methods down, sparsities across."""
    return [
        Table(f"{task}, {budget} samples{unusual(setting)}{dense_note(part)}", _pivot(part, "sparsity", percent))
        for (task, budget, setting), part in cells.groupby(["task", "budget", "setting"], sort=True)
    ]


def best(cells: pd.DataFrame, most: int) -> list[Table]:
    """`by_sparsity`, the best mean over the sparsities first, and no more rows than `most`; the rest is counted."""
    found = []
    rows = ["method", "recovery", "scope"]
    for _, part in cells.groupby(["task", "budget", "setting"], sort=True):
        means = part.assign(accuracy=part["accuracy"].fillna(0.0)).groupby(rows, sort=True)["accuracy"].mean()
        order = means.sort_values(ascending=False, kind="stable").index
        place = {row: at for at, row in enumerate(order)}
        places = [place[row] for row in zip(*(part[name] for name in rows), strict=True)]
        ordered = part.assign(place=places)
        (table,) = by_sparsity(ordered[ordered["place"] < most])
        left = f"… and {len(order) - most} more, in the tables below" if len(order) > most else ""
        found.append(Table(table.title, table.rows, left))
    return found


def by_agreement(frame: pd.DataFrame) -> list[Table]:
    """One table a task and budget of cases scored without labels: methods down, sparsities across, agreement and KL."""
    found = []
    cases = frame[(frame["measure"] != "accuracy") & (frame["status"] == "ok")]
    for (task, budget, setting), part in cases.groupby(["task", "budget", "setting"], sort=True):
        means = part.groupby(["recovery", "method", "sparsity"])[["agreement", "kl"]].mean().reset_index()
        pairs: list[tuple[float, float]] = list(zip(means["agreement"], means["kl"], strict=True))
        means["text"] = [f"{fixed(100 * agreement, 1)}; {kl:.2g}" for agreement, kl in pairs]
        table = means.pivot(index=["recovery", "method"], columns="sparsity", values="text").fillna("")
        table = (
            table.rename(columns=percent)
            .reset_index()
            .sort_values(["recovery", "method"], key=lambda column: column.replace("none", ""))
        )
        found.append(Table(f"{task}, {budget} samples{unusual(setting)}", table.rename_axis(None, axis=1)))
    return found


def by_perplexity(frame: pd.DataFrame) -> list[Table]:
    """One table a task and budget of cases whose samples have several places: methods down, sparsities across."""
    if "perplexity" not in (told := with_perplexity(frame)):
        return []
    found, cases = [], told[told["perplexity"].notna() & (told["status"] == "ok")]
    for (task, budget, setting), part in cases.groupby(["task", "budget", "setting"], sort=True):
        means = part.groupby(["recovery", "method", "sparsity"])["perplexity"].mean().reset_index()
        means["text"] = [f"{significant(value, 4):g}" for value in means["perplexity"]]
        table = means.pivot(index=["recovery", "method"], columns="sparsity", values="text").fillna("")
        table = table.rename(columns=percent).reset_index().rename_axis(None, axis=1)
        table = table.sort_values(["recovery", "method"], key=lambda column: column.replace("none", ""))
        dense = f" (dense {significant(part['dense_perplexity'].mean(), 4):g})"
        found.append(Table(f"{task}, {budget} samples{unusual(setting)}{dense}", table))
    return found


def by_budget(cells: pd.DataFrame) -> list[Table]:
    """One table a task and sparsity: methods down, budgets across."""
    return [
        Table(
            f"{task}, {percent(sparsity)} removed{unusual(setting)}{dense_note(part)}",
            _pivot(part, "budget", lambda n: f"{n} samples"),
        )
        for (task, sparsity, setting), part in cells.groupby(["task", "sparsity", "setting"], sort=True)
    ]


def by_setting(cells: pd.DataFrame) -> list[Table]:
    """One table a task, budget and sparsity: methods down, ways to draw samples and to label them across."""
    return [
        Table(
            f"{task}, {budget} samples, {percent(sparsity)} removed{dense_note(part)}",
            _pivot(part, "setting", lambda setting: setting or "random"),
        )
        for (task, budget, sparsity, _), part in cells.groupby(["task", "budget", "sparsity", "pattern"], sort=True)
        if part["setting"].nunique() > 1
    ]


def by_recovery(cells: pd.DataFrame) -> list[Table]:
    """One table a task, budget and sparsity: who earned the accuracy, mask and update (down) or recovery (across)?"""
    found = []
    ways = ["task", "budget", "sparsity", "setting"]
    for (task, budget, sparsity, setting), part in cells.groupby(ways, sort=True):
        if part["recovery"].nunique() < 2:
            continue
        rows = part.assign(text=[cell(row) for row in part.itertuples()])
        table = rows.pivot_table(index=["method", "scope"], columns="recovery", values="text", aggfunc="first")
        columns = sorted(table.columns, key=none_first)
        table = table[columns].fillna("").reset_index()
        title = f"{task}, {budget} samples, {percent(sparsity)} removed{unusual(setting)}"
        found.append(Table(title, table[["method", *columns]]))
    return found


def attribution(cells: pd.DataFrame) -> list[Table]:
    """One table a task, budget, sparsity and recovery: masks down, updates across, of the methods named MASK+UPDATE."""
    pairs = cells[cells["method"].str.contains("+", regex=False)]
    split = pairs["method"].str.rsplit("+", n=1, expand=True)
    found = []
    for (task, budget, sparsity, recovery), part in (
        pairs.assign(mask=split[0], update=split[1]).groupby(["task", "budget", "sparsity", "recovery"], sort=True)
        if len(pairs)
        else []
    ):
        rows = part.assign(text=[cell(row) for row in part.itertuples()])
        table = rows.pivot_table(index="mask", columns="update", values="text", aggfunc="first").fillna("")
        title = f"{task}, {budget} samples, {percent(sparsity)} removed, recovery {recovery}{dense_note(part)}"
        found.append(Table(title, table.reset_index().rename_axis(None, axis=1)))
    return found


def by_option(cells: pd.DataFrame) -> list[Table]:
    """One table a task, budget, recovery, method and option: values down (numbers first), sparsities across."""
    found = []
    ways = ["task", "budget", "recovery", "setting", "base", "option"]
    varied = summary.options(cells)
    for (task, budget, recovery, setting, base, option), part in varied.groupby(ways, sort=True) if len(varied) else []:
        rows = part.assign(text=[cell(row) for row in part.itertuples()])
        table = rows.pivot(index=["number", "value"], columns="sparsity", values="text").fillna("")
        order = sorted(part["sparsity"].unique())
        table = table[order].rename(columns=percent).reset_index().sort_values(["number", "value"], kind="stable")
        title = f"{task}, {budget} samples, {base}, recovery {recovery}{unusual(setting)}{dense_note(part)}"
        found.append(Table(title, table.rename(columns={"value": option})[[option, *map(percent, order)]]))
    return found
