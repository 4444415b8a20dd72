"""Where cases run: in the process of the run, in several of their own, or on the machines of a Ray cluster."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from wfbench.composed.steps import steps_in
from wfbench.curvature.memory import bound, bytes_of, limit_to
from wfbench.errors import WfbenchError
from wfbench.execution.alarm import CaseTimeout, alarm
from wfbench.execution.allocator import keep_freed_memory
from wfbench.execution.pool import Pool, Processes
from wfbench.execution.remote import Cluster, Packed
from wfbench.harness.case import Case
from wfbench.harness.plugins import discover
from wfbench.harness.record import Record
from wfbench.harness.runner import Runner

MEMORY = 1 << 30
"""Bytes within which a worker of a Ray cluster keeps rows where --memory says nothing."""

Which: TypeAlias = tuple[str, str]
"""A case by its suite and its label."""
Needs: TypeAlias = Callable[[Case, int], float]
"""Bytes that the process of a case needs, which keeps rows within so many."""
Request: TypeAlias = tuple[str, str, Path | None]
"""A suite, the label of a case of it, and where the case keeps its steps; None for nowhere."""


class Work:
    """What is done with a request, in a worker or here: the case is run.

    Args:
        make: the runner, made where cases run.
        limit: seconds after which a method has no result; a worker is ended, what runs here is told by an alarm.
        is_here: whether cases may run in the process of the run, in as many threads as it has; else in one.
        needs: of Ray, for a case that is run elsewhere.
    """

    def __init__(
        self,
        make: Callable[[], Runner],
        limit: float | None,
        is_here: bool,
        needs: Callable[[Case], Mapping[str, float]] = lambda case: {},
    ) -> None:
        self._make, self._limit, self.is_here, self._needs = make, limit, is_here, needs
        self.cases: dict[Which, Case] = {}

    @cached_property
    def runner(self) -> Runner:
        return self._make()

    def receive(self, content: dict[Which, Case]) -> None:
        """Cases from another machine."""
        self.cases |= content

    def __call__(self, request: Request) -> Record:
        suite, label, steps = request
        if not self.is_here:
            torch.set_num_threads(1)
        with steps_in(steps) if steps else nullcontext():
            return self.runner.run(self.cases[suite, label], suite)

    def here(self, request: Request) -> Record:
        """The same in the process of the run; the time for scoring is not the method's."""
        if self._limit is None:
            return self(request)
        try:
            with alarm(self._limit):
                return self(request)
        except CaseTimeout:  # while scoring, so the method is done, and what it made is kept
            return self(request)

    def packed(self, request: Request) -> Packed:
        """A request for another machine, whose steps nobody would find, with all cases of its task."""
        suite, label, _ = request
        case = self.cases[suite, label]

        def content() -> dict[Which, Case]:
            return {which: one for which, one in self.cases.items() if one.task.name == case.task.name}

        return Packed((suite, label, None), self._needs(case), case.task.name, content)


def _elsewhere(device: str, limit: float | None, memory: int, workers: int, plugins: Sequence[Sequence[str]]) -> Work:
    """The work of a worker on another machine, where plugins lie in the same places."""
    limit_to(memory)
    keep_freed_memory()
    discover(*plugins)
    return Work(partial(_runner, device, workers), limit, is_here=False)


def _runner(device: str, workers: int) -> Runner:
    runner = Runner(device)
    runner.workers = workers
    return runner


def made(option: Callable[[str], Any], runner: Runner, limit: float | None, needs: Needs) -> tuple[Work, Pool]:
    """What `--executor` asks for.

    Args:
        option: the value of an option by its name.
        runner: of this process.
        needs: of a case on a cluster.

    Raises:
        WfbenchError: there is no such executor, or it does not go with the device or the cluster.
    """
    executor: str = option("--executor")
    memory = None if option("--memory") is None else bytes_of(option("--memory"))
    name, colon, number = executor.partition(":")
    work = Work(lambda: runner, limit, is_here=executor == "serial")
    limit_to(memory)
    if executor == "serial" or option("--collect-only"):
        return work, Pool([Processes(work, work.here)], Processes.wait)
    if executor == "ray":
        least = {"CPU": 1.0, "GPU": float(runner.device.type == "cuda")}
        cluster, rows = Cluster(option("--ray-address"), least), memory or MEMORY
        runner.workers = cluster.slots
        plugins = [[str(Path(one).resolve()) for one in option(f"--{kind}-path")] for kind in ("baseline", "task")]
        make = partial(_elsewhere, str(runner.device), limit, rows, cluster.slots, plugins)
        work = Work(lambda: runner, limit, False, lambda case: {**least, "memory": needs(case, rows)})
        return work, cluster.pool(make, work.packed)
    if name != "processes" or (colon and not (number.isdecimal() and int(number) > 0)):
        raise WfbenchError(f"--executor {executor}: give serial, ray, processes, or processes:N with N of at least 1")
    if runner.device.type != "cpu":
        raise WfbenchError(f"--executor {executor} runs on the CPU, not on {runner.device}; give serial or ray")
    runner.workers = int(number) if number else len(os.sched_getaffinity(0))
    limit_to(bound() // runner.workers)
    return work, Pool([Processes(work) for _ in range(runner.workers)], Processes.wait)


def split(option: Callable[[str], Any], name: str, kind: type) -> tuple[Any, ...] | None:
    text = option(name)
    if text is None:
        return None
    try:
        found = tuple(kind(part) for part in str(text).split(",") if part.strip())
    except ValueError:
        raise WfbenchError(f"{name} {text}: give {kind.__name__} values with commas between them") from None
    if not found:
        raise WfbenchError(f"{name} is empty; leave it out for all")
    return found


def draws(text: str | None) -> int | None:
    """The number of draws that `--seeds` asks for."""
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise WfbenchError(f"--seeds {text}: give how many draws, at least 1; 3 runs the draws 0, 1 and 2")
    return int(text)
