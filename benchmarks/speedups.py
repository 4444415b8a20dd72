"""Whether two runs agree on how much faster shrunk networks are: `python -m benchmarks.speedups FOLDER FOLDER`.

Of every speed-up that the structured tables of both folders show: does the median of the one lie within the printed
range of the other, both ways?
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

from wfbench.report.frames import load_results, scored, told_apart
from wfbench.report.overview import structured

Shown = dict[tuple[str, str, str], tuple[float, float, float]]
"""Median and ends of the range, by table, method and column."""

SPEED = re.compile(r"([\d.]+) \[([\d.]+), ([\d.]+)\]")


def shown(folder: Path) -> Shown:
    """Every speed-up of the folder's structured tables, as printed."""
    frame = scored(load_results(folder))
    return {
        (table.title, line["method"], column): tuple(map(float, found.groups()))
        for table in structured(frame.assign(method=told_apart(frame)))
        for line in table.rows.to_dict("records")
        for column, cell in line.items()
        if column.startswith("speed-up") and (found := SPEED.fullmatch(cell))
    }


def lines(one: Shown, other: Shown) -> Iterator[dict[str, object]]:
    """A line a task and batch size: how many speed-ups both show, and how many agree."""
    places = sorted({(table.split(",")[0], column) for table, _, column in one.keys() | other.keys()})
    for task, column in places:
        both = [key for key in one.keys() & other.keys() if (key[0].split(",")[0], key[2]) == (task, column)]
        agree = [key for key in both if within(one[key], other[key]) and within(other[key], one[key])]
        apart = [abs(one[key][0] / other[key][0] - 1) for key in both]
        count = [sum((key[0].split(",")[0], key[2]) == (task, column) for key in found) for found in (one, other)]
        yield {
            "task": task, "column": column, "shown by the first": count[0], "by the second": count[1],
            "by both": len(both), "agree": len(agree), "medians at most apart": f"{max(apart, default=0):.1%}",
        }  # fmt: skip


def within(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    """Whether the median of the one lies in the range of the other."""
    return other[1] <= one[0] <= other[2]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER")
    first, second = map(shown, parser.parse_args().folders)
    print(tabulate(list(lines(first, second)), headers="keys"))
