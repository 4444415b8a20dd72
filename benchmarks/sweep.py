"""`python -m benchmarks.sweep`: a grid through the harness against its cases run alone, in processor time and in bits.

Alone is a run of `pytest` of one case with results of its own: start, data, dense network, fit, recovery, scores.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from benchmarks.harness import Row, child
from wfbench.harness.record import SCIENCE
from wfbench.harness.store import read

METHODS = ("magnitude", "woodfisher", "woodfisher-joint", "kfac-exact", "lobs-global", "obc")
BUDGETS, SPARSITIES, RECOVERIES = (10, 50, 100), (0.6, 0.8, 0.9), ("none", "batchnorm", "repair")
DENSE = "global-0-"
"""In the labels of the cases that stand beside every grid."""
SUITE = """
from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

SUITE = Suite("bench", (Grid({budgets}, {sparsities}, {recoveries}, 1, ("{task}",), {methods}),))
test_case = case_test("bench")
"""


@dataclass(frozen=True)
class Sweep:
    """A grid of one draw.

    Args:
        each: every so many'th case is run alone, in the order of the grid's axes.
    """

    task: str
    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    sparsities: tuple[float, ...]
    recoveries: tuple[str, ...]
    each: int

    def cases(self) -> Iterator[dict[str, str]]:
        """The options that choose each of those that are run alone."""
        axes = {name: getattr(self, name) for name in ("methods", "budgets", "sparsities", "recoveries")}
        for values in [*product(*axes.values())][:: self.each]:
            yield {f"--{name}": str(value) for name, value in zip(axes, values, strict=True)}

    def measured(self) -> Row:
        """Processor seconds of the grid and of its cases, and in how many of these a record differs.

        Raises:
            ValueError: a case has no record.
        """
        with TemporaryDirectory() as folder:
            said = {name: getattr(self, name) for name in ("task", "methods", "budgets", "sparsities", "recoveries")}
            Path(folder, "suite_bench.py").write_text(SUITE.format(**said))
            together = self._run(folder, "together", {})
            known, count = _records(folder, "together"), 0
            alone, others = list[float](), 0
            for options in tqdm([*self.cases()], unit="case alone", disable=None):
                alone.append(self._run(folder, f"alone-{count}", options))
                ((key, record),) = _records(folder, f"alone-{count}").items()
                others += known[key] != record
                count += 1
        mean = sum(alone) / count
        return {
            "task": self.task,
            "cases": len(known),
            "grid s": together,
            "a case of it s": together / len(known),
            "run alone": count,
            "a case alone s": mean,
            "grid / cases alone": together / len(known) / mean,
            "records that differ": others,
        }

    def _run(self, folder: str, results: str, options: dict[str, str]) -> float:
        words = ["-m", "bench", "-q", "-k", f"not {DENSE}", "--results", str(Path(folder, results))]
        words += [word for pair in options.items() for word in pair]
        return child("-m", "pytest", folder, "-p", "wfbench.pytest_plugin", "-p", "no:cacheprovider", *words)


def _records(folder: str, results: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """By what tells the cases of a grid apart: their science fields."""
    found = {}
    for one in read(Path(folder, results, "bench.jsonl")):
        record = {name: one[name] for name in SCIENCE if name in one}
        found[tuple(one[name] for name in ("method", "budget", "sparsity", "recovery"))] = record
    return found


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.sweep", description=__doc__)
    parser.add_argument(
        "--task", default="fashion-resnet20[500]", help="default: fashion-resnet20[500], so many images"
    )
    parser.add_argument("--methods", default="magnitude,woodfisher,lobs-global", help="default: three of the six")
    parser.add_argument("--whole", action="store_true", help="3 budgets, 3 sparsities, 3 recoveries, 6 methods: hours")
    parser.add_argument("--each", type=int, default=5, help="every so many'th case is run alone (default 5)")
    options = parser.parse_args()
    if options.whole:
        sweep = Sweep(options.task, METHODS, BUDGETS, SPARSITIES, RECOVERIES, options.each)
    else:
        methods = tuple(options.methods.split(","))
        sweep = Sweep(options.task, methods, BUDGETS[:1], SPARSITIES[1:], RECOVERIES[::2], options.each)
    print(tabulate([sweep.measured()], headers="keys", floatfmt=".3g"))


if __name__ == "__main__":
    main()
