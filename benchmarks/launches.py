"""Kernels launched and waits for the device a case, of every method, counted on the tests' pretend device.

`python -m benchmarks.launches [--task digits-cnn] [--methods a,b]`. Before and after: with what is computed at a time
cut for a host's cache, and cut for an accelerator, evaluation batches too. Every case is alone, without rows of others.
With the host's sizes all bits are the host's; with those for an accelerator, last digits differ where a sum is cut
elsewhere.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tabulate import tabulate
from tqdm import tqdm

from tests.shadow_device import NAME, Counts, counted, used
from wfbench import NM, RECOVERIES, Case, Filter, Runner, Target, discover
from wfbench.harness.plugins import Registry
from wfbench.harness.record import SCIENCE, Record
from wfbench.pruner import Pruner
from wfbench.tasks.evaluate import ACCELERATOR_BATCH, EVALUATION_BATCH
from wfbench.tasks.task import Task
from wfbench.tiles import ACCELERATOR, HOST, KINDS, Tiles

UNTIMED = [{"batch": 1, "median": 1.0, "low": 1.0, "high": 1.0, "latency": 1.0, "dense_latency": 1.0}]
COLUMNS = (
    "method",
    "pattern",
    *("launches before", "after"),
    *("waits before", "after"),
    *("scoring before", "after"),
    "bits before",
    "most launches after",
    "most waits after",
)
BEFORE, AFTER = (HOST, EVALUATION_BATCH), (ACCELERATOR, ACCELERATOR_BATCH)


@dataclass(frozen=True)
class Options:
    """Which cases, and how many lines of code to name."""

    budget: int
    sparsity: float
    lines: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits-cnn")
    parser.add_argument("--methods", default=None, help="names with commas between them (default: all)")
    parser.add_argument("--recoveries", default="none", help="names with commas between them")
    parser.add_argument("--budget", type=int, default=64)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--lines", type=int, default=1, help="lines of code named a case")
    given = parser.parse_args()
    options = Options(given.budget, given.sparsity, given.lines)
    untimed = patch("wfbench.harness.runner.latencies", lambda *networks: UNTIMED)
    with used(), untimed:
        registry = discover()
        task = registry.task(given.task)
        names = given.methods.split(",") if given.methods else sorted(registry.pruners)
        firsts = [_cases(registry, task, name, ["none"], options)[0] for name in ("magnitude", "lamp")]
        cases = [case for name in names for case in _cases(registry, task, name, given.recoveries.split(","), options)]
        rows = [_row(case, firsts, options) for case in tqdm(cases, unit="case", leave=False, disable=None)]
    print(f"{task.name}, budget {options.budget}; scoring, of which launches are shown, is all that follows\n")
    print(tabulate(rows, COLUMNS))


def _cases(registry: Registry, task: Task, name: str, recoveries: list[str], options: Options) -> list[Case]:
    method = registry.pruner(name)
    targets = [_target(method, pattern, task, options.sparsity) for pattern in method.patterns]
    return [
        Case(task, options.budget, 0, 0, target, method, RECOVERIES[recovery])
        for target in targets
        for recovery in recoveries
    ]


def _target(method: Pruner[Any], pattern: str, task: Task, sparsity: float) -> Target:
    if pattern == "filter":
        return Target(sparsity, Filter(tuple(task.train_set.take([0]).inputs.shape[1:])), method.scope, "params")
    return Target(0.5, NM(), method.scope) if pattern == "n:m" else Target(sparsity, scope=method.scope)


def _row(case: Case, firsts: list[Case], options: Options) -> tuple[Any, ...]:
    """A line of the table.

    Args:
        firsts: cases that read no samples; one of another method reads the task, and scores the dense network.
    """
    first = next(one for one in firsts if one.method.name != case.method.name)
    (before, scored, found), (after, scoring, _) = (_counted(case, first, *sizes) for sizes in (BEFORE, AFTER))
    expected = Runner().run(case)
    differing = [name for name in SCIENCE if getattr(found, name) != getattr(expected, name)]
    return (
        *(f"{case.method.name} {case.recovery.name}".removesuffix(" none"), case.target.pattern.name),
        *map(Counter.total, (before.launches, after.launches, before.waits, after.waits)),
        *map(Counter.total, (scored.launches, scoring.launches)),
        ", ".join(differing) or "same",
        *_most(after, options.lines),
    )


def _counted(case: Case, first: Case, sizes: Tiles, batch: int) -> tuple[Counts, Counts, Record]:
    """Of pruning and recovery, of scoring, and the record."""
    with patch.dict(KINDS, {NAME: sizes}), patch("wfbench.tasks.evaluate.ACCELERATOR_BATCH", batch):
        device = Runner(NAME)
        device.run(first)
        with counted() as pruning:
            device.recover(case)
        with counted() as scoring:
            return pruning, scoring, device.run(case)


def _most(counts: Counts, lines: int) -> tuple[str, ...]:
    return tuple(
        ", ".join(f"{line} {count}" for line, count in of.most_common(lines)) for of in (counts.launches, counts.waits)
    )


if __name__ == "__main__":
    main()
