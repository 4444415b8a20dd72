"""Cases of strangers run in a process of their own, so that nothing they do reaches the run or the other cases."""

import ctypes
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cases import REGISTRY, blob_task, case_of
from tests.processes import Program
from tests.test_suites import TASK
from wfbench.cli import main
from wfbench.conformance.trial import TIMES
from wfbench.deploy.needs import Needs
from wfbench.errors import LONGEST, BrokenRule, WfbenchError, why
from wfbench.execution.alarm import CaseTimeout, alarm
from wfbench.execution.worker import Died, Overdue, Worker, at
from wfbench.harness.runner import Runner
from wfbench.harness.session import Session
from wfbench.harness.store import read
from wfbench.harness.suite import Grid, Suite
from wfbench.writing import Unwritable

METHODS = """
import ctypes, os, signal, sys, time
import torch
from wfbench import ScorePruner

class Odd(BaseException):
    pass

class Speechless(Exception):
    def __str__(self):
        raise Odd

def bare():
    while True:
        try:
            time.sleep(60)
        except:
            pass

def cleared():
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(60)

def forgets():
    if os.fork() == 0:
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGSEGV)

def counts():
    with open(os.environ.get("SEEN", os.devnull), "a") as seen:
        seen.write(f"{os.getpid()} ")

def leaks():
    torch.set_default_dtype(torch.float64)
    torch.nn.Linear.forward = lambda self, x: x.new_zeros(len(x), self.out_features)
    os.environ["SEEN"] = "elsewhere"

def one(name_, does):
    class Method(ScorePruner[None]):
        name = name_
        def scores(self, net, data):
            does()
            return {key: weight.abs() for key, weight in net.weights.items()}
    return Method

def throws(error):
    def does():
        raise error
    return does

PRUNERS = [
    one("plain", lambda: None),
    one("counts", counts),
    one("leaks", leaks),
    one("exits", lambda: os._exit(0)),
    one("quits", lambda: sys.exit(7)),
    one("interrupts", throws(KeyboardInterrupt())),
    one("odd", throws(Odd("mine"))),
    one("segv", lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    one("forgets", forgets),
    one("killed", lambda: os.kill(os.getpid(), signal.SIGKILL)),
    one("memory", lambda: bytearray(1 << 60)),
    one("huge", throws(ValueError("x" * 20_000_000))),
    one("speechless", throws(Speechless())),
    one("control", throws(ValueError("a\\x1b[31mb\\x00c\\ud800d"))),
    one("bare", bare),
    one("cleared", cleared),
    one("call", lambda: (counts(), ctypes.PyDLL(None).sleep(60))),
    one("last", lambda: None),
]
"""
CHECKED = """
import os
from wfbench import ScorePruner

class Odd(BaseException):
    pass

def weights(net):
    return {key: weight.abs() for key, weight in net.weights.items()}

class Exits(ScorePruner[None]):
    name = "exits"
    def scores(self, net, data):
        os._exit(0)

class Raises(ScorePruner[None]):
    name = "raises"
    def scores(self, net, data):
        raise Odd("mine")

class Fine(ScorePruner[None]):
    name = "fine"
    def scores(self, net, data):
        return weights(net)
"""
GRID = ["-m", "smoke", "--tasks", "blobs", "--budgets", "4", "--sparsities", "0.5", "--seeds", "1"]
GRID += ["--recoveries", "none"]
LIMIT = r"fit: CaseTimeout: took longer than the 1 s of --case-timeout; raise it and give --retry-failed$"
REASONS = {
    "exits": r"fit: the process ended itself with exit status 0; .* --retry-failed runs it again$",
    "quits": "fit: SystemExit: 7$",
    "interrupts": "fit: KeyboardInterrupt: $",
    "odd": "fit: Odd: mine$",
    "segv": "fit: the process died of SIGSEGV; ",
    "forgets": "fit: the process died of SIGSEGV; ",
    "killed": r"fit: the process died of SIGKILL \(for want of memory, as it may be\); ",
    "memory": "fit: MemoryError: $",
    "huge": r"fit: ValueError: x{1900,}… \(20,000,012 characters\)$",
    "speechless": r"fit: Speechless: \(its text cannot be had: Odd\)$",
    "control": "fit: ValueError: a\ufffd\\[31mb\ufffdc\ufffdd$",
    "bare": LIMIT,
    "cleared": LIMIT,
    "call": LIMIT,
}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "tasks.py").write_text(TASK)
    (folder / "methods.py").write_text(METHODS)
    return ["--task-path", str(folder / "tasks.py"), "--baseline-path", str(folder / "methods.py")]


def session_of(folder: Path, plugins: list[str], limit: float | None, methods: str, budgets: int = 2) -> Session:
    """A session of the suite `s` on the blobs, ready to run: so many budgets, sparsities and recoveries."""
    options: dict[str, Any] = {
        "--results": str(folder), "--case-timeout": limit, "--methods": methods, "--device": "cpu", "-m": "s",
        "--task-path": plugins[1:2], "--baseline-path": plugins[3:4], "--executor": "serial",
    }  # fmt: skip
    session = Session(options.get, {"s": ""}, Needs())
    values = (4, 8)[:budgets], (0.5, 0.8)[:budgets], ("none", "repair")[:budgets]
    grid = Grid(*values, 1, ("blobs",), tuple(methods.split(",")))
    suite = Suite("s", (grid,))
    session.prepare("s", session.cases_of(suite, set()))
    return session


def records_of(session: Session) -> list[Any]:
    """The records of its cases, run in their order; as JSON, without what hangs on the time."""
    try:
        for case in session.cases["s"]:
            session.run("s", case)
    finally:
        session.end()
    return [{key: one for key, one in record.items() if key not in TIMES} for record in session.stores["s"].records]


def test_whatever_a_method_does_is_a_failed_record_with_a_short_reason(plugins: list[str], tmp_path: Path) -> None:
    names = ["plain", *REASONS, "last"]
    began = time.monotonic()
    records_of(session_of(tmp_path, plugins, 1.0, ",".join(names), budgets=1))
    assert time.monotonic() - began < 30  # three cases at the limit of a second; each would take a minute or for ever
    text = (tmp_path / "s.jsonl").read_text()
    records = {one["method"]: one for one in map(json.loads, text.splitlines())}
    assert list(records) == names
    assert text.count("\n") == len(names)
    for name, reason in REASONS.items():
        assert records[name]["status"] == "failed"
        assert re.match(reason, records[name]["reason"]), records[name]["reason"]
        assert len(records[name]["reason"]) < LONGEST + 100
        assert records[name]["n_inputs"] == records["plain"]["n_inputs"]
    assert records["plain"]["status"] == records["last"]["status"] == "ok"
    assert records["plain"]["accuracy"] == records["last"]["accuracy"]


def test_the_records_are_the_same_bits_in_a_process_of_their_own(
    plugins: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEN", str(seen := tmp_path / "seen"))
    methods = "magnitude,woodfisher,obc,random,counts"
    apart = records_of(session_of(tmp_path / "apart", plugins, 60.0, methods))
    assert len(apart) == 40 + 2  # the dense network, of both draws
    assert {one["status"] for one in apart} == {"ok"}
    pids = seen.read_text().split()
    assert len(pids) == 2  # fitted once a budget, as what cases share is kept over them
    assert len({*pids, str(os.getpid())}) == 3  # other strangers were in between, each in a process of its own
    here = session_of(tmp_path / "here", plugins, None, methods)
    here.registry.strange.clear()
    assert records_of(here) == apart
    assert seen.read_text().split()[2:] == [str(os.getpid())] * 2


def test_strangers_alone_run_apart_unless_there_is_a_limit(plugins: list[str], tmp_path: Path) -> None:
    session = session_of(tmp_path, plugins, None, "magnitude,plain,gradual-plain,magnitude-as-plain,plain+woodfisher")
    made = {case.method.name: case for case in session.cases["s"]}
    assert all(session._apart(case) for case in made.values())  # the task is a stranger's
    registry = session.registry
    registry.strange.discard("blobs")
    assert {name for name, case in made.items() if registry.strangers(case)} == {
        "plain", "gradual-plain", "magnitude-as-plain", "plain+woodfisher",
    }  # fmt: skip
    assert session._apart(made["magnitude"]) is None
    assert session._apart(made["plain"]) == session._apart(made["gradual-plain"])
    ours = [case_of(name) for name in REGISTRY.pruners if "unstructured" in REGISTRY.pruner(name).patterns]
    assert not any(registry.strangers(case) for case in ours)
    assert registry.strangers(case_of("magnitude", task=replace(blob_task(), name="blobs"))) == set()
    registry.strange.add("blobs")
    assert registry.strangers(case_of("magnitude", task=replace(blob_task(), name="blobs[50]"))) == {"blobs"}


def test_what_a_stranger_leaves_behind_reaches_no_record_of_ours(plugins: list[str], tmp_path: Path) -> None:
    session = session_of(tmp_path / "after", plugins, None, "leaks,magnitude", budgets=1)
    session.registry.strange.discard("blobs")
    alone = session_of(tmp_path / "alone", plugins, None, "magnitude", budgets=1)
    alone.registry.strange.clear()
    assert records_of(session)[1:] == records_of(alone)
    assert torch.get_default_dtype() == torch.float32


class SlowScores(Runner):
    def _evaluate(self, *arguments: Any) -> Any:
        time.sleep(0.6)
        return super()._evaluate(*arguments)


def test_a_time_limit_does_not_count_the_scoring(plugins: list[str], tmp_path: Path) -> None:
    session = session_of(tmp_path, plugins, 0.5, "magnitude")
    session.runner = session._work.runner = SlowScores()
    session.run("s", session.cases["s"][0])
    session.end()
    assert session.counts["failed"] == 0
    assert session.counts["run"] == 1


def test_on_other_devices_the_limit_is_an_alarm_and_a_word_says_so(
    plugins: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wfbench.harness.runner.now", lambda _: time.perf_counter())  # there is no such device
    monkeypatch.setattr("wfbench.harness.isolation.seeded_generators", lambda *_: nullcontext())
    session = session_of(tmp_path, plugins, 0.5, "magnitude,plain")
    assert session.words == []
    runner = session.runner = session._work.runner = SlowScores()
    assert runner.failure(session.cases["s"][0]) is None
    runner.device = torch.device("mps")
    session.prepare("s", session.cases["s"])
    assert re.match("cases on mps run in the process of the run: ", session.words[0])
    before = signal.getsignal(signal.SIGALRM)
    session.run("s", session.cases["s"][0])
    assert session.counts["failed"] == 0
    assert signal.getsignal(signal.SIGALRM) == before
    with pytest.raises(CaseTimeout, match=r"longer than the 0\.05 s of --case-timeout"), alarm(0.05):
        time.sleep(5)


def product(n: int) -> float:
    """What takes OpenMP's threads: a product, a convolution with its gradient, and a factorisation."""
    torch.manual_seed(0)
    a = torch.randn(n, n)
    x = torch.randn(16, 8, 32, 32, requires_grad=True)
    torch.nn.functional.conv2d(x, torch.randn(16, 8, 3, 3)).relu().sum().backward()
    assert x.grad is not None
    return float(torch.linalg.cholesky(a @ a.T + n * torch.eye(n)).sum() + x.grad.sum())


def in_a_place(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def there(request: Any) -> Any:
        with at("fit"):
            return work(request)

    return there


@pytest.fixture
def worker() -> Iterator[Callable[[Callable[[Any], Any]], Worker]]:
    made: list[Worker] = []

    def make(work: Callable[[Any], Any]) -> Worker:
        made.append(Worker(work))
        return made[-1]

    yield make
    for one in made:
        one.end()


Make = Callable[[Callable[[Any], Any]], Worker]


def test_a_worker_computes_in_threads_though_its_parent_has(worker: Make) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        here = product(500)
        asked = worker(in_a_place(lambda n: (product(n), torch.get_num_threads())))
        assert asked.ask(500, limit=20.0) == (here, 2)  # with OpenMP's threads of the parent it would wait for ever
    finally:
        torch.set_num_threads(before)


def test_a_worker_is_kept_and_replaced_when_it_dies(worker: Make) -> None:
    def work(does: str) -> int:
        if does == "die":
            os._exit(3)
        return os.getpid()

    asked = worker(work)
    first = asked.ask("say")
    assert asked.ask("say") == first != os.getpid()
    with pytest.raises(Died, match=r"^the process ended itself with exit status 3$"):
        asked.ask("die")
    assert asked.ask("say") not in (first, os.getpid())


def test_the_limit_counts_the_time_in_places_alone(worker: Make) -> None:
    def work(seconds: list[float]) -> str:
        for index, one in enumerate(seconds):
            with at("fit") if index % 2 == 0 else nullcontext():
                time.sleep(one)
        return "done"

    asked = worker(work)
    assert asked.ask([0.05, 0.6, 0.05], limit=0.4) == "done"
    with pytest.raises(Overdue, match=r"^fit: "):
        asked.ask([0.25, 0.0, 0.25], limit=0.4)


def test_what_the_work_raises_is_raised_and_leaves_the_worker(worker: Make) -> None:
    def work(error: str) -> int:
        if error:
            raise {"broken": BrokenRule, "ours": WfbenchError, "disk": Unwritable, "other": OSError}[error]("so it is")
        return os.getpid()

    asked = worker(work)
    first = asked.ask("")
    for name, kind in (("broken", BrokenRule), ("ours", WfbenchError), ("disk", Unwritable)):
        with pytest.raises(kind, match=r"^so it is$"):
            asked.ask(name)
    with pytest.raises(RuntimeError, match=r"^Traceback(.|\n)*in work\n(.|\n)*OSError: so it is\n$"):
        asked.ask("other")
    unsaid = worker(lambda _: threading.Lock())
    with pytest.raises(RuntimeError, match="cannot pickle"):
        unsaid.ask("")
    assert asked.ask("") == first


def test_a_fork_that_the_work_leaves_behind_answers_nothing(worker: Make) -> None:
    def work(name: str) -> tuple[str, bool]:
        return name, os.fork() == 0

    asked = worker(work)
    assert asked.ask("a") == ("a", False)
    time.sleep(0.1)
    assert asked.ask("b") == ("b", False)


def test_a_worker_ends_with_the_process_that_asks_even_in_a_call_into_c(worker: Make, tmp_path: Path) -> None:
    def inner(_: None) -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        with at("call"):
            ctypes.PyDLL(None).sleep(60)

    outer = worker(in_a_place(lambda _: Worker(inner).ask(None)))
    with pytest.raises(Overdue):
        outer.ask(None, limit=1.0)
    pid = (tmp_path / "pid").read_text()
    wait_for(lambda: not is_there(pid))


def is_there(pid: str) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(true: Callable[[], Any]) -> None:
    until = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(("executor", "workers"), [("serial", 1), ("processes:2", 2)])
def test_a_run_that_is_interrupted_ends_at_once_without_a_process_left(
    executor: str, workers: int, plugins: list[str], tmp_path: Path
) -> None:
    command = ["suites", "-p", "no:cacheprovider", "-p", "no:terminal", *GRID, *plugins]
    command += ["--methods", "plain,counts,call", "--results", str(tmp_path), "--executor", executor]
    seen = tmp_path / "seen"
    run = Program("pytest", *command, out=tmp_path / "out", SEEN=str(seen))
    store = tmp_path / "smoke.jsonl"
    wait_for(lambda: seen.exists() and len(seen.read_text().split()) == 2)  # the third case has begun
    wait_for(lambda: store.exists() and "counts" in store.read_text())
    pids = {*seen.read_text().split()}
    assert len(pids) == workers
    assert all(map(is_there, pids))
    run.signal(signal.SIGINT)
    assert run.end(120).returncode == 2
    wait_for(lambda: not any(map(is_there, pids)))
    kept = {record["method"] for record in read(store)}
    assert {"plain"} <= kept <= {"plain", "counts"}  # the second may have been in the middle of its writing


def test_check_ends_with_a_word_for_a_method_that_exits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(CHECKED)
    assert main(["check", str(tmp_path / "mine.py"), "--json"]) == 1
    outcomes = json.loads(capsys.readouterr().out)
    assert outcomes[0] == {
        "method": "exits", "check": "runs", "status": "failed",
        "reason": "fit: the process ended itself with exit status 0, and 15 checks with it; a method returns or raises",
    }  # fmt: skip
    assert re.match("the method crashes: Odd: mine", outcomes[1]["reason"])
    rest = [one for one in outcomes if one["method"] == "fine"]
    assert len(rest) == 16
    assert {one["status"] for one in rest} == {"ok", "skipped"}


def test_a_reason_is_short_and_prints() -> None:
    assert why(ValueError("a\tb\nc é")) == "ValueError: a\tb\nc é"
    error = WfbenchError("\x07bell")
    error.add_note("in \x1b")
    assert why(error) == "\ufffdbell (in \ufffd)"
    assert why(ValueError("x" * 3000)) == f"ValueError: {'x' * (LONGEST - 12)}… (3,012 characters)"
