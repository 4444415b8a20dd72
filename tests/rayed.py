"""A run on a Ray cluster of two nodes on this machine, one of which is killed; for a network with loopback alone.

A module of its own, so that its methods have the same name in every process of the cluster.
"""

import ctypes
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.sessions import run_all
from tests.cases import REGISTRY, blob_task
from wfbench import Case, Network, ScorePruner, Target, WfbenchError
from wfbench.harness import executors, session
from wfbench.harness.suite import Grid, Suite
from wfbench.network import Params
from wfbench.pruner import Pruner
from wfbench.recoveries.names import RECOVERIES

SUITE = Suite(
    "mine",
    (
        Grid((8,), (0.9,), ("none", "repair"), 2, ("digits-cnn",), ("magnitude", "random", "woodfisher-joint")),
        Grid((4,), (0.5,), ("batchnorm",), 1, ("digits-cnn",), ("filter-l1", "obs-filter"), "filter", "macs"),
        Grid((4,), (0.5,), ("none",), 1, ("digits-cnn",), ("wanda",), "n:m"),
    ),
)
"""Several methods, recoveries and patterns on a real task."""
LIMIT = 15.0
DEADLINE = 300.0
"""Seconds for a worker on the other node to begin, and for that node to be killed."""


def magnitudes(net: Network) -> Params:
    return {name: weight.abs() for name, weight in net.weights.items()}


class Exits(ScorePruner[None]):
    name = "exits"

    def scores(self, net: Network, data: None) -> Params:
        os._exit(3)


class Hangs(ScorePruner[None]):
    """In a call into C that holds Python's lock."""

    name = "hangs"

    def scores(self, net: Network, data: None) -> Params:
        ctypes.PyDLL(None).sleep(600)
        return magnitudes(net)


class Waits(ScorePruner[None]):
    """On the node that is to be killed it says that it is there, and waits; on the other it waits for that."""

    name = "waits"

    def scores(self, net: Network, data: None) -> Params:
        folder = Path(os.environ["RAYED"])
        if os.environ["RAY_RAYLET_PID"] == (folder / "victim").read_text():
            (folder / "there").touch()
            time.sleep(600)
        until = time.monotonic() + DEADLINE
        while not (folder / "there").exists() and time.monotonic() < until:
            time.sleep(0.05)
        return magnitudes(net)


def cases(*methods: Pruner[Any], seeds: int = 1) -> list[Case]:
    task, none = blob_task(), RECOVERIES["none"]
    return [Case(task, 4, seed, 0, Target(0.5), method, none) for method in methods for seed in range(seeds)]


def run(folder: Path, made: list[Case], limit: float | None = None) -> dict[str, int]:
    """The counts of a session on the cluster that this process is connected to."""
    return run_all(folder, made, "ray", limit=limit)


def main(folder: Path) -> None:
    slow = {"RAY_raylet_start_wait_time_s": f"{DEADLINE:g}", "RAY_worker_register_timeout_seconds": f"{DEADLINE:g}"}
    os.environ |= {"RAYED": str(folder), "RAY_USAGE_STATS_ENABLED": "0", **slow}
    import ray
    from ray.cluster_utils import Cluster

    executors.MEMORY = 100 << 20
    session.discover = lambda *_: REGISTRY  # type: ignore[attr-defined]
    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "memory": 4 << 30}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    (folder / "victim").write_text(str(victim := second.all_processes["raylet"][0].process.pid))
    told = {"nodes": len(ray.nodes()), "quiet": run(folder / "quiet", SUITE.cases(REGISTRY))}

    def kill() -> None:
        while not (folder / "there").exists():
            time.sleep(0.05)
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    told["disturbed"] = run(folder / "disturbed", cases(Waits(), seeds=4))
    killer.join(DEADLINE)
    told["killed"] = not killer.is_alive()
    executors.MEMORY = 64 << 30
    try:
        run(folder / "large", cases(REGISTRY.pruner("diag-fisher")))
    except WfbenchError as error:
        told["refused"] = str(error)
    executors.MEMORY = 100 << 20
    told["failing"] = run(folder / "failing", cases(Exits(), Hangs()), LIMIT)
    print(json.dumps(told), flush=True)
    ray.shutdown()
    cluster.shutdown()
