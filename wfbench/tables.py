"""Records to tables: Markdown, CSV and LaTeX, the same bytes from the same records."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from tabulate import tabulate

from wfbench import figures
from wfbench.store import latest, read

GROUP = ["task", "budget", "method", "track", "scope", "pattern", "recovery", "sparsity"]


def summarise(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One line a cell: mean accuracy over draws, 95 % half-width (Student t; empty for one draw), counts.

    The mean is over the draws that succeeded; `failed` counts the others.
    """
    frame = pd.DataFrame(latest(records))
    if frame.empty:
        return pd.DataFrame(columns=[*GROUP, "accuracy"])
    rows = []
    for cell, group in frame.groupby(GROUP, sort=True):
        good = group[group["status"] == "ok"].sort_values(["seed", "replicate"])
        accuracy = good["accuracy"].to_numpy(dtype=float)
        rows.append(
            {
                **dict(zip(GROUP, cell, strict=True)),
                "dense_accuracy": good["dense_accuracy"].astype(float).mean() if len(good) else np.nan,
                "accuracy": accuracy.mean() if len(good) else np.nan,
                "half_width": half_width(accuracy),
                "magnitude_overlap": good["magnitude_overlap"].astype(float).mean() if len(good) else np.nan,
                "draws": len(good),
                "failed": len(group) - len(good),
            }
        )
    return pd.DataFrame(rows)


def half_width(values: np.ndarray) -> float:
    """Half of the 95 % Student-t interval of the mean; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))


def pivots(summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """One table a task and budget: methods down, sparsities across, accuracy in per cent `mean ± half-width`."""
    found = {}
    for (task, budget), part in summary.groupby(["task", "budget"], sort=True):
        dense = part["dense_accuracy"].mean()
        cells = part.assign(
            text=[_cell(row) for row in part.itertuples()], sparsity=[f"{100 * s:g} %" for s in part["sparsity"]]
        )
        table = cells.pivot(index=["recovery", "method", "track"], columns="sparsity", values="text").fillna("")
        order = [f"{100 * s:g} %" for s in sorted(part["sparsity"].unique())]
        table = table[order].reset_index()
        table = table.sort_values(["recovery", "method"], key=lambda column: column.replace("none", ""))
        title = (
            f"{task}, {budget} samples (dense {100 * dense:.2f} %)" if dense == dense else f"{task}, {budget} samples"
        )
        found[title] = table[["method", "track", "recovery", *order]]
    return found


def _cell(row: Any) -> str:
    failed = f" ({row.failed} failed)" if row.failed else ""
    if not row.draws:
        return f"failed ({row.failed})"
    width = "" if np.isnan(row.half_width) else f" ± {100 * row.half_width:.1f}"
    same = " ≈" if row.magnitude_overlap > IN_EFFECT and not row.method.startswith("magnitude") else ""
    return f"{100 * row.accuracy:.1f}{width}{same}{failed}"


def _grid(table: pd.DataFrame, style: str) -> str:
    return tabulate(table.to_numpy().tolist(), headers=list(table.columns), tablefmt=style, disable_numparse=True)


IN_EFFECT = 0.98
NOTE = (
    "Test accuracy in per cent by sparsity: mean over draws ± half of the 95 % Student-t interval. "
    "≈: magnitude in effect (the mask shares more than 98 % of its kept weights with global magnitude's)."
)


def markdown(suite: str, summary: pd.DataFrame) -> str:
    """The suite's tables as Markdown."""
    parts = [f"# {suite}\n", f"{NOTE}\n"]
    for title, table in pivots(summary).items():
        escaped = table.map(lambda text: str(text).replace("|", "\\|"))
        parts += [f"## {title}\n", _grid(escaped, "pipe") + "\n"]
    return "\n".join(parts)


def plain(summary: pd.DataFrame) -> str:
    """The suite's tables for a terminal."""
    parts = [f"{title}\n{_grid(table, 'simple')}\n" for title, table in pivots(summary).items()]
    return "\n".join([*parts, NOTE]) if parts else "no records"


def latex(suite: str, summary: pd.DataFrame) -> str:
    """The suite's tables as LaTeX (booktabs)."""
    parts = [f"% {suite}. {NOTE}".replace("%", "\\%").replace("\\%", "%", 1)]
    for title, table in pivots(summary).items():
        body = _grid(table.rename(columns=_tex).map(_tex), "latex_raw")
        lines = [line for line in body.splitlines() if line.strip()]
        rules = iter(["\\toprule", "\\midrule", "\\bottomrule"])
        body = "\n".join(next(rules) if line.strip() == "\\hline" else line for line in lines)
        parts.append(f"\\begin{{table}}\n\\caption{{{_tex(title)}}}\n{body}\n\\end{{table}}")
    return "\n\n".join(parts) + "\n"


ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
}


def _tex(text: object) -> str:
    return "".join(ESCAPES.get(char, f"\\{char}" if char in "&%$#_{}" else char) for char in str(text))


def write(results: Path, suite: str, records: Iterable[dict[str, Any]]) -> list[Path]:
    """Write `tables/<suite>.md`, `.csv`, `.tex` and `figures/<suite>.svg` under `results`; the paths written."""
    summary = summarise(records)
    texts = {
        "md": markdown(suite, summary),
        "csv": summary.to_csv(index=False, float_format="%.6f", lineterminator="\n"),
        "tex": latex(suite, summary),
    }
    folder = results / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, text in texts.items():
        path = folder / f"{suite}.{suffix}"
        path.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    return written + figures.write(results, suite, summary)


def write_all(results: Path) -> list[Path]:
    """Regenerate the tables of every record file in `results`."""
    return [path for file in sorted(results.glob("*.jsonl")) for path in write(results, file.stem, read(file))]
