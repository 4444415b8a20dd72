"""Suites through pytest: options, markers, one item a case, resume, progress and a table at the end."""

import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark.expression import Expression
from tqdm import tqdm

from wfbench.composed.steps import steps_in
from wfbench.errors import BrokenRule, WfbenchError
from wfbench.harness.case import Case
from wfbench.harness.plugins import Registry, discover
from wfbench.harness.record import Record
from wfbench.harness.runner import Runner
from wfbench.harness.store import SameBits, Store
from wfbench.harness.suite import Suite, left_out
from wfbench.recoveries.names import RECOVERIES
from wfbench.report import files, frames

MARKERS = {
    "smoke": "a few methods on the embedded digits, in minutes",
    "unstructured": "single weights, every method, four tasks",
    "structured": "whole channels by MACs, every method that takes them out, four tasks; 2:4 weights",
    "gradual": "in steps with training in between, on all training samples and on few",
    "lowdata": "from 5 to 100 samples, six methods, five draws; wrong labels and balanced draws",
    "unlabeled": "without labels: drawn from the network 1, 4, 16 times, or every class weighted",
    "damping": "multiples, shares and cross-validated values of the damping",
    "lead": "10 to 100 samples, the best WoodFishers against every rival, five draws",
    "attribution": "masks x updates x recoveries: which of the three earned the accuracy",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("wfbench", "wfbench suites (pytest suites -m MARKER)")
    group.addoption("--results", default="results", metavar="DIR", help="folder of records and tables")
    group.addoption("--tasks", metavar="A,B", help="tasks to run (see `wfbench list`)")
    group.addoption("--methods", metavar="A,B", help="methods to run (see `wfbench list`)")
    group.addoption("--budgets", metavar="N,N", help="numbers of calibration samples, at least 1")
    group.addoption("--sparsities", metavar="S,S", help="fractions of weights to remove, in [0, 1)")
    group.addoption("--recoveries", metavar="A,B", help=f"what follows the pruning: {', '.join(RECOVERIES)}")
    group.addoption("--seeds", metavar="N", help="draws 0 to N-1")
    group.addoption("--baseline-path", action="append", default=[], metavar="PATH", help="file or folder of methods")
    group.addoption("--task-path", action="append", default=[], metavar="PATH", help="file or folder of tasks")
    group.addoption("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    group.addoption("--executor", default="serial", choices=["serial"], help="where cases run")
    group.addoption("--case-timeout", type=float, metavar="S", help="a method that takes longer has a failed record")
    group.addoption("--retry-failed", action="store_true", help="run failed cases again")


STEPS = ".steps"
"""Folder, within the results, of what cases that are not finished have done."""


class Session:
    """What the items of one pytest run share."""

    def __init__(self, config: pytest.Config) -> None:
        self.results = Path(config.getoption("--results"))
        self.retry = config.getoption("--retry-failed")
        self.limit: float | None = config.getoption("--case-timeout")
        if self.limit is not None and not 0 < self.limit < float("inf"):
            raise WfbenchError(f"--case-timeout {self.limit:g}: give a number of seconds above 0")
        self.registry: Registry = discover(config.getoption("--baseline-path"), config.getoption("--task-path"))
        self.runner = Runner(config.getoption("--device"))
        self.chosen: dict[str, Any] = {
            "tasks": _split(config, "--tasks", str),
            "methods": _split(config, "--methods", str),
            "budgets": _split(config, "--budgets", int),
            "sparsities": _split(config, "--sparsities", float),
            "recoveries": _split(config, "--recoveries", str),
            "seeds": (_split(config, "--seeds", int) or (None,))[0],
        }
        self.stores: dict[str, Store] = {}
        self.proofs = SameBits(self.results)
        self.counts = {"run": 0, "reused": 0, "failed": 0}
        self.failures: dict[str, str] = {}
        self.markers = dict(MARKERS)
        self.suites: dict[str, Suite] = {}
        self.narrowed: dict[str, Suite] = {}
        self.cases: dict[str, list[Case]] = {}
        self.broken: list[str] = []
        self.left_out = ""
        self.bar: Any = None

    def cases_of(self, suite: Suite) -> list[Case]:
        if suite.name not in self.cases:
            narrowed = suite.narrowed(self.registry, **self.chosen)
            self.cases[suite.name] = narrowed.cases(self.registry)
            self.suites[suite.name], self.narrowed[suite.name] = suite, narrowed
        return self.cases[suite.name]

    def check(self, expression: str) -> None:
        """Refuse a marker that nobody declares, and a selection without a case."""
        if nowhere := _words(expression) - self.markers.keys():
            raise WfbenchError(f"there is no suite {', '.join(sorted(nowhere))}; {_listed(self.markers)}")
        if self.broken:
            raise WfbenchError(self.broken[0])
        if self.suites:
            self.left_out = left_out(self.suites.values(), self.narrowed.values(), self.chosen, self.registry)

    def prepare(self, suite: str, cases: list[Case]) -> None:
        """Find out before the first case what would stop the run: data, checkpoints, budgets, the record file."""
        for case in cases:
            size = len(case.task.train_set)
            if case.budget > size:
                raise WfbenchError(
                    f"budget {case.budget} is more than the {size} training samples of {case.task.name}; "
                    f"give --budgets of at most {size}"
                )
        for case in {(case.task.name, case.replicate): case for case in cases}.values():
            self.runner.question(case)
        self.stores[suite] = Store(self.results / f"{suite}.jsonl")

    def run(self, suite: str, case: Case) -> None:
        store = self.stores[suite]
        asked, code = self.runner.question(case), self.runner.code(case)
        known = store.find(asked, code, self.proofs)
        if known is not None and not (self.retry and known["status"] == "failed"):
            self.counts["reused"] += 1
            status, reason = known["status"], known["reason"]
        else:
            steps = self.results / STEPS / f"{asked.digest[:16]}-{code}"
            with steps_in(steps):
                record = self._run(suite, case)
            store.append(record)
            shutil.rmtree(steps, ignore_errors=True)
            self.counts["run"] += 1
            status, reason = record.status, record.reason
        if status == "failed":
            self.counts["failed"] += 1
            self.failures[case.label()] = str(reason)

    def _run(self, suite: str, case: Case) -> Record:
        """The record, failed where the method takes longer than the limit; the time for scoring is not the method's."""
        if self.limit is None:
            return self.runner.run(case, suite)
        try:
            with _alarm(self.limit):
                return self.runner.run(case, suite)
        except CaseTimeout:  # while scoring, so the method is done, and what it made is kept
            return self.runner.run(case, suite)


class CaseTimeout(Exception):
    """The method took longer than `--case-timeout`."""


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `CaseTimeout` in here after so many seconds; not before a call into C returns."""

    def ring(number: int, frame: object) -> None:
        raise CaseTimeout(f"took longer than the {seconds:g} s of --case-timeout; raise it and give --retry-failed")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _split(config: pytest.Config, option: str, kind: type) -> tuple[Any, ...] | None:
    text = config.getoption(option)
    if text is None:
        return None
    try:
        found = tuple(kind(part) for part in str(text).split(",") if part.strip())
    except ValueError:
        raise WfbenchError(f"{option} {text}: give {kind.__name__} values with commas between them") from None
    if not found:
        raise WfbenchError(f"{option} is empty; leave it out for all")
    return found


KEY = pytest.StashKey[Session]()


def _usage(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except WfbenchError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_configure(config: pytest.Config) -> None:
    for name, about in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {about}")
    if config.getoption("--help", default=False) or config.getoption("--markers", default=False):
        return
    expression = config.getoption("-m")
    if not expression:
        raise pytest.UsageError(f"say which suite to run; {_listed(MARKERS)}")
    for name in _words(expression) - MARKERS.keys():  # some file may declare it
        config.addinivalue_line("markers", f"{name}: a suite of your own")
    config.addinivalue_line("python_files", "suite_*.py")
    config.stash[KEY] = _usage(lambda: Session(config))


def _words(expression: str) -> set[str]:
    """The markers that an expression names."""
    return set(re.findall(r"\w+", expression)) - {"and", "or", "not"}


def _listed(markers: Mapping[str, str]) -> str:
    return "the suites are:\n" + "\n".join(f"  -m {name:14} {about}" for name, about in markers.items())


def case_test(marker: str) -> Callable[..., None]:
    """The test of a suite file: `test_case = case_test("mine")` runs the cases of its `SUITE` under `-m mine`."""

    def test_case(case: Case, run_case: Callable[[Case], None]) -> None:
        run_case(case)

    return getattr(pytest.mark, marker)(test_case)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    suite = getattr(metafunc.module, "SUITE", None)
    if "case" not in metafunc.fixturenames or not isinstance(suite, Suite):
        return
    session = metafunc.config.stash[KEY]
    own = {mark.name for mark in metafunc.definition.iter_markers()}
    about = (metafunc.module.__doc__ or "").strip().partition("\n")[0]
    session.markers |= dict.fromkeys(sorted(own - session.markers.keys()), about)
    if not Expression.compile(metafunc.config.getoption("-m")).evaluate(lambda name, /, **_: name in own):
        metafunc.parametrize("case", [])  # pytest leaves it out; its thousands of cases need not be made
        return
    try:
        cases = session.cases_of(suite)
    except WfbenchError as error:
        session.broken.append(str(error))
        cases = []
    metafunc.parametrize("case", cases, ids=[case.label() for case in cases])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = config.stash[KEY]
    if not session.testsfailed:  # pytest says itself what it could not collect
        _usage(lambda: ours.check(config.getoption("-m")))
    by_suite: dict[str, list[Case]] = {}
    for item in items[:]:
        parameters = item.callspec.params if isinstance(item, pytest.Function) else {}
        if isinstance(case := parameters.get("case"), Case):
            by_suite.setdefault(item.module.SUITE.name, []).append(case)  # type: ignore[attr-defined]
        elif "case" in parameters:  # of a suite that has none; pytest would count it as skipped
            items.remove(item)
    for suite, cases in by_suite.items():
        _usage(partial(ours.prepare, suite, cases))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """On a terminal, a bar instead of dots."""
    terminal: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and terminal._tw._file.isatty() and session.config.get_verbosity() <= 0:
        bar = tqdm(total=session.testscollected, unit="case", file=terminal._tw._file, dynamic_ncols=True)
        session.config.stash[KEY].bar = bar


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """A passing case moves the bar instead of printing a dot."""
    session = config.stash.get(KEY, None)
    if session is None or session.bar is None or report.when != "call" or not report.passed:
        return None
    session.bar.set_postfix(session.counts, refresh=False)
    session.bar.update()
    return "passed", "", "PASSED"


@pytest.fixture
def run_case(request: pytest.FixtureRequest) -> Callable[[Case], None]:
    """Run one case of the module's suite, or take its record from the store."""
    session = request.config.stash[KEY]

    def run(case: Case) -> None:
        try:
            session.run(request.module.SUITE.name, case)
        except (BrokenRule, WfbenchError) as error:
            pytest.fail(f"{case.label()}: {error}", pytrace=False)

    return run


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    session = config.stash.get(KEY, None)
    if session is None:
        return
    if session.bar is not None:
        session.bar.close()
    with suppress(OSError):  # other runs may have steps there
        (session.results / STEPS).rmdir()
    for origin, reason in session.registry.failures.items():
        terminalreporter.write_line(f"plugin {origin} was left out: {reason}", yellow=True)
    if session.left_out:
        terminalreporter.write_line(f"not declared with the other options: {session.left_out}", yellow=True)
    for suite, store in session.stores.items():
        if not store.records:
            continue
        written = files.write(session.results, suite, store.records)
        terminalreporter.section(f"wfbench {suite}")
        terminalreporter.write_line(files.plain(frames.frame_of(store.records)))
        counts = session.counts
        terminalreporter.write_line(
            f"{counts['run']} cases run, {counts['reused']} reused from {store.path}, {counts['failed']} failed records"
        )
        for label, reason in list(session.failures.items())[:10]:
            terminalreporter.write_line(f"  failed: {label}: {reason}", yellow=True)
        if len(session.failures) > 10:
            terminalreporter.write_line(f"  … and {len(session.failures) - 10} more, with reasons in {store.path}")
        terminalreporter.write_line(f"tables: {', '.join(str(path) for path in written)}")
