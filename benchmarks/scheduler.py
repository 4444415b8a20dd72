"""What is lost between cases: in several processes and several runs, with cases that sleep, and on paper."""

import heapq
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor

from wfbench import RECOVERIES, Case, Network, Runner, ScorePruner, Target, Task, run
from wfbench.deploy.needs import Needs
from wfbench.harness.session import Session
from wfbench.harness.store import Store, read

OPTIONS: dict[str, Any] = {
    "--device": "cpu",
    "--executor": "serial",
    "-m": "bench",
    "--baseline-path": (),
    "--task-path": (),
}
"""Of a run; the others are as if they were not given."""
Row = dict[str, object]


@dataclass(frozen=True)
class Sleep(ScorePruner[None]):
    """Magnitude, after so many seconds."""

    name: ClassVar[str] = "sleep"
    seconds: float = 0.0

    def scores(self, net: Network, data: None) -> dict[str, Tensor]:
        time.sleep(self.seconds)
        return {name: weight.abs() for name, weight in net.weights.items()}


def sleeping(seconds: float, count: int) -> list[Case]:
    """So many cases of a network of a few weights, each of its own draw."""
    x, y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    task = Task("few", torch.nn.Linear(4, 2).eval(), (x[:20], y[:20]), (x[20:], y[20:]))
    return [Case(task, 4, seed, 0, Target(0.5), Sleep(seconds), RECOVERIES["none"]) for seed in range(count)]


def together(workers: int, work: Callable[[Callable[[], object]], None]) -> tuple[float, float]:
    """Seconds from when all of so many processes are ready until the last one is done, and their processor seconds.

    Args:
        work: what each does; it waits for the others by its argument.
    """
    context = get_context("fork")
    barrier = context.Barrier(workers + 1, timeout=600)
    processes = [context.Process(target=work, args=(barrier.wait,)) for _ in range(workers)]
    for one in processes:
        one.start()
    barrier.wait()
    began, before = time.perf_counter(), os.times()
    for one in processes:
        one.join()
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, spent


def runs(workers: int, seconds: float, count: int, executor: str = "serial") -> tuple[float, float]:
    """Seconds that so many runs in one folder take for the cases, and their processor seconds, a start included."""
    cases = sleeping(seconds, count)
    Runner().code(cases[0])  # what is read of the code is read once, for all processes
    with TemporaryDirectory() as folder:

        def work(wait: Callable[[], object]) -> None:
            torch.set_num_threads(1)  # a fork has no other of the threads that its parent computed with
            session = Session((OPTIONS | {"--results": folder, "--executor": executor}).get, {}, Needs())
            session.prepare("bench", cases)
            wait()
            for case in cases:
                session.run("bench", case)
            session.end()

        taken = together(workers, work)
        assert len(read(Path(folder, "bench.jsonl"))) == count
    return taken


def appended(workers: int, count: int) -> float:
    """Records a second that several processes write to one file."""
    record = run(sleeping(0.0, 1)[0])
    with TemporaryDirectory() as folder:

        def work(wait: Callable[[], object]) -> None:
            store = Store(Path(folder, "bench.jsonl"))
            wait()
            for seed in range(count):
                store.append(replace(record, seed=seed))

        taken, _ = together(workers, work)
        assert len(read(Path(folder, "bench.jsonl"))) == workers * count
    return workers * count / taken


def fastest_append(count: int) -> float:
    """Seconds of one append, as fast as one in ten is: what it takes where the disk has nothing else to do."""
    record, times = run(sleeping(0.0, 1)[0]), []
    with TemporaryDirectory() as folder:
        store = Store(Path(folder, "bench.jsonl"))
        for seed in range(count):
            began = time.perf_counter()
            store.append(replace(record, seed=seed))
            times.append(time.perf_counter() - began)
    return sorted(times)[count // 10]


@dataclass(frozen=True)
class Spent:
    """What workers do with their time, as shares of it, and the seconds from the last case handed out to the end."""

    busy: float
    tail: float
    tail_s: float


def simulated(seconds: Sequence[float], workers: int, between: float, writing: float) -> Spent:
    """Cases handed out in order to whoever is free.

    Args:
        between: seconds that a worker spends on a case besides the method.
        writing: seconds that a record takes, of which one is written at a time, in the order in which cases end.
    """
    line = iter(seconds)
    running = [(between + one, worker) for worker, one in zip(range(workers), line, strict=False)]
    heapq.heapify(running)
    written, handed, idle = 0.0, 0.0, []
    while running:
        ended, worker = heapq.heappop(running)
        written = max(written, ended) + writing
        if (following := next(line, None)) is None:
            idle.append(written)
        else:
            handed = written
            heapq.heappush(running, (handed + between + following, worker))
    whole = workers * written
    return Spent(sum(seconds) / whole, sum(written - one for one in idle) / whole, written - handed)


def mixed(count: int) -> list[float]:
    """Durations from 1 ms to 100 s, every power of ten as frequent."""
    numbers = random.Random(0)
    return [10 ** numbers.uniform(-3, 2) for _ in range(count)]


def measured() -> list[Row]:
    """Cases in so many processes of one run, and in so many runs; what is lost is time of workers."""
    found: list[Row] = []
    for seconds, count in ((0.001, 200), (0.1, 40)):
        for workers in (1, 2, 4):
            ways = {"run": (1, seconds, count, f"processes:{workers}"), "runs": (workers, seconds, count)}
            for way, arguments in ways.items():
                taken, spent = runs(*arguments)
                row: Row = {"s a case": seconds, "workers": workers, "as": f"{way}, {arguments[3:] or 'serial'}"}
                row["lost ms a case"] = 1e3 * (taken * workers / count - seconds)
                found.append(row | {"processor ms a case": 1e3 * spent / count})
    return found


def on_paper(between: float, writing: float, count: int = 10_000) -> list[Row]:
    """The share of the workers' time that methods have, and the seconds from the last case's start to the end."""
    cases = {f"{one:g}": [one] * count for one in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)}
    cases["0.001 to 100"] = mixed(count)
    cases["the same, longest first"] = sorted(mixed(count), reverse=True)
    found: list[Row] = []
    for name, seconds in cases.items():
        spent = {workers: simulated(seconds, workers, between, writing) for workers in (1, 4, 16, 64)}
        row: Row = {"s a case": name} | {f"busy, {workers} workers": one.busy for workers, one in spent.items()}
        found.append(row | {"idle at the end, 64": spent[64].tail, "tail s, 64": spent[64].tail_s})
    return found


def tables() -> dict[str, list[Row]]:
    """All of it, by title; the simulation is of the costs measured before it."""
    rate = {workers: appended(workers, 200) for workers in (1, 2, 4)}
    writing, between = fastest_append(200), runs(1, 0.0, 200)[1] / 200
    costs = f"{1e3 * between:.2f} ms a case beside the method and {1e3 * writing:.2f} ms for its record"
    return {
        "Records a second that processes write to one file": [
            {"processes": workers, "records / s": one} for workers, one in rate.items()
        ],
        "Cases that sleep, in processes of one run and in several runs": measured(),
        f"On paper, {costs}": on_paper(between, writing),
    }
