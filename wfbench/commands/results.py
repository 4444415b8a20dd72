"""What is done with records: `wfbench tables`, `report` and `compare`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tabulate import tabulate

from wfbench.commands import Commands
from wfbench.commands.base import add_json, add_results
from wfbench.errors import WfbenchError
from wfbench.harness.executors import split
from wfbench.harness.store import record_files
from wfbench.output import files as pages
from wfbench.output import paper
from wfbench.report import html as report
from wfbench.report.compare import compare
from wfbench.report.frames import write_parquet
from wfbench.report.tables import harmless
from wfbench.writing import check_file, check_folder

CHOOSING = {
    "suite": ("NAME", "of this suite (default: the one that has the cases)"),
    "tasks": ("A,B", "of these tasks (default: all)"),
    "methods": ("A,B", "of these methods, in this order (default: all)"),
    "budgets": ("N,N", "of these numbers of calibration samples (default: all)"),
    "sparsities": ("S,S", "of these fractions removed (default: all)"),
    "recovery": ("NAME", "of what followed the pruning (default: none)"),
}
"""Options that say which cases `tables --tex` shows, with what they take."""


def add(commands: Commands) -> None:
    """The commands of this module."""
    tabling = commands.add("tables", _tables)
    tabling.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a table or figure is not what the records give"
    )
    tabling.add_argument("--parquet", type=Path, metavar="FILE", help="write every case to this Parquet file as well")
    tabling.add_argument(
        "--tex",
        type=Path,
        metavar="FILE",
        help="write one LaTeX table for a paper, and its picture as PDF and SVG beside it (default: write all tables)",
    )
    for name, (takes, about) in CHOOSING.items():
        tabling.add_argument(f"--{name}", metavar=takes, help=about)
    add_results(tabling)
    reporting = commands.add("report", _report)
    reporting.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if it is not what the records give"
    )
    add_results(reporting)
    comparing = commands.add("compare", _compare)
    comparing.add_argument("a", type=Path, metavar="A", help="results folder")
    comparing.add_argument("b", type=Path, metavar="B", help="results folder")
    comparing.add_argument("--all", action="store_true", help="show what did not change, too")
    add_json(comparing)


def _tables(options: argparse.Namespace) -> int:
    if options.tex:
        return _paper(options)
    for name in CHOOSING:
        if getattr(options, name) is not None:
            raise WfbenchError(f"--{name} chooses what --tex shows; give --tex FILE")
    if options.check:
        found = pages.stale(options.results)
        print("\n".join([*found, "run `wfbench tables`"]) if found else "tables and figures are what the records give")
        return 1 if found else 0
    if not record_files(options.results):
        raise WfbenchError(f"no record files (*.jsonl) in {options.results}; run a suite first, or give --results")
    for part in ("tables", "figures"):
        check_folder(options.results / part)
    if options.parquet:
        check_file(options.parquet)
    written = pages.write_all(options.results)
    if options.parquet:
        written.append(write_parquet(options.results, options.parquet))
    for path in written:
        print(path)
    return 0


def _paper(options: argparse.Namespace) -> int:
    if options.check or options.parquet:
        raise WfbenchError("--tex writes a table for a paper and nothing else; leave out --check and --parquet")

    def given(name: str) -> Any:
        return getattr(options, name.removeprefix("--"))

    chosen = {
        "suite": options.suite and [options.suite],
        "task": split(given, "--tasks", str),
        "budget": split(given, "--budgets", int),
        "sparsity": split(given, "--sparsities", float),
        "recovery": [options.recovery or "none"],
        "method": split(given, "--methods", str),
    }
    for path in paper.write(options.results, chosen, options.tex):
        print(path)
    return 0


def _report(options: argparse.Namespace) -> int:
    if options.check:
        problem = report.stale(options.results)
        print(f"{problem}; run `wfbench report`" if problem else "the report is what the records give")
        return 1 if problem else 0
    print(report.write(options.results))
    return 0


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.3g}"


def _compare(options: argparse.Namespace) -> int:
    found = compare(options.a, options.b)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for option in found.options:
        print(f"options differ: {option}", file=sys.stderr)
    changes = found.changes if options.all else found.changes[found.changes["changed"] > 0]
    if options.json:
        print(changes.to_json(orient="records", indent=1))
    else:
        shown = changes.assign(**{name: 100 * changes[name] for name in ("difference", "low", "high")})
        cells = shown.map(lambda cell: _number(cell) if isinstance(cell, float) else harmless(cell))
        text = tabulate(cells.to_dict("records"), headers="keys", disable_numparse=True) if len(cells) else ""
        alone = f"{found.only_in_a} only in A, {found.only_in_b} only in B"
        print(text, f"{found.pairs} cases in both, {found.identical} of them with the same accuracy; {alone}", sep="\n")
        print(
            "differences are B minus A, mean in points of accuracy; a failed case scores 0. An interval leaves out zero"
        )
        print("if and only if the change is significant; there is none for fewer pairs than are needed")
    return 1 if len(found.worse) else 0
