"""What the items of one run of suites share: the options, the selection, the stores, and how a case is run."""

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import torch

from wfbench.composed.steps import steps_in
from wfbench.curvature.memory import bytes_of, limit_to
from wfbench.errors import BrokenRule, NotFetched, WfbenchError
from wfbench.execution.alarm import CaseTimeout, alarm, overdue
from wfbench.execution.allocator import keep_freed_memory
from wfbench.execution.worker import Died, Overdue, Worker
from wfbench.harness.case import Case
from wfbench.harness.measures import Timings
from wfbench.harness.plugins import Registry, discover
from wfbench.harness.record import Record
from wfbench.harness.reuse import Question
from wfbench.harness.runner import Runner
from wfbench.harness.store import SameBits, Store
from wfbench.harness.suite import Suite, left_out, unlabelled
from wfbench.storage.claims import Claims
from wfbench.writing import Unwritable, check_file, check_folder

CARD = "gpu"
"""The suite that, alone, runs on CUDA unless another device is asked for."""
STEPS = ".steps"
"""Folder, within the results, of what cases that are not finished have done."""
WAIT = 0.1
"""Seconds between two looks at a case that another run is at, where there is nothing else to do."""


class Session:
    """What the items of one pytest run share.

    Args:
        option: the value of an option by its name.
        markers: what is said of the suites that are known before files are read.
    """

    def __init__(self, option: Callable[[str], Any], markers: Mapping[str, str]) -> None:
        self.results = Path(option("--results"))
        self.retry = option("--retry-failed")
        self.only_listed: bool = option("--collect-only")
        self.limit: float | None = option("--case-timeout")
        if self.limit is not None and not 0 < self.limit < float("inf"):
            raise WfbenchError(f"--case-timeout {self.limit:g}: give a number of seconds above 0")
        limit_to(None if option("--memory") is None else bytes_of(option("--memory")))
        keep_freed_memory()
        self.registry: Registry = discover(option("--baseline-path"), option("--task-path"))
        self.expression: str = option("-m")
        self.reasons: set[str] = set()
        self._is_told = option("--device") is not None
        alone = "cuda" if self.expression == CARD and torch.cuda.is_available() else "cpu"
        self.runner = Runner(option("--device") or alone)
        self.chosen: dict[str, Any] = {
            "tasks": split(option, "--tasks", str),
            "methods": split(option, "--methods", str),
            "budgets": split(option, "--budgets", int),
            "sparsities": split(option, "--sparsities", float),
            "recoveries": split(option, "--recoveries", str),
            "seeds": _draws(option("--seeds")),
        }
        self.stores: dict[str, Store] = {}
        self.proofs = SameBits(self.results)
        self.counts = {"run": 0, "reused": 0, "failed": 0}
        self.failures: dict[str, str] = {}
        self.markers = dict(markers)
        self.suites: dict[str, Suite] = {}
        self.narrowed: dict[str, Suite] = {}
        self.cases: dict[str, list[Case]] = {}
        self.broken: list[str] = []
        self.left_out = ""
        self.unlabelled = ""
        self.named: set[str] = set()
        self.bar: Any = None
        self.words: list[str] = []
        self.claims: Claims | None = None
        self.worker = Worker(self._work)
        self._labelled: dict[tuple[str, str], Case] = {}
        self._others: dict[str, list[Case]] = {}
        self._ran: dict[tuple[Any, ...], Mapping[str, Any]] = {}

    def cases_of(self, suite: Suite, markers: set[str]) -> list[Case]:
        if suite.name not in self.cases:
            narrowed = suite.narrowed(self.registry, **self.chosen)
            self.cases[suite.name] = narrowed.cases(self.registry)
            self.suites[suite.name], self.narrowed[suite.name] = suite, narrowed
            if suite.names(self.chosen) and narrowed.grids:
                self.named |= markers & words(self.expression)
        return self.cases[suite.name]

    def joins_in_vain(self, suite: Suite, markers: Set[str]) -> bool:
        """Whether another suite of its marker declares by name what would join this one."""
        return bool(self.named & markers) and not suite.declares(self.registry, self.chosen)

    def skipped(self, markers: Set[str]) -> str:
        """Why what has these markers does not run; empty where it does."""
        if CARD not in markers or self._is_told or self.runner.device.type != "cpu":
            return ""
        has = "torch sees no CUDA device" if not torch.cuda.is_available() else "it is not alone, so say --device cuda"
        self.reasons.add(reason := f"-m {CARD} runs on a CUDA device: {has}; --device cpu runs it on the processor")
        return reason

    def check(self) -> None:
        """Refuse a marker that nobody declares, and a selection without a case."""
        if not self.expression:
            raise WfbenchError(f"say which suite to run; {self._listed()}")
        if nowhere := words(self.expression) - self.markers.keys():
            raise WfbenchError(f"there is no suite {', '.join(sorted(nowhere))}; {self._listed()}")
        if self.broken:
            raise WfbenchError(self.broken[0])
        if not self.suites:
            raise WfbenchError(f'-m "{self.expression}" selects no suite; {self._listed()}')
        without = unlabelled(self.narrowed.values(), self.registry)
        if without and not any(self.cases.values()):
            raise WfbenchError(f"there are no labels for {without}; choose methods and recoveries that need none")
        self.unlabelled = without
        self.left_out = left_out(self.suites.values(), self.narrowed.values(), self.chosen, self.registry)

    def _listed(self) -> str:
        return "the suites are:\n" + "\n".join(f"  -m {name:14} {about}" for name, about in self.markers.items())

    def prepare(self, suite: str, cases: list[Case]) -> None:
        """Find out before the first case what would stop the run: data, checkpoints, budgets, the record file."""
        if self.only_listed:
            return
        first = {(case.task.name, case.replicate): case for case in cases}
        failures = {which: self.runner.failure(case) for which, case in first.items()}
        causes = [failure and failure.__cause__ for failure in failures.values()]
        missing = [cause for cause in causes if isinstance(cause, NotFetched)]
        if missing or (causes and all(isinstance(cause, WfbenchError) for cause in causes)):  # to be mended first
            raise WfbenchError(str((missing or causes)[0]))
        for case in cases:
            if failures[case.task.name, case.replicate]:
                continue
            size = len(case.task.train_set)
            if case.budget > size:
                raise WfbenchError(
                    f"budget {case.budget} is more than the {size} training samples of {case.task.name}; "
                    f"give --budgets of at most {size}"
                )
        path = self.results / f"{suite}.jsonl"
        check_folder(self.results)
        if path.exists():
            check_file(path)
        self.results.mkdir(parents=True, exist_ok=True)
        self.claims = self.claims or Claims(self.results)
        self.claims.enter(suite)
        if self.runner.device.type != "cpu" and any(map(self._may_end, cases)):
            where = f"cases on {self.runner.device} run in the process of the run: "
            self.words.append(f"{where}a method that ends it ends all, and --case-timeout waits for calls into C")
        self.stores[suite] = store = Store(path, lambda record: self.runner.timings.learn([record]), mend=True)
        self.words += [word for word in [store.aside] if word]
        middle = os.getpid() % max(len(cases), 1)  # several runs that look for work begin at several places
        self._others[suite] = cases[middle:] + cases[:middle]
        self._labelled |= {(suite, case.label()): case for case in cases}

    def run(self, suite: str, case: Case) -> None:
        """Run the case, or take its record; while another run is at it, run those that nobody is at."""
        while (record := self._settled(suite, case)) is None:
            if not self._other(suite):
                time.sleep(WAIT)
        self.counts["run" if (suite, *case.identity().values()) in self._ran else "reused"] += 1
        if record["status"] == "failed":
            self.counts["failed"] += 1
            self.failures[case.label()] = str(record["reason"])

    def _settled(self, suite: str, case: Case) -> Mapping[str, Any] | None:
        """The record of the case, stored or made; None where another run is at it."""
        store, which = self.stores[suite], (suite, *case.identity().values())
        if which in self._ran:
            return self._ran[which]
        asked, code = self.runner.question(case), self.runner.code(case)
        if known := self._known(store, asked, code):
            return known
        key = f"{asked.digest[:16]}-{code}"
        assert self.claims is not None, "cases are run after `prepare`"
        with self.claims.case(key) as is_mine:
            if not is_mine:
                return None
            self.runner.timings.learn(store.refresh())  # another run may have been at it until now
            if known := self._known(store, asked, code):
                return known
            record = self._run(suite, case, self.results / STEPS / key)
            store.append(record)
            shutil.rmtree(self.results / STEPS / key, ignore_errors=True)
        self._ran[which] = {"status": record.status, "reason": record.reason}
        return self._ran[which]

    def _known(self, store: Store, asked: Question, code: str | None) -> Mapping[str, Any] | None:
        known = store.find(asked, code, self.proofs)
        if known is None or (self.retry and known["status"] == "failed" and not store.is_new(known)):
            return None
        return known

    def _other(self, suite: str) -> bool:
        """Run one of the suite's cases that has no record and nobody is at; False where there is none."""
        others = self._others[suite]
        for case in others[:]:
            before = len(self._ran)
            try:
                found = self._settled(suite, case)
            except Unwritable:
                raise
            except (BrokenRule, WfbenchError):  # it says so in its turn
                others.remove(case)
                return True
            if found is not None:
                others.remove(case)
            if len(self._ran) > before:
                return True
        return False

    def _run(self, suite: str, case: Case, steps: Path) -> Record:
        """The record, failed where the method takes longer than the limit; the time for scoring is not the method's."""
        if self.runner.device.type == "cpu" and self._may_end(case):
            return self._apart(suite, case, steps)
        with steps_in(steps):
            if self.limit is None:
                return self.runner.run(case, suite)
            try:
                with alarm(self.limit):
                    return self.runner.run(case, suite)
            except CaseTimeout:  # while scoring, so the method is done, and what it made is kept
                return self.runner.run(case, suite)

    def _may_end(self, case: Case) -> bool:
        """Whether the process may have to be ended for it, or by it."""
        return self.limit is not None or self.registry.is_strange(case)

    def _apart(self, suite: str, case: Case, steps: Path) -> Record:
        """The record of a case that runs in the worker, kept over cases for what they share; a death is a failure."""
        try:
            record: Record = self.worker.ask((suite, case.label(), steps, self.runner.timings), self.limit)
        except Overdue as late:
            return self.runner.run(case, suite, f"{late.place}: CaseTimeout: {overdue(self.limit or 0)}")
        except Died as death:
            return self.runner.run(case, suite, f"{death}; the run went on without it, --retry-failed runs it again")
        self.runner.timings.learn([vars(record)])
        return record

    def _work(self, request: tuple[str, str, Path, Timings]) -> Record:
        """What the worker does."""
        suite, label, steps, self.runner.timings = request
        with steps_in(steps):
            return self.runner.run(self._labelled[suite, label], suite)


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


def _draws(text: str | None) -> int | None:
    """The number of draws that `--seeds` asks for."""
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise WfbenchError(f"--seeds {text}: give how many draws, at least 1; 3 runs the draws 0, 1 and 2")
    return int(text)


def words(expression: str) -> set[str]:
    """The markers that an expression names."""
    return set(re.findall(r"\w+", expression)) - {"and", "or", "not"}
