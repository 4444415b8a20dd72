"""Kernels launched, waits for the device and copies a case, of every method, counted on the tests' pretend device.

`python -m benchmarks.launches [--task digits-cnn] [--methods a,b] [--sizes host]`. With the sizes of tiles for a host
all bits are the host's; with those for an accelerator, last digits differ where a sum is cut elsewhere.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tabulate import tabulate

from tests.shadow_device import NAME, Counts, counted, used
from wfbench import NM, RECOVERIES, Case, Filter, Runner, Target, discover
from wfbench.harness.plugins import Registry
from wfbench.harness.record import SCIENCE
from wfbench.pruner import Pruner
from wfbench.tasks.task import Task
from wfbench.tiles import HOST, KINDS

UNTIMED = [{"batch": 1, "median": 1.0, "low": 1.0, "high": 1.0, "latency": 1.0, "dense_latency": 1.0}]
COLUMNS = (
    "method",
    "pattern",
    "launches",
    "waits",
    "copies",
    "scoring",
    "waits",
    "bits",
    "most launches",
    "most waits",
)


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
    parser.add_argument("--budget", type=int, default=8)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--sizes", choices=("accelerator", "host"), default="accelerator", help="of tiles")
    parser.add_argument("--lines", type=int, default=2, help="lines of code named a case")
    given = parser.parse_args()
    options = Options(given.budget, given.sparsity, given.lines)
    sizes = {"host": {NAME: HOST}, "accelerator": {}}[given.sizes]
    untimed = patch("wfbench.harness.runner.latencies", lambda *networks: UNTIMED)
    with used(), untimed, patch.dict(KINDS, sizes):
        registry = discover()
        task, runners = registry.task(given.task), (Runner(), Runner(NAME))
        names = given.methods.split(",") if given.methods else sorted(registry.pruners)
        _row(runners, _cases(registry, task, "magnitude", ["none"], options)[0], options)  # reads the task
        rows = [
            _row(runners, case, options)
            for name in names
            for case in _cases(registry, task, name, given.recoveries.split(","), options)
        ]
    print(f"{task.name}, budget {options.budget}; scoring is all that follows the recovery\n")
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


def _row(runners: tuple[Runner, Runner], case: Case, options: Options) -> tuple[Any, ...]:
    host, device = runners
    with counted() as pruning:
        device.recover(case)
    with counted() as scoring:
        found = device.run(case)
    expected = host.run(case)
    differing = [name for name in SCIENCE if getattr(found, name) != getattr(expected, name)]
    return (
        *(f"{case.method.name} {case.recovery.name}".removesuffix(" none"), case.target.pattern.name),
        *map(Counter.total, (pruning.launches, pruning.waits, pruning.copies, scoring.launches, scoring.waits)),
        "same" if not differing else f"{len(differing)} fields differ",
        *_most(pruning, options.lines),
    )


def _most(counts: Counts, lines: int) -> tuple[str, ...]:
    return tuple(
        ", ".join(f"{line} {count}" for line, count in of.most_common(lines)) for of in (counts.launches, counts.waits)
    )


if __name__ == "__main__":
    main()
