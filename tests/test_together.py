"""Several runs in one results folder: each case is run once, and the last one out is known."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from benchmarks import injector
from tests.cases import REGISTRY, blob_task, case_of
from wfbench import RECOVERIES, Case, Network, Runner, ScorePruner, Target
from wfbench.deploy.needs import Needs
from wfbench.harness.session import STEPS, Session
from wfbench.harness.store import identity, read
from wfbench.pytest_plugin import _summary
from wfbench.storage.claims import NAME, Claims


class Process:
    """A forked process that works as soon as it is told, and tells what came of it."""

    def __init__(self, action: Callable[[Callable[[Any], None]], None]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            with os.fdopen(writing, "w") as pipe:
                action(lambda value: print(json.dumps(value), file=pipe, flush=True))
            os._exit(0)
        os.close(writing)
        self._pipe = os.fdopen(reading)

    def told(self) -> Any:
        """What it says next; it fails where the process has ended without a word."""
        return json.loads(self._pipe.readline())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        self._pipe.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_killed_process_claims_nothing_any_more(tmp_path: Path) -> None:
    def works(tell: Callable[[Any], None]) -> None:
        claims = Claims(tmp_path)
        claims.enter("mine")
        with claims.case("a") as is_mine:
            tell(is_mine)
            if not os.fork():  # what it starts outlives it, and has no part in its claims
                time.sleep(2)
                os._exit(0)
            time.sleep(60)

    other = Process(works)
    assert other.told()
    claims = Claims(tmp_path)
    for suite in ("mine", "others"):
        claims.enter(suite)
    with claims.case("a") as a, claims.case("b") as b:
        assert (a, b) == (False, True)
    with claims.leaving(["mine", "others"]) as alone:
        assert alone == {"others"}
    assert (tmp_path / NAME).exists()
    other.kill()
    claims = Claims(tmp_path)
    claims.enter("mine")
    with claims.case("a") as a:
        assert a
    with claims.leaving(["mine"]) as alone:
        assert alone == {"mine"}
    assert list(tmp_path.iterdir()) == []


class Slow(ScorePruner[None]):
    """Magnitude, after a while."""

    name = "slow"

    def scores(self, net: Network, data: None) -> dict[str, Tensor]:
        time.sleep(0.05)
        return {name: weight.abs() for name, weight in net.weights.items()}


class Fails(ScorePruner[None]):
    """It tells how often it was asked by the length of a file."""

    name = "fails"

    def scores(self, net: Network, data: None) -> dict[str, Tensor]:
        with Path(os.environ["ASKED"]).open("a") as file:
            file.write("x")
        raise ValueError("not today")


def cases() -> list[Case]:
    task, none = blob_task(), RECOVERIES["none"]
    slow = [Case(task, 8, seed, 0, Target(0.5), Slow(), none) for seed in range(10)]
    gradual = replace(slow[0], method=REGISTRY.pruner("gradual[steps=3]-magnitude"))
    return [*slow[:5], gradual, *slow[5:], replace(slow[0], method=Fails())]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    monkeypatch.setattr("wfbench.harness.session.discover", lambda *_: REGISTRY)
    runner = Runner()
    for case in cases():  # what is read of the code is known to the processes from the start
        runner.code(case)
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    usual = {"--results": str(tmp_path / "results"), "--device": "cpu", "-m": "mine", "--executor": "serial"}

    def made(**options: Any) -> Session:
        found = Session({**usual, **options}.get, {}, Needs())
        found.prepare("mine", cases())
        return found

    return made


@pytest.mark.parametrize("runs", [2, 4])
def test_runs_in_one_folder_share_the_cases(runs: int, session: Callable[..., Session], tmp_path: Path) -> None:
    def works(tell: Callable[[Any], None]) -> None:
        ours = session()
        for case in cases():
            ours.run("mine", case)
        assert ours.claims is not None
        with ours.claims.leaving(["mine"]) as alone:
            tell({**ours.counts, "last": bool(alone), "known": len(ours.stores["mine"].records)})

    processes = [Process(works) for _ in range(runs)]
    told = [process.told() for process in processes]
    assert [process.wait() for process in processes] == [0] * runs
    records = read(tmp_path / "results" / "mine.jsonl")
    asked = [case.identity() for case in cases()]
    assert sorted(map(str, map(identity, records))) == sorted(str(identity(one)) for one in asked)
    assert sum(one["run"] for one in told) == len(asked)
    assert all(one["run"] + one["reused"] == len(asked) for one in told)
    assert sum(one["run"] > 0 for one in told) > 1  # on a busy machine the last to begin may find nothing left
    assert [one["failed"] for one in told] == [1] * runs
    assert sum(one["last"] for one in told) == 1
    assert next(one["known"] for one in told if one["last"]) == len(asked)
    assert not list((tmp_path / "results" / STEPS).glob("*"))
    assert not (tmp_path / "results" / NAME).exists()


def test_only_the_last_run_writes_the_tables(session: Callable[..., Session], tmp_path: Path) -> None:
    ours, words = session(), list[str]()
    terminal = SimpleNamespace(section=words.append, write_line=lambda text, **_: words.append(text))
    ours.run("mine", cases()[0])
    _summary(terminal, ours, "mine", is_last=False)
    assert words[-1] == "no tables yet: another run is at this suite, and the last one writes them"
    assert not (tmp_path / "results" / "tables").exists()
    _summary(terminal, ours, "mine", is_last=True)
    assert words[-1].startswith(f"tables: {tmp_path / 'results' / 'tables' / 'mine.md'}")
    assert (tmp_path / "results" / "tables" / "mine.md").exists()


def test_what_was_run_out_of_turn_is_not_run_again(
    session: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the code cannot be read, so that no record is ever reused."""
    ours = session()
    monkeypatch.setattr(ours.runner, "code", lambda case: None)
    ours.run("mine", cases()[3])
    for case in cases():
        ours.run("mine", case)
    assert len(read(tmp_path / "results" / "mine.jsonl")) == ours.counts["run"] == len(cases())


def test_a_failed_case_is_retried_by_one_of_the_runs(session: Callable[..., Session], tmp_path: Path) -> None:
    failing = replace(case_of("magnitude", task=blob_task()), method=Fails())
    first = session()
    first.run("mine", failing)
    one, other = session(**{"--retry-failed": True}), session(**{"--retry-failed": True})
    one.run("mine", failing)
    other.run("mine", failing)  # after the record of the one
    one.run("mine", failing)
    assert len(read(tmp_path / "results" / "mine.jsonl")) == (tmp_path / "asked").stat().st_size == 2


def test_a_clock_that_is_set_back_gives_no_negative_seconds(
    session: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    ours = session()
    ours.run("mine", cases()[0])
    (record,) = read(tmp_path / "results" / "mine.jsonl")
    assert 0.05 < record["seconds"] < 60


def test_the_injector_counts_what_is_lost_wrong_and_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [json.loads(Runner().run(case).as_json()) for case in cases()[:4]]
    monkeypatch.setattr(injector, "suite", lambda _: injector.start(lambda: print("Traceback (most recent") or 0))
    monkeypatch.setattr(injector, "program", lambda _: 1)
    faults = object.__new__(injector.Injector)
    faults.counts, faults.bar = Counter(), SimpleNamespace(write=lambda _: None)
    faults.truth = {identity(one): one for one in records}
    path = tmp_path / injector.RECORDS
    path.write_text("".join(json.dumps(one) + "\n" for one in [*records[:3], {**records[2], "accuracy": 0.5}]))
    (tmp_path / f"{injector.RECORDS}.aside").write_bytes(b"set aside\n")
    killed = injector.start(lambda: 7)
    injector.finish(killed)
    faults._judge("kind", tmp_path, {b"set aside", b"gone", *injector.lines(tmp_path)}, [killed], (injector.KILLED,))
    expected = {"lost": 2, "wrong": 2, "duplicate": 1, "tracebacks": 1, "odd exits": 1}
    assert faults.counts == {("kind", name): count for name, count in expected.items()}


def test_a_process_of_the_injector_is_killed_and_its_words_are_kept() -> None:
    def talks() -> int:
        print("begun", flush=True)
        time.sleep(60)
        return 0

    process = injector.start(talks)
    injector.finish(process, kill=lambda: bool(process.words))
    assert (process.status, process.words) == (injector.KILLED, b"begun\n")
