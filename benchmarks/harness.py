"""What the harness costs: a start, a case beside a bare loop, a reuse check, a store of many records, a scheduler.

Processor time where nothing waits; the disk and sleeping cases by the clock.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import scheduler
from benchmarks.interleaving import medians
from wfbench import RECOVERIES, Case, Network, Runner, Target, discover
from wfbench.harness.record import Record
from wfbench.harness.store import SameBits, Store, read
from wfbench.storage import lines
from wfbench.tasks.evaluate import evaluate

ROOT = Path(__file__).parent.parent
METHOD, SPARSITIES = "random", (0.5, 0.9)
FEW, MANY = 20, 220
"""Draws of the short and of the long run; what a case more costs is the slope between them."""
SUITE = f"""
import torch
from wfbench import Grid, Suite
from wfbench.pytest_plugin import case_test

SUITE = Suite("bench", (Grid((10,), {SPARSITIES}, ("none",), {MANY}, ("digits-cnn",), ("{METHOD}",)),))
test_case = case_test("bench")
torch.set_num_threads(1)  # others would wait for work, which counts as processor time
"""
Row = dict[str, object]


def child(*command: str) -> float:
    """Processor seconds of a program."""
    before = os.times()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def starts(repeats: int) -> list[Row]:
    """What a user waits for before anything runs."""
    programs = {
        "wfbench --help": ("-m", "wfbench", "--help"),
        "import torch, for comparison": ("-c", "import torch"),
        "pytest suites -m lead --collect-only": ("-m", "pytest", "suites", "-m", "lead", "--collect-only", "-q"),
    }
    found = medians(repeats, {name: lambda command=command: child(*command) for name, command in programs.items()})  # type: ignore[misc]
    return [{"start": name, "processor s": seconds} for name, seconds in found.items()]


def bare(cases: list[Case]) -> float:
    """Processor seconds a case of what any script would do: fit once a draw, prune, copy the network, score it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    task, dense = cases[0].task, [Network(cases[0].task.dense(one)) for one in range(cases[0].task.replicates)]
    len(task.test_set)
    began, seed, fitted = time.process_time(), -1, None
    for case in cases:
        if case.seed != seed:
            seed, fitted = case.seed, case.method.fit(dense[case.replicate], None)
        assert fitted is not None
        evaluate(dense[case.replicate].module(fitted.prune(case.target).state), task.test_set)
    torch.set_num_threads(threads)
    return (time.process_time() - began) / len(cases)


def a_case(repeats: int) -> list[Row]:
    """A case more in a run of a suite, run and reused, beside the bare loop."""
    registry = discover()
    task, method = registry.task("digits-cnn"), registry.pruner(METHOD)
    cases = [
        Case(task, 10, seed, seed % task.replicates, Target(sparsity), method, RECOVERIES["none"])
        for seed in range(MANY - FEW)
        for sparsity in SPARSITIES
    ]
    with TemporaryDirectory() as folder:
        Path(folder, "suite_bench.py").write_text(SUITE)

        def slope(results: str) -> float:
            times = [_suite(folder, f"{results}-{seeds}", seeds) for seeds in (FEW, MANY)]
            return (times[1] - times[0]) / len(cases)

        turn = iter(range(10 * repeats))
        fresh: Iterator[str] = (f"results-{one}" for one in turn)
        found = medians(
            repeats,
            {"run": lambda: slope(next(fresh)), "bare": lambda: bare(cases), "reused": lambda: slope("results-0")},
        )
    return [
        {
            "run ms": 1e3 * found["run"],
            "bare loop ms": 1e3 * found["bare"],
            "harness ms": 1e3 * (found["run"] - found["bare"]),
            "reused, pytest's item included, ms": 1e3 * found["reused"],
        }
    ]


def _suite(folder: str, results: str, seeds: int) -> float:
    words = ["-m", "bench", "-q", "--seeds", str(seeds), "--results", str(Path(folder, results))]
    return child("-m", "pytest", folder, "-p", "wfbench.pytest_plugin", "-p", "no:cacheprovider", *words)


def many_records(count: int) -> list[Row]:
    """A store of so many records: those of this folder's results over and over, with other draws, and answers."""
    runner = Runner()
    task, method = discover().task("digits-cnn"), discover().pruner("magnitude")
    cases = [Case(task, 10, seed, 0, Target(0.5), method, RECOVERIES["none"]) for seed in range(1000)]
    record = runner.run(cases[0], "big")
    with TemporaryDirectory() as folder:
        path = Path(folder, "big.jsonl")
        with path.open("w") as file:
            for one in _copies(record, len(cases), count):
                file.write(f"{lines.sealed(json.dumps(one))}\n")
        row: Row = {"records": count, "MB": path.stat().st_size / 1e6}
        began = time.process_time()
        store = Store(path, lambda one: runner.timings.learn([one]), mend=True)
        row["start s"] = time.process_time() - began
        proofs = SameBits(path.parent)
        began = time.process_time()
        known = [store.find(runner.question(case), runner.code(case), proofs) for case in cases]
        row["reuse check µs"] = 1e6 * (time.process_time() - began) / len(cases)
        assert None not in known
        new = [replace(record, seed=len(cases) + one) for one in range(200)]
        row |= {"append processor ms": _each(store, new, time.process_time)}
        row |= {"append ms": _each(store, new, time.perf_counter)}
        began = time.process_time()
        read(path)
        row["read whole s"] = time.process_time() - began
    return [row]


def _each(store: Store, records: list[Record], clock: Callable[[], float]) -> float:
    """The median append, in ms."""
    times = []
    for one in records:
        began = clock()
        store.append(one)
        times.append(clock() - began)
    return 1e3 * sorted(times)[len(times) // 2]


def _copies(record: Record, answers: int, count: int) -> Iterator[dict[str, Any]]:
    made = json.loads(record.as_json())
    yield from (made | {"seed": seed} for seed in range(answers))
    real = [one for name in ("lead", "structured") for one in read(ROOT / "results" / f"{name}.jsonl")] or [made]
    for number in range(count - answers):
        again, which = divmod(number, len(real))
        yield real[which] | {"suite": "big", "seed": 1_000_000 + 1000 * again + real[which]["seed"]}


def measured(repeats: int, records: int) -> Iterator[tuple[str, list[Row]]]:
    """Every part: its title and its table."""
    yield "Before anything runs", starts(repeats)
    yield f"A case of digits-cnn with {METHOD}, beside a bare loop: processor time, one thread", a_case(repeats)
    yield "A store of many records", many_records(records)
    yield from scheduler.tables().items()
