"""Records to tables: titles, cells of text and notes, which `pages` writes as Markdown, LaTeX and CSV."""

import hashlib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wfbench.report import stats, summary

IN_EFFECT = 0.98
NOTE = (
    "Test accuracy in per cent by sparsity: mean over draws ± half of the 95 % Student-t interval. "
    "≈: magnitude in effect (the mask shares more than 98 % of its kept weights with global magnitude's)."
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


def cell(row: Any) -> str:
    """Mean ± half-width of a row of `summary.cells`, in per cent, with what a reader must know beside it."""
    failed = f" ({row.failed} failed)" if row.failed else ""
    if not row.draws:
        return f"failed ({row.failed})"
    width = "" if np.isnan(row.half_width) else f" ± {100 * row.half_width:.1f}"
    same = " ≈" if row.magnitude_overlap > IN_EFFECT and not row.method.startswith("magnitude") else ""
    return f"{100 * row.accuracy:.1f}{width}{same}{failed}"


def _pivot(part: pd.DataFrame, across: str, label: Callable[[Any], str]) -> pd.DataFrame:
    """Methods down, by recovery with `none` first; `across` across."""
    cells = part.assign(text=[cell(row) for row in part.itertuples()])
    table = cells.pivot(index=["recovery", "method", "track", "scope"], columns=across, values="text").fillna("")
    order = sorted(part[across].unique())
    table = table[order].rename(columns=label).reset_index()
    table = table.sort_values(["recovery", "method", "scope"], key=lambda column: column.replace("none", ""))
    return table[["method", "track", "recovery", *(label(value) for value in order)]]


def dense_note(part: pd.DataFrame) -> str:
    """The dense accuracy, for a title; empty where there is none."""
    dense = part["dense_accuracy"].mean()
    return f" (dense {100 * dense:.2f} %)" if dense == dense else ""


def unusual(setting: Any) -> str:
    """What is unusual about the cases, for a title; empty where nothing is."""
    return f", {setting}" if setting else ""


def by_sparsity(cells: pd.DataFrame) -> list[Table]:
    """One table a task and budget: methods down, sparsities across."""
    return [
        Table(f"{task}, {budget} samples{unusual(setting)}{dense_note(part)}", _pivot(part, "sparsity", percent))
        for (task, budget, setting), part in cells.groupby(["task", "budget", "setting"], sort=True)
    ]


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


def across_tasks(frame: pd.DataFrame) -> list[Table]:
    """One table a budget, recovery and sparsity: means over tasks, ranks, and differences from magnitude."""
    overall, differences = summary.overall(frame), summary.differences(frame)
    components = summary.components(frame)
    found = []
    for block, part in overall.groupby(summary.BLOCK, sort=True) if len(overall) else []:
        budget, recovery, sparsity, setting = block
        rows = part.set_index("method")
        against = _of_block(differences, block).set_index("method") if len(differences) else differences
        lines = []
        for method, row in rows.sort_values(["rank", "accuracy"], ascending=[True, False], kind="stable").iterrows():
            paired = against.loc[str(method)] if method in against.index else None
            lines.append(
                {
                    "method": method,
                    "track": row["track"],
                    "mean": _with_ends(row["accuracy"], row["low"], row["high"]),
                    "IQM": f"{100 * row['iqm']:.1f}",
                    "mean rank": f"{row['rank']:.2f}",
                    "minus magnitude": "" if paired is None else _with_ends(*paired[["difference", "low", "high"]]),
                    "Holm p": "" if paired is None else _p(paired),
                    "failed": str(row["failed"]) if row["failed"] else "",
                }
            )
        first = part.iloc[0]
        names = sorted(_of_block(frame, block)["task"].unique())
        note = (
            f"{first['blocks']} blocks (task × draw) of {first['tasks']} tasks ({', '.join(names)}); Friedman "
            f"p = {first['friedman_p']:.2g}; mean ranks differ at 5 % where {first['critical_difference']:.2f} apart "
            "(Nemenyi; blocks of one task are not independent, so this is on the bold side)."
        )
        for spread in _of_block(components, block).to_dict("records") if len(components) else []:
            tasks, draws = 100 * spread["task_sd"], 100 * spread["draw_sd"]
            note += (
                f" Standard deviation between tasks {tasks:.1f}, between draws {draws:.1f} points, mean over methods."
            )
        title = f"{budget} samples, {percent(sparsity)} removed, recovery {recovery}{unusual(setting)}"
        found.append(Table(title, pd.DataFrame(lines), note))
    return found


def _of_block(frame: pd.DataFrame, block: Any) -> pd.DataFrame:
    for name, value in zip(summary.BLOCK, block, strict=True):
        frame = frame[frame[name] == value]
    return frame


def _with_ends(value: float, low: float, high: float) -> str:
    ends = "" if np.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return "" if np.isnan(value) else f"{100 * value:.1f}{ends}"


def _p(row: Any) -> str:
    return f"{row['holm_p']:.3f}" if row["reachable"] else f"out of reach ({row['pairs']} pairs)"


def samples_needed(frame: pd.DataFrame) -> list[Table]:
    """One table a task and level: how many samples each method needs, by sparsity."""
    needed = summary.efficiency(frame)
    found = []
    ways = ["task", "level", "setting"]
    for (task, level, setting), part in needed.groupby(ways, sort=True) if len(needed) else []:
        cells = part.assign(text=[_needed(row) for row in part.itertuples()])
        table = cells.pivot(index=["recovery", "method"], columns="sparsity", values="text").fillna("")
        order = sorted(part["sparsity"].unique())
        table = table[order].rename(columns=percent).reset_index()
        table = table.sort_values(["recovery", "method"], key=lambda column: column.replace("none", ""))
        levels = ", ".join(
            f"{100 * value:.1f} at {percent(sparsity)}"
            for sparsity, value in part.groupby("sparsity")["level_accuracy"].first().items()
        )
        note = (
            f"Level, % accuracy: {levels}. Interval by bootstrap over draws; ≤ and > are the ends of the budgets run."
        )
        found.append(
            Table(
                f"{task}{unusual(setting)}: samples to reach {level}",
                table[["method", "recovery", *map(percent, order)]],
                note,
            )
        )
    return found


def _needed(row: Any) -> str:
    def one(value: float) -> str:
        if value == 0:
            return f"≤ {row.smallest:g}"
        return f"> {row.largest:g}" if np.isinf(value) else f"{value:.0f}"

    same = one(row.low) == one(row.samples) == one(row.high)
    return one(row.samples) if same else f"{one(row.samples)} [{one(row.low)}, {one(row.high)}]"


def structured(frame: pd.DataFrame) -> list[Table]:
    """One table a task, budget, recovery and target: accuracy, and what the shrunk network costs, methods down."""
    if "macs" not in frame:
        return []
    found = []
    dense = frame.groupby("task")["dense_latency"].min().to_dict()
    ways = ["task", "budget", "recovery", "setting", "sparsity"]
    for (task, budget, recovery, setting, sparsity), part in frame[frame["macs"].notna()].groupby(ways, sort=True):
        rows, accuracies, grouped = [], part["accuracy"].to_numpy(dtype=float), part.groupby("method", sort=True)
        means = grouped[["params", "dense_params", "macs", "dense_macs"]].mean()
        latencies = grouped["latency"].min()  # what else the machine does only adds to it
        for method, mean, latency in zip(means.index, means.to_dict("records"), latencies, strict=True):
            accuracy = stats.student(accuracies[grouped.indices[method]])
            half = accuracy.high - accuracy.estimate
            rows.append(
                {
                    "method": method,
                    "accuracy": f"{100 * accuracy.estimate:.1f}" + ("" if np.isnan(half) else f" ± {100 * half:.1f}"),
                    "MACs": percent(round(mean["macs"] / mean["dense_macs"], 3)),
                    "parameters": percent(round(mean["params"] / mean["dense_params"], 3)),
                    "latency, ms": f"{1000 * latency:.2f}",
                    "speed-up": f"{dense[task] / latency:.2f}",
                    "order": -accuracy.estimate,
                }
            )
        table = pd.DataFrame(rows).sort_values(["order", "method"], kind="stable").drop(columns="order")
        title = f"{task}, {budget} samples, {percent(sparsity)} removed{unusual(setting)}, recovery {recovery}"
        found.append(Table(f"{title}{dense_note(part)}", table))
    return found


def provenance(frame: pd.DataFrame) -> str:
    """What the numbers were made with, as the records tell it."""
    if frame.empty or "environment" not in frame:
        return "No records."
    seen = {
        name: sorted({str(found[name]) for found in frame["environment"] if isinstance(found, dict) and name in found})
        for name in (
            "commit",
            "torch",
            "device",
            "machine",
            "threads",
            "evaluation_batch",
            "checkpoint",
            "train",
            "test",
        )
    }
    versions = "; ".join(f"{name.replace('_', ' ')} {', '.join(values)}" for name, values in seen.items() if values)
    made_by = (frame[name].dropna() for name in ("key", "code") if name in frame)
    keys = hashlib.sha256("".join(sorted(found for names in made_by for found in names)).encode()).hexdigest()
    return "; ".join([f"{len(frame)} cases", versions, f"reuse keys {keys[:12]}"]) + "."


def failed(frame: pd.DataFrame) -> list[Table]:
    """One table of what failed, where, how often and why."""
    found = summary.failures(frame)
    return [Table("Failed cases", found.astype(str))] if len(found) else []
