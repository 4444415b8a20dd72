"""Tables across tasks and budgets, of what smaller networks cost, and of what the numbers were made with."""

import hashlib
from decimal import ROUND_CEILING, ROUND_FLOOR
from typing import Any

import numpy as np
import pandas as pd

from wfbench.harness.record import DATA, NUMERICS
from wfbench.report import stats, summary
from wfbench.report.rounding import NOISE, fixed, significant, snapped
from wfbench.report.tables import Table, dense_note, mean_and_width, percent, unusual

WIDE = 0.25
"""A speed-up whose range is wider than this share of it says nothing."""


def across_tasks(frame: pd.DataFrame) -> list[Table]:
    """One table a budget, recovery and sparsity: means over tasks, ranks, and differences from magnitude."""
    overall, differences = summary.overall(frame), summary.differences(frame)
    components = summary.components(frame)
    blocks = {block.key: block for block in summary.blocks(frame)}
    found = []
    for block, part in overall.groupby(summary.BLOCK, sort=True) if len(overall) else []:
        budget, recovery, sparsity, setting = block
        rows = part.set_index("method")
        against = _of_block(differences, block).set_index("method") if len(differences) else differences
        lines = []
        order = pd.DataFrame({"rank": snapped(rows["rank"]), "accuracy": snapped(rows["accuracy"])}, rows.index)
        order = order.sort_values(["rank", "accuracy"], ascending=[True, False], kind="stable")
        for method, row in rows.loc[order.index].iterrows():
            paired = against.loc[str(method)] if method in against.index else None
            lines.append(
                {
                    "method": method,
                    "track": row["track"],
                    "mean": _with_ends(row["accuracy"], row["low"], row["high"]),
                    "IQM": fixed(100 * row["iqm"], 1),
                    "mean rank": fixed(row["rank"], 2),
                    "minus magnitude": "" if paired is None else _with_ends(*paired[["difference", "low", "high"]]),
                    "Holm p": "" if paired is None else _p(paired),
                    "failed": str(row["failed"]) if row["failed"] else "",
                }
            )
        first = part.iloc[0]
        apart = fixed(first["critical_difference"], 2)
        note = (
            f"{_inside(blocks[block])} Friedman "
            f"p = {significant(first['friedman_p'], 2):g}; mean ranks differ at 5 % where {apart} apart "
            "(Nemenyi; blocks of one task are not independent, so this is on the bold side)."
        )
        for spread in _of_block(components, block).to_dict("records") if len(components) else []:
            tasks, draws = 100 * spread["task_sd"], 100 * spread["draw_sd"]
            note += (
                f" Standard deviation between tasks {fixed(tasks, 1)}, between draws {fixed(draws, 1)} points, "
                "mean over methods."
            )
        title = f"{budget} samples, {percent(sparsity)} removed, recovery {recovery}{unusual(setting)}"
        found.append(Table(title, pd.DataFrame(lines), note))
    return found


def _inside(block: summary.Block) -> str:
    """Which tasks and methods are in, and which are not, and why."""
    tasks = [
        task if used == there else f"{task} {used} of {there} draws" for task, (used, there) in block.draws.items()
    ]
    places, methods = block.wide.shape
    count = f"{len(tasks)} task{'s' * (len(tasks) > 1)}"
    text = f"{places} blocks (task × draw) of {count} ({', '.join(tasks)}) that all {methods} methods have"
    out: dict[tuple[str, ...], list[str]] = {}
    for method, lacks in sorted(block.lacking.items()):
        out.setdefault(lacks, []).append(method)
    text += "".join(f"; left out for want of {', '.join(lacks)}: {', '.join(out[lacks])}" for lacks in sorted(out))
    text += f"; not averaged, as no method has it and the rest: {', '.join(block.apart)}" if block.apart else ""
    return text + "."


def _of_block(frame: pd.DataFrame, block: Any) -> pd.DataFrame:
    for name, value in zip(summary.BLOCK, block, strict=True):
        frame = frame[frame[name] == value]
    return frame


def _with_ends(value: float, low: float, high: float) -> str:
    ends = "" if np.isnan(low) else f" [{fixed(100 * low, 1)}, {fixed(100 * high, 1)}]"
    return "" if np.isnan(value) else f"{fixed(100 * value, 1)}{ends}"


def _p(row: Any) -> str:
    if row["pairs"] < row["needed"] and not row["significant"]:
        return f"out of reach ({row['pairs']} pairs, {row['needed']} needed)"
    return fixed(row["holm_p"], 3)


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
            f"{fixed(100 * value, 1)} at {percent(sparsity)}"
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
        return f"> {row.largest:g}" if np.isinf(value) else fixed(value, 0)

    same = one(row.low) == one(row.samples) == one(row.high)
    return one(row.samples) if same or np.isnan(row.low) else f"{one(row.samples)} [{one(row.low)}, {one(row.high)}]"


def structured(frame: pd.DataFrame) -> list[Table]:
    """One table a task, budget, recovery and target: accuracy, and what the shrunk network costs, methods down."""
    if "macs" not in frame:
        return []
    found = []
    speeds = Speeds(frame)
    ways = ["task", "budget", "recovery", "setting", "sparsity"]
    for (task, budget, recovery, setting, sparsity), part in frame[frame["macs"].notna()].groupby(ways, sort=True):
        rows, accuracies, grouped = [], part["accuracy"].to_numpy(dtype=float), part.groupby("method", sort=True)
        means = grouped[["params", "dense_params", "macs", "dense_macs"]].mean()
        for method, mean in zip(means.index, means.to_dict("records"), strict=True):
            accuracy = stats.student(accuracies[grouped.indices[method]])
            rows.append(
                {
                    "method": method,
                    "accuracy": mean_and_width(accuracy.estimate, accuracy.high - accuracy.estimate),
                    "MACs": percent(float(fixed(mean["macs"] / mean["dense_macs"], 3))),
                    "parameters": percent(float(fixed(mean["params"] / mean["dense_params"], 3))),
                    **speeds.cells(part.iloc[grouped.indices[method]]),
                    "order": -accuracy.estimate,
                }
            )
        table = (
            pd.DataFrame(rows)
            .assign(order=snapped([row["order"] for row in rows]))
            .sort_values(["order", "method"], kind="stable")
            .drop(columns="order")
        )
        title = f"{task}, {budget} samples, {percent(sparsity)} removed{unusual(setting)}, recovery {recovery}"
        found.append(Table(f"{title}{dense_note(part)}", table, speeds.places.get(str(task), "")))
    return found


class Speeds:
    """How much faster than the dense one the networks of records are, each architecture by its first measurement.

    Of measurements of a task from several places (device, machine, threads, torch) those of the commonest count.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        timed = frame[frame["latencies"].notna()] if "latencies" in frame else frame[:0]
        timed = timed.assign(place=[_place(where) for where in timed["environment"]])
        self.places = {str(task): min(part["place"].mode()) for task, part in timed.groupby("task")}
        self._known: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        here = timed[timed["place"] == timed["task"].map(self.places)]
        for task, architecture, found in zip(
            *(here.get(name, ()) for name in ("task", "architecture", "latencies")), strict=True
        ):
            self._known.setdefault((task, architecture), {int(one["batch"]): one for one in found})
        self._batches = sorted({batch for found in self._known.values() for batch in found})

    def cells(self, draws: pd.DataFrame) -> dict[str, str]:
        """Columns of a method's line; – where a draw has not been timed here, or too unsteadily to say."""
        named = zip(draws["task"], draws.get("architecture", draws["task"]), strict=True)
        known = [self._known.get(which, {}) for which in named]
        found = {f"speed-up, batch {batch}": _speed([one.get(batch) for one in known]) for batch in self._batches}
        first = self._batches[0] if self._batches else 1
        steady = found.get(f"speed-up, batch {first}", "–") != "–"
        milliseconds = [1000 * one[first]["latency"] for one in known] if steady else []
        return {f"latency, ms, batch {first}": fixed(float(np.median(milliseconds)), 2) if steady else "–", **found}


def _place(where: Any) -> str:
    """What times hang on, in a sentence."""
    threads = f"{where.get('threads')} thread{'s' if where.get('threads') != 1 else ''}"
    device = where.get("accelerator") or where.get("device")
    return f"Timed on {where.get('machine')} ({device}), {threads}, torch {where.get('torch')}."


def _speed(draws: list[dict[str, Any] | None]) -> str:
    """The median over draws, between the ends of all their ranges, rounded outwards."""
    timed = [one for one in draws if one is not None and one["high"] - one["low"] <= WIDE * one["median"] + NOISE]
    if not timed or len(timed) < len(draws):
        return "–"
    median = float(np.median([one["median"] for one in timed]))
    low, high = min(one["low"] for one in timed), max(one["high"] for one in timed)
    return f"{fixed(median, 2)} [{fixed(low, 2, ROUND_FLOOR)}, {fixed(high, 2, ROUND_CEILING)}]"


def provenance(frame: pd.DataFrame) -> str:
    """What the numbers were made with, as the records tell it."""
    if frame.empty or "environment" not in frame:
        return "No records."
    seen = {
        name: sorted({str(found[name]) for found in frame["environment"] if isinstance(found, dict) and name in found})
        for name in ("commit", *NUMERICS, *DATA)
    }
    versions = "; ".join(f"{name.replace('_', ' ')} {', '.join(values)}" for name, values in seen.items() if values)
    made_by = (frame[name].dropna() for name in ("key", "code") if name in frame)
    keys = hashlib.sha256("".join(sorted(found for names in made_by for found in names)).encode()).hexdigest()
    return "; ".join([f"{len(frame)} cases", versions, f"reuse keys {keys[:12]}"]) + "."


def failed(frame: pd.DataFrame) -> list[Table]:
    """One table of what failed, where, how often and why."""
    found = summary.failures(frame)
    return [Table("Failed cases", found.astype(str))] if len(found) else []
