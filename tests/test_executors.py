"""Wherever cases run, and in whatever order, the records are the same bits; what dies with a worker is tried again."""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cases import REGISTRY, blob_task
from tests.rayed import SUITE
from tests.test_together import Process
from wfbench import Network, ScorePruner, Target, WfbenchError
from wfbench.deploy.needs import Needs
from wfbench.execution.pool import Job, Line, Pool, Processes
from wfbench.execution.worker import Died
from wfbench.harness.case import Case
from wfbench.harness.executors import made
from wfbench.harness.record import SCIENCE
from wfbench.harness.runner import Runner
from wfbench.harness.session import Session
from wfbench.harness.store import identity, read
from wfbench.network import Params
from wfbench.recoveries.names import RECOVERIES

Make = Callable[..., Session]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A session with an executor, ready to run cases in a folder of its own."""
    monkeypatch.setattr("wfbench.harness.session.discover", lambda *_: REGISTRY)

    def make(executor: str, cases: list[Case], folder: str = "results", limit: float | None = None) -> Session:
        options = {"--results": str(tmp_path / folder), "--device": "cpu", "-m": "mine", "--executor": executor}
        found = Session({**options, "--case-timeout": limit}.get, {}, Needs())
        found.prepare("mine", cases)
        return found

    return make


def run(session: Session, cases: list[Case]) -> None:
    try:
        for case in cases:
            session.run("mine", case)
    finally:
        session.end()


def science(path: Path) -> dict[Any, Any]:
    """The science fields of a record file, by case."""
    return {identity(one): {name: one.get(name) for name in SCIENCE} for one in read(path)}


def test_processes_and_any_order_give_the_records_of_one_process(session: Make, tmp_path: Path) -> None:
    cases = SUITE.cases(REGISTRY)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run(session("serial", cases, "serial"), cases)
    finally:
        torch.set_num_threads(before)
    run(session("processes:2", cases, "processes"), cases)
    shuffled = random.Random(0).sample(cases, len(cases))
    run(session("processes:3", shuffled, "shuffled"), random.Random(1).sample(cases, len(cases)))
    serial = science(tmp_path / "serial" / "mine.jsonl")
    assert len(serial) == len(cases)
    for other, workers in (("processes", 2), ("shuffled", 3)):
        assert science(tmp_path / other / "mine.jsonl") == serial
        records = read(tmp_path / other / "mine.jsonl")
        assert len(records) == len(cases)
        assert {(one["environment"]["threads"], one["environment"]["workers"]) for one in records} == {(1, workers)}
        latencies = {one["architecture"]: one["latencies"] for one in records if "latencies" in one}
        assert all(one["latencies"] == latencies[one["architecture"]] for one in records if "latencies" in one)
    assert {one["status"] for one in serial.values()} == {"ok"}


class Dies(ScorePruner[None]):
    """It ends its process as often as a file says."""

    name = "dies"

    def scores(self, net: Network, data: None) -> Params:
        counter = Path(os.environ["DEATHS"])
        if left := int(counter.read_text()):
            counter.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return {name: weight.abs() for name, weight in net.weights.items()}


def blob_cases(method: Any, seeds: int = 1) -> list[Case]:
    return [Case(blob_task(), 4, seed, 0, Target(0.5), method, RECOVERIES["none"]) for seed in range(seeds)]


@pytest.mark.parametrize(("deaths", "status"), [(1, "ok"), (2, "failed")])
def test_a_case_whose_worker_dies_is_tried_once_more(
    deaths: int, status: str, session: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (counter := tmp_path / "deaths").write_text(str(deaths))
    monkeypatch.setenv("DEATHS", str(counter))
    cases = blob_cases(Dies()) + blob_cases(REGISTRY.pruner("magnitude"), 3)
    run(session("processes:2", cases), cases)
    records = {one["method"]: one for one in read(tmp_path / "results" / "mine.jsonl")}
    assert counter.read_text() == "0"
    assert (records["dies"]["status"], records["magnitude"]["status"]) == (status, "ok")
    if status == "failed":
        assert records["dies"]["reason"] == (
            "fit: the process died of SIGKILL (for want of memory, as it may be); tried twice; "
            "the run went on without it, --retry-failed runs it again"
        )


class Hoards(ScorePruner[None]):
    """It keeps its memory."""

    name = "hoards"

    def scores(self, net: Network, data: None) -> Params:
        self.__class__.kept = torch.ones(3 << 26)  # type: ignore[attr-defined]
        return {name: weight.abs() for name, weight in net.weights.items()}


class Takes(ScorePruner[None]):
    """It needs as much memory for a moment."""

    name = "takes"

    def scores(self, net: Network, data: None) -> Params:
        if (missing := torch.ones(3 << 26).sum() - (3 << 26)) != 0:
            raise ValueError(f"{missing}")
        return {name: weight.abs() for name, weight in net.weights.items()}


def test_memory_that_is_kept_fails_no_other_case(session: Make, tmp_path: Path) -> None:
    """In real bytes: a process may have a gibibyte more than it begins with, each method takes three quarters."""

    def works(tell: Callable[[Any], None]) -> None:
        import resource

        cases = blob_cases(Hoards()) + blob_cases(Takes(), 2)
        ours = session("processes:1", cases)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), resource.RLIM_INFINITY))
        run(ours, cases)
        tell("done")

    other = Process(works)
    assert other.told() == "done"
    assert other.wait() == 0
    records = read(tmp_path / "results" / "mine.jsonl")
    assert Counter((one["method"], one["status"]) for one in records) == {("hoards", "ok"): 1, ("takes", "ok"): 2}


def test_runs_with_workers_share_a_folder(session: Make, tmp_path: Path) -> None:
    cases = blob_cases(REGISTRY.pruner("magnitude"), 8) + blob_cases(REGISTRY.pruner("diag-fisher"), 8)
    for case in cases:
        Runner().code(case)

    def works(tell: Callable[[Any], None]) -> None:
        ours = session("processes:2", cases)
        run(ours, cases)
        tell(ours.counts)

    processes = [Process(works) for _ in range(2)]
    told = [process.told() for process in processes]
    assert [process.wait() for process in processes] == [0, 0]
    assert sum(one["run"] for one in told) == len(cases)
    assert all(one["run"] + one["reused"] == len(cases) for one in told)
    assert Counter(map(identity, read(tmp_path / "results" / "mine.jsonl"))).most_common(1)[0][1] == 1


def test_a_group_stays_with_its_taker_and_is_halved_between_kinds() -> None:
    line = Line[str](lambda item: item[1])
    for group in (["a1x", "a1y", "a2x"], ["b1x", "b1y", "b2x", "b2y", "b3x"]):
        line.add(group)
    begun: list[str] = []

    def take(taker: int, first: str = "", outside: str = "") -> str:
        found: list[str] = []
        line.next(taker, lambda item: None if item[0] == outside else not found.append(item), first)
        begun.extend(found)
        return found[0] if found else ""

    assert [take(0), take(1), take(0), take(1)] == ["a1x", "b1x", "a1y", "b1y"]
    assert take(2) == "b3x"  # of b2x b2y | b3x the last part
    assert take(0, first="b2y") == "a2x"  # which is another taker's
    assert take(0) == "b2y"
    assert take(1) == "b2x"
    assert take(1) == ""
    line.add(["c1x", "c1y"])
    line.add(["d1x"])
    assert take(0, outside="c") == "d1x"
    assert take(0, outside="c") == ""
    assert take(0, first="c1y") == "c1y"
    assert take(1) == "c1x"
    assert sorted(begun) == sorted({*begun})


def test_a_pool_tries_again_on_a_new_process_and_tells_errors(tmp_path: Path) -> None:
    def work(request: str) -> Any:
        with (tmp_path / "pids").open("a") as file:
            file.write(f"{os.getpid()} ")
        if request == "dies":
            os._exit(3)
        if request == "raises":
            raise WfbenchError("so it is")
        return request

    pool = Pool([Processes(work) for _ in range(2)], Processes.wait)
    try:
        pool.give(0, Job(0, "says"))
        pool.give(1, Job(1, "dies"))
        assert pool.free() == []
        found: dict[int, Any] = {}
        while not pool.is_idle:
            found |= {job.item: outcome for job, outcome in pool.finished()}
            for slot in pool.free():
                if 2 not in found and len(found) == 1:
                    pool.give(slot, Job(2, "raises"))
                    found[2] = None
        assert found[0] == "says"
        assert str(found[1]) == "the process ended itself with exit status 3; tried twice"
        assert isinstance(found[1], Died)
        assert str(found[2]) == "so it is"
        pids = (tmp_path / "pids").read_text().split()
        assert len(pids) == 4
        assert len({*pids, str(os.getpid())}) >= 4
    finally:
        pool.end()


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        ("threads", "--executor threads: give serial, ray, processes, or processes:N"),
        ("processes:", "give serial"),
        ("processes:0", "N of at least 1"),
        ("serial:2", "give serial"),
    ],
)
def test_an_executor_that_there_is_not_is_refused(executor: str, words: str) -> None:
    with pytest.raises(WfbenchError, match=words):
        made({"--executor": executor}.get, Runner(), None, Needs())


def test_processes_are_for_the_cpu() -> None:
    runner = Runner()
    runner.device = torch.device("mps")
    with pytest.raises(WfbenchError, match="processes:2 runs on the CPU, not on mps; give serial or ray"):
        made({"--executor": "processes:2"}.get, runner, None, Needs())
    work, _ = made({"--executor": "processes"}.get, Runner(), None, Needs())
    assert work.runner.workers == len(os.sched_getaffinity(0))
