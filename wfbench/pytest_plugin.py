"""Suites through pytest: options, markers, one item a case, resume, progress and a table at the end."""

import gc
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark.expression import Expression
from tqdm import tqdm

from wfbench.curvature.memory import BOUND
from wfbench.deploy.needs import Needs
from wfbench.errors import BrokenRule, WfbenchError
from wfbench.harness.case import Case
from wfbench.harness.session import STEPS, Session, words
from wfbench.harness.suite import Suite
from wfbench.recoveries.names import RECOVERIES
from wfbench.writing import Unwritable

MARKERS = {
    "smoke": "a few methods on the embedded digits, in minutes",
    "unstructured": "single weights, every method, four tasks",
    "structured": "whole channels by MACs, every method that takes them out, four tasks; 2:4 weights",
    "gradual": "in steps with training in between, on all training samples and on few",
    "lowdata": "from 5 to 100 samples, six methods, five draws; wrong labels and balanced draws",
    "unlabeled": "without labels: drawn from the network 1, 4, 16 times, or every class weighted",
    "damping": "multiples, shares and cross-validated values of the damping",
    "lead": "10 to 100 samples, the best WoodFishers against every rival, five draws",
    "cifar": "CIFAR-10 as JPEG with ResNet-20, which the user brings: weights and channels, five draws",
    "imagenet": "EfficientNet-Lite0 on photographs that the user brings: weights and channels from 16 to 256 of them",
    "gpu": "one case of each kind on a CUDA device, and the engine's speed there; skipped where there is none",
    "language": "SmolLM2-135M on 8, 32 and 128 texts, half of its weights removed; networks that hear tones",
    "attribution": "masks x updates x recoveries: which of the three earned the accuracy",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup(
        "wfbench", "wfbench suites (pytest suites -m MARKER); what a suite declares is filtered, what none does joins"
    )
    group.addoption("--results", default="results", metavar="DIR", help="of records and tables (default: results)")
    group.addoption("--tasks", metavar="A,B", help="tasks of `wfbench list` (default: the suite's)")
    group.addoption("--methods", metavar="A,B", help="methods of `wfbench list` (default: the suite's)")
    group.addoption("--budgets", metavar="N,N", help="how many calibration samples, from 1 on (default: the suite's)")
    group.addoption("--sparsities", metavar="S,S", help="fractions to remove, in [0, 1) (default: the suite's)")
    recoveries = f"what follows the pruning: {', '.join(RECOVERIES)} (default: the suite's)"
    group.addoption("--recoveries", metavar="A,B", help=recoveries)
    copies = "inputs for each sample: itself, and what the task's augmentation makes of it (default: the suite's)"
    group.addoption("--copies", metavar="K,K", help=copies)
    group.addoption("--seeds", metavar="N", help="how many draws of samples: 0 to N-1 (default: the suite's)")
    for name, what in (("--baseline-path", "methods"), ("--task-path", "tasks")):
        about = f"file or folder of {what} of your own, besides those that ship; may be given several times"
        group.addoption(name, action="append", default=[], metavar="PATH", help=about)
    photographs = "the photographs of the imagenet tasks, one folder a class (default: WFBENCH_IMAGENET, or the cache)"
    group.addoption("--data-root", metavar="DIR", help=photographs)
    group.addoption("--device", help="cpu, cuda, cuda:1, … (default: cpu; with -m gpu cuda)")
    about = f"{BOUND}, such as 4GiB (default: half of what is free); with several processes for all of them"
    group.addoption("--memory", metavar="BYTES", help=about)
    where = "where cases run: serial, processes[:N] (N at a time, default: the cores) or ray (default: serial)"
    group.addoption("--executor", default="serial", metavar="WHERE", help=where)
    address = "of the Ray cluster (default: RAY_ADDRESS, else one that is started on this machine)"
    group.addoption("--ray-address", metavar="A", help=address)
    limit = "seconds after which a method has a failed record (default: no limit)"
    group.addoption("--case-timeout", type=float, metavar="S", help=limit)
    group.addoption("--retry-failed", action="store_true", help="run cases again whose record is a failed one")


KEY = pytest.StashKey[Session]()
BAR = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{remaining} left, {rate_fmt}{postfix}] {desc}"
"""How far it is, how long is left, and last, where a narrow terminal cuts it, the case that is running."""


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
    for name in words(config.getoption("-m")) - MARKERS.keys():  # some file may declare it
        config.addinivalue_line("markers", f"{name}: a suite of your own")
    config.addinivalue_line("python_files", "suite_*.py")
    if root := config.getoption("--data-root"):
        os.environ["WFBENCH_IMAGENET"] = str(Path(root).absolute())
    config.stash[KEY] = session = _usage(lambda: Session(config.getoption, MARKERS, Needs()))
    gc.freeze()  # what is imported stays, and need not be looked through for garbage again and again
    config.add_cleanup(session.end)


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
    expression = session.expression
    if not expression or not Expression.compile(expression).evaluate(lambda name, /, **_: name in own):
        metafunc.parametrize("case", [])  # pytest leaves it out; its thousands of cases need not be made
        return
    try:
        cases = session.cases_of(suite, own)
    except WfbenchError as error:
        session.broken.append(str(error))
        cases = []
    metafunc.parametrize("case", cases, ids=[case.label() for case in cases])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = config.stash[KEY]
    if not session.testsfailed:  # pytest says itself what it could not collect
        _usage(ours.check)
    by_suite: dict[str, list[Case]] = {}
    in_vain = cache(ours.joins_in_vain)
    kept: list[pytest.Item] = []
    for item in items:
        markers = frozenset(mark.name for mark in item.iter_markers())
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        suite = getattr(getattr(item, "module", None), "SUITE", None)
        if reason := ours.skipped(markers):
            item.add_marker(pytest.mark.skip(reason=reason))
        elif "case" in parameters and isinstance(suite, Suite):
            if not isinstance(case := parameters["case"], Case) or in_vain(suite, markers):
                continue  # not in the selection; what stands for a suite without cases would count as skipped
            by_suite.setdefault(suite.name, []).append(case)
        kept.append(item)
    items[:] = kept
    if not items and (keyword := config.getoption("-k")) and (known := sum(map(len, ours.cases.values()))):
        raise pytest.UsageError(f'-k "{keyword}" selects none of {known} cases; --collect-only without it lists them')
    for name, cases in by_suite.items():
        _usage(partial(ours.prepare, name, cases))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """On a terminal, a bar instead of dots."""
    terminal: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and terminal._tw._file.isatty() and session.config.get_verbosity() <= 0:
        screen = os.fdopen(os.dup(terminal._tw._file.fileno()), "w")  # while a case runs, pytest captures the other one
        options: dict[str, Any] = {"file": screen, "dynamic_ncols": True, "bar_format": BAR}
        bar = tqdm(total=session.testscollected, unit="case", **options)
        session.config.stash[KEY].bar = bar


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    """Where there is a bar, which records move, a passing case prints no dot."""
    session = config.stash.get(KEY, None)
    if session is None or session.bar is None or report.when != "call" or not report.passed:
        return None
    return "passed", "", "PASSED"


@pytest.fixture
def run_device(request: pytest.FixtureRequest) -> torch.device:
    """Where the cases of this run are computed."""
    return request.config.stash[KEY].runner.device


@pytest.fixture
def run_case(request: pytest.FixtureRequest) -> Callable[[Case], None]:
    """Run one case of the module's suite, or take its record from the store."""
    session = request.config.stash[KEY]

    def run(case: Case) -> None:
        if session.bar is not None:
            session.bar.set_description_str(case.label())
        try:
            session.run(request.module.SUITE.name, case)
        except (BrokenRule, WfbenchError) as error:
            if isinstance(error, Unwritable):  # no later case would keep its record either
                request.session.shouldfail = str(error)
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
    if session.unlabelled:
        terminalreporter.write_line(f"left out, as their training samples have no labels: {session.unlabelled}")
    for reason in session.reasons:
        terminalreporter.write_line(f"skipped: {reason}", yellow=True)
    if session.left_out:
        terminalreporter.write_line(f"not declared with the other options: {session.left_out}", yellow=True)
    for word in session.words:
        terminalreporter.write_line(word, yellow=True)
    if session.claims is not None:
        with session.claims.leaving([*session.stores]) as alone:
            for suite, store in session.stores.items():
                store.refresh()
                _summary(terminalreporter, session, suite, is_last=suite in alone)


def _summary(terminal: Any, session: Session, suite: str, is_last: bool) -> None:
    """Results of a suite on the terminal, and its tables as files, unless another run is still at it."""
    from wfbench.output import files  # these take seconds to import
    from wfbench.report import frames

    store, counts = session.stores[suite], session.counts
    if not (records := store.records):
        return
    terminal.section(f"wfbench {suite}")
    terminal.write_line(files.plain(frames.frame_of(records)))
    taken = f"{counts['taken']} taken from other suites, " if counts["taken"] else ""
    reused = f"{counts['reused']} reused from {store.path}"
    terminal.write_line(f"{counts['run']} cases run, {reused}, {taken}{counts['failed']} failed records")
    for label, reason in list(session.failures.items())[:10]:
        terminal.write_line(f"  failed: {label}: {reason}", yellow=True)
    if len(session.failures) > 10:
        terminal.write_line(f"  … and {len(session.failures) - 10} more, with reasons in {store.path}")
    if not is_last:
        terminal.write_line("no tables yet: another run is at this suite, and the last one writes them")
        return
    try:
        written = files.write(session.results, suite, records)
    except (WfbenchError, OSError) as error:
        later = f"`wfbench tables --results {session.results}` makes them from the records"
        terminal.write_line(f"no tables: {error}; {later}", red=True)
    else:
        terminal.write_line(f"tables: {', '.join(str(path) for path in written)}")
