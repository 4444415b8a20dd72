"""`python -m benchmarks.executors FOLDER`: 1564 cases of digits-cnn by every executor, in turns.

Are the records the same bits in every field of science, and what does each executor cost? Every run is a session in a
process of its own. With `--ray` one of them is on a Ray cluster of two nodes on this machine, at best in a network with
loopback alone: `unshare -n sh -c 'ip link set lo up; python -m benchmarks.executors FOLDER --ray'`.
"""

import argparse
import random
import resource
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.forked import finish, start
from benchmarks.sessions import run_all
from wfbench import Case, discover
from wfbench.harness.record import SCIENCE
from wfbench.harness.store import identity, read
from wfbench.harness.suite import Grid, Suite

WEIGHTS = (
    *("magnitude", "lamp", "random", "taylor", "snip", "diag-fisher", "wanda", "sparsegpt", "lobs", "kfac"),
    *("woodfisher", "woodfisher-joint", "magnitude-as-lobs", "magnitude+woodfisher-joint"),
)
TASK, RECOVERED = ("digits-cnn",), ("none", "batchnorm", "repair")
SUITE = Suite(
    "mine",
    (
        Grid((8, 32, 64), (0.5, 0.8, 0.9), RECOVERED, 4, TASK, WEIGHTS),
        Grid((8,), (0.5,), RECOVERED[1:], 2, TASK, ("filter-l1", "random-filter", "obs-filter"), "filter", "macs"),
        Grid((8,), (0.5,), RECOVERED[::2], 2, TASK, ("magnitude", "random", "wanda", "sparsegpt"), "n:m"),
    ),
)


@contextmanager
def two_nodes() -> Iterator[None]:
    """A Ray cluster, to which this process is connected."""
    ray, utilities = import_module("ray"), import_module("ray.cluster_utils")
    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "memory": 4 << 30}
    cluster = utilities.Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="fatal")
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def session(folder: Path, cases: list[Case], executor: str) -> int:
    """Run them all; the exit status is 0."""
    torch.set_num_threads(1)
    run_all(folder, cases, executor)
    return 0


def on_ray(folder: Path, cases: list[Case], executor: str) -> int:
    with two_nodes():
        return session(folder, cases, executor)


def science(folder: Path) -> dict[Any, dict[str, Any]]:
    """The science fields of the records, by case."""
    records = read(folder / "mine.jsonl")
    found = {identity(one): {name: one.get(name) for name in SCIENCE} for one in records}
    assert len(found) == len(records), f"{folder} has {len(records) - len(found)} cases twice"
    return found


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.executors", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the runs put their results; what is there goes")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="runs of each executor (default: 1)")
    parser.add_argument("--cases", type=int, metavar="N", help="only so many, at random (default: all)")
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster, too")
    options = parser.parse_args()
    cases = SUITE.cases(discover())
    kept = sorted(random.Random(0).sample(range(len(cases)), options.cases or len(cases)))
    cases = [cases[at] for at in kept]
    shuffled = random.Random(1).sample(cases, len(cases))
    runs = {"serial": cases, "processes:2": cases, "processes:2, any order": shuffled}
    runs |= {"ray": cases} if options.ray else {}
    seconds, processor = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    others = dict.fromkeys(runs, 0)
    expected: dict[Any, dict[str, Any]] = {}
    for name in tqdm([*runs] * options.times, unit="run"):
        folder = options.folder.absolute() / name.replace(":", "-").replace(", ", "-").replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        act = on_ray if name == "ray" else session
        finish(run := start(lambda: act(folder, runs[name], name.partition(",")[0])))  # noqa: B023
        assert run.status == 0, run.words.decode(errors="replace")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds[name].append(run.seconds)
        processor[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        found = science(folder)
        expected = expected or found
        assert found.keys() == expected.keys()
        others[name] += sum(found[which] != expected[which] for which in expected)
    rows = []
    for name in runs:
        pairs = [took / alone for took, alone in zip(seconds[name], seconds["serial"], strict=True)]
        spent = None if name == "ray" else median(processor[name])  # whose workers are not this process's
        rows.append([name, len(cases), others[name], median(seconds[name]), median(pairs), spent])
    heads = ["executor", "cases", "other bits", "seconds", "of serial", "processor seconds"]
    print(tabulate(rows, headers=heads, floatfmt=".3g"))
    return 1 if any(others.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
