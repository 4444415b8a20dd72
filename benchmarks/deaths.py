"""`python -m benchmarks.deaths FOLDER`: workers, runs and machines die in the middle of cases; what became of these.

Every run is a session with an executor, in a process of its own. Its cases are compared with an undisturbed run's, bit
by bit; those of odd methods must be failed records that say why. With `--nodes N` the faults are SIGKILLs of one of two
nodes of a Ray cluster on this machine, at best in a network with loopback alone:
`unshare -n sh -c 'ip link set lo up; python -m benchmarks.deaths FOLDER --nodes 30'`.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.forked import Process, after, finish, start
from benchmarks.sessions import run_all
from wfbench import RECOVERIES, Case, Runner, Target
from wfbench.conformance.trial import problems
from wfbench.harness import executors
from wfbench.harness.plugins import Registry, discover
from wfbench.harness.record import SCIENCE
from wfbench.harness.store import identity, read

ODD = Path(__file__).with_name("odd.py")
METHODS = ("magnitude", "diag-fisher", "woodfisher-joint", "obc")
BAD = ("lost", "wrong", "duplicate", "odd ends")
RECORDS = "mine.jsonl"
REASONS = {
    "odd-exit": r"fit: the process ended itself with exit status 0; tried twice; ",
    "odd-quit": r"fit: SystemExit: 3$",
    "odd-segv": r"fit: the process died of SIGSEGV; tried twice; ",
    "odd-prune": r"prune: the process ended itself with exit status 1; tried twice; ",
    "odd-hang": r"fit: CaseTimeout: took longer than the \d+ s of --case-timeout",
}
LIMIT, ROOM = 5.0, 440 << 20
"""Seconds a case, or as many as all cases take undisturbed; bytes that a process of a run that is short of memory may
have beyond those at its start."""


def cases(registry: Registry, *odd: str) -> list[Case]:
    """Of the kit's perceptron: two draws, two sparsities; those of odd methods stand in the middle."""
    task, names = problems()["perceptron"], [*METHODS[:2], *odd, *METHODS[2:]]
    return [
        Case(task, 4, seed, seed, Target(sparsity), registry.pruner(name), RECOVERIES["repair"])
        for seed in (0, 1)
        for name in names
        for sparsity in (0.5, 0.8)
    ]


def session(folder: Path, made: list[Case], executor: str, limit: float | None = None, memory: bool = False) -> int:
    """Run them all; the exit status is 0."""

    def ready() -> None:
        if memory:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, resource.RLIM_INFINITY))

    run_all(folder, made, executor, limit=limit, plugins=[ODD], ready=ready)
    return 0


def workers_of(run: Process) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    return []


class Deaths:
    """The faults; each method injects one of a kind and adds to the counts of that kind."""

    def __init__(self, folder: Path, seed: int, registry: Registry) -> None:
        self.folder, self.random, self.registry = folder, random.Random(seed), registry
        self.counts, self.kinds = Counter[tuple[str, str]](), Counter[str]()
        runner, made = Runner(), cases(registry, *(name for name in registry.pruners if name.startswith("odd-")))
        for case in made:
            runner.code(case)  # what is read of the code is known to the runs from the start
        truth = [json.loads(runner.run(case).as_json()) for case in cases(registry)]
        self.truth = {identity(one): one for one in truth}
        finish(run := start(lambda: session(self._fresh(), cases(registry), "processes:2")))
        self.seconds, self.limit = run.seconds, max(LIMIT, float(ceil(run.seconds)))

    def worker(self) -> None:
        """A worker is killed at any time."""
        made = cases(self.registry)
        run = start(lambda: session(self._fresh(), made, "processes:2"))
        until, killed = time.perf_counter() + self.random.uniform(0, self.seconds), threading.Event()

        def kill() -> None:
            while time.perf_counter() < until or (run.status is None and not workers_of(run)):
                time.sleep(0.002)
            for pid in self.random.sample(found := workers_of(run), min(1, len(found))):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.set()

        killer = threading.Thread(target=kill)
        killer.start()
        finish(run)
        killer.join()
        self._judge("a worker killed" if killed.is_set() else "a worker killed, too late", [run])

    def driver(self) -> None:
        """The run is killed at any time and started again."""
        made, folder, runs = cases(self.registry), self._fresh(), list[Process]()
        while not runs or runs[-1].status == -9:
            runs.append(start(lambda: session(folder, made, "processes:2")))
            until = self.random.uniform(0, self.seconds) if len(runs) == 1 else 1e9
            finish(runs[-1], kill=after(until))
        self._judge("the run killed" if len(runs) > 1 else "the run killed, too late", runs, (0, -9))

    def memory(self) -> None:
        """A method keeps memory, a later one needs as much, and a process may have it once."""
        made = cases(self.registry, "odd-hoard", "odd-take")
        finish(run := start(lambda: session(self._fresh(), made, "processes:2", memory=True)))
        self._judge("out of memory", [run], good=("odd-hoard", "odd-take"))

    def hang(self) -> None:
        """A call into C that does not come back and holds Python's lock."""
        made = cases(self.registry, "odd-hang")[:8]
        finish(run := start(lambda: session(self._fresh(), made, "processes:2", self.limit)))
        self._judge("a call that hangs", [run], expected=made)

    def exits(self) -> None:
        """A plugin that ends its process."""
        name = self.random.choice(["odd-exit", "odd-quit", "odd-segv", "odd-prune"])
        executor = self.random.choice(["serial", "processes:2"])
        made = cases(self.registry, name)
        finish(run := start(lambda: session(self._fresh(), made, executor)))
        self._judge("a plugin that exits", [run])

    def node(self, cluster: Any) -> None:
        """One of the nodes of the cluster is killed at any time."""
        node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20, memory=4 << 30)
        raylet = node.all_processes["raylet"][0].process.pid
        timer = threading.Timer(self.random.uniform(0, self.seconds), lambda: os.kill(raylet, signal.SIGKILL))
        timer.start()
        session(self._fresh(), cases(self.registry), "ray")
        timer.join()
        with suppress(Exception):
            cluster.remove_node(node)
        self._judge("a Ray node killed", [])

    def _judge(
        self,
        kind: str,
        runs: list[Process],
        allowed: tuple[int, ...] = (0,),
        good: tuple[str, ...] = (),
        expected: list[Case] | None = None,
    ) -> None:
        """Count what is not as it should be.

        Args:
            allowed: how the runs may have ended.
            good: odd methods that should have a result.
            expected: the cases, where they are not all of the undisturbed run.
        """
        records = read(self.folder / RECORDS)
        found = Counter(map(identity, records))
        asked = set(self.truth) if expected is None else {identity(one.identity()) for one in expected}
        wrong = 0
        for one in records:
            if (right := self.truth.get(identity(one))) is not None:
                wrong += any(one.get(name) != right.get(name) for name in SCIENCE)
            elif one["method"] in good:
                wrong += one["status"] != "ok"
            else:
                wrong += not re.match(REASONS[one["method"]], one["reason"] or "")
        bad = {
            "lost": len(asked - found.keys()),
            "wrong": wrong,
            "duplicate": sum(found.values()) - len(found),
            "odd ends": sum(run.status not in allowed for run in runs),
        }
        self.kinds[kind] += 1
        for name, times in bad.items():
            self.counts[kind, name] += times
        if any(bad.values()):
            words = b"".join(run.words for run in runs)[-2000:].decode(errors="replace")
            reasons = Counter((one["method"], one["reason"]) for one in records if one["status"] != "ok")
            tqdm.write(f"{kind}: {bad} {dict(reasons)}\n{words}")

    def _fresh(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.folder

    def table(self) -> list[list[Any]]:
        rows = [[kind, times, *(self.counts[kind, name] for name in BAD)] for kind, times in self.kinds.items()]
        return [*rows, ["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])]]


def on_ray(deaths: Deaths, count: int) -> None:
    """Faults on a cluster whose first node stays."""
    ray, utilities = import_module("ray"), import_module("ray.cluster_utils")
    executors.MEMORY = 200 << 20
    cluster = utilities.Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 80 << 20, "memory": 4 << 30},
    )
    ray.init(address=cluster.address, log_to_driver=False, logging_level="fatal")
    for _ in tqdm(range(count), unit="fault"):
        deaths.node(cluster)
    ray.shutdown()
    cluster.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.deaths", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the runs put their results; what is there goes")
    parser.add_argument("--each", type=int, default=34, metavar="N", help="faults of every kind but one (default: 34)")
    parser.add_argument("--nodes", type=int, default=0, metavar="N", help="nodes killed, and nothing else")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (default: 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    registry = discover([str(ODD)])
    deaths = Deaths(options.folder.absolute() / "deaths", options.seed, registry)
    if options.nodes:
        on_ray(deaths, options.nodes)
    else:
        faults: list[Callable[[], None]] = [deaths.worker, deaths.driver, deaths.memory, deaths.exits, deaths.hang]
        for fault in tqdm([fault for _ in range(options.each) for fault in faults], unit="fault"):
            fault()
    rows = deaths.table()
    print(tabulate(rows, headers=["fault", "times", *BAD]))
    return 1 if any(rows[-1][2:]) else 0


if __name__ == "__main__":
    sys.exit(main())
