"""What the items of one run of suites share: the options, the selection, the stores, and how a case is run."""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Set
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from wfbench.errors import NotFetched, WfbenchError
from wfbench.execution.alarm import overdue
from wfbench.execution.allocator import give_back_once, keep_freed_memory
from wfbench.execution.pool import Job, Line
from wfbench.execution.worker import Died, Overdue
from wfbench.harness import executors
from wfbench.harness.case import Case
from wfbench.harness.executors import Needs, Which, draws, split
from wfbench.harness.plugins import Registry, discover
from wfbench.harness.record import Record
from wfbench.harness.reuse import Question
from wfbench.harness.runner import Runner
from wfbench.harness.store import SameBits, Siblings, Store
from wfbench.harness.suite import Suite, left_out, unaugmented, unlabelled
from wfbench.storage.claims import Claims
from wfbench.writing import check_file, check_folder

CARD = "gpu"
"""The suite that, alone, runs on CUDA unless another device is asked for."""
STEPS = ".steps"
"""Folder, within the results, of what cases that are not finished have done."""


class Session:
    """What the items of one pytest run share.

    Args:
        option: the value of an option by its name.
        markers: what is said of the suites that are known before files are read.
        needs: of a case on a cluster.
    """

    def __init__(self, option: Callable[[str], Any], markers: Mapping[str, str], needs: Needs) -> None:
        self.results = Path(option("--results"))
        self.retry = option("--retry-failed")
        self.only_listed: bool = option("--collect-only")
        self.limit: float | None = option("--case-timeout")
        if self.limit is not None and not 0 < self.limit < float("inf"):
            raise WfbenchError(f"--case-timeout {self.limit:g}: give a number of seconds above 0")
        keep_freed_memory()
        self.registry: Registry = discover(option("--baseline-path"), option("--task-path"))
        self.expression: str = option("-m")
        self.reasons: set[str] = set()
        self._is_told = option("--device") is not None
        alone = "cuda" if self.expression == CARD and torch.cuda.is_available() else "cpu"
        self.runner = Runner(option("--device") or alone, is_here=option("--executor") != "ray")
        self.chosen: dict[str, Any] = {
            "tasks": split(option, "--tasks", str),
            "methods": split(option, "--methods", str),
            "budgets": split(option, "--budgets", int),
            "sparsities": split(option, "--sparsities", float),
            "recoveries": split(option, "--recoveries", str),
            "copies": split(option, "--copies", int),
            "seeds": draws(option("--seeds")),
        }
        self.stores: dict[str, Store] = {}
        self.siblings: dict[str, Siblings] = {}
        self.proofs = SameBits(self.results)
        self.counts = {"run": 0, "reused": 0, "taken": 0, "failed": 0}
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
        self._work, self._pool = executors.made(option, self.runner, self.limit, needs)
        self._forks = str(option("--executor")).startswith("processes")
        self._line = Line[Which](lambda which: (self._work.cases[which].budget, self._work.cases[which].method))
        self._settled: dict[Which, Mapping[str, Any] | Exception] = {}

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
        plain = unaugmented(self.narrowed.values(), self.registry)
        if plain and not any(self.cases.values()):
            raise WfbenchError(f"{plain} declares no augmentation to make copies with; leave --copies out")
        if plain:
            self.words.append(f"no copies of samples, as no augmentation is declared: {plain}")
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
        may_end = self.limit is not None or any(map(self.registry.strangers, cases))
        if self._work.is_here and self.runner.device.type != "cpu" and may_end:
            where = f"cases on {self.runner.device} run in the process of the run: "
            self.words.append(f"{where}a method that ends it ends all, and --case-timeout waits for calls into C")
        self.stores[suite] = store = Store(path, lambda record: self.runner.timings.learn([record]), mend=True)
        self.siblings[suite] = Siblings(path)
        self.words += [word for word in [store.aside] if word]
        for _, group in groupby(cases, lambda case: (case.task.name, case.replicate, case.seed, case.sampling)):
            self._line.add((suite, case.label()) for case in group)  # of one draw, which share rows
        self._work.cases |= {(suite, case.label()): case for case in cases}

    def run(self, suite: str, case: Case) -> None:
        """Until the case has a record or failed to have one, whatever is next in line is run."""
        while (found := self._settled.get(which := (suite, case.label()))) is None:
            self._turn(which)
        if isinstance(found, Exception):
            raise found

    def end(self) -> None:
        """No process that runs cases is left."""
        self._pool.end()

    def _turn(self, wanted: Which) -> None:
        """Give the free workers something to do, and take what the others have done."""
        if self._forks:
            self.runner.read_ahead(self._work.cases.values())
            give_back_once()  # what was free here would be so in every process
            self._forks = False
        moved = self._hand_out(wanted)
        if self._pool.is_idle and moved:
            return
        done = self._pool.finished()
        if not self._pool.is_idle:
            self._hand_out(wanted)  # before records are written: no worker waits for the disk
        for job, found in done:
            self._finish(job, found)

    def _hand_out(self, wanted: Which) -> bool:
        """Whether something was begun or settled."""
        moved = False
        for slot in self._pool.free():
            if self._line.next(slot, partial(self._begin, slot), wanted):
                moved = True
            else:
                self._pool.rest(slot)
        return moved

    def _begin(self, slot: int, which: Which) -> bool | None:
        """Begin a case: False where it has a record or cannot have one, None while another run is at it."""
        case, store = self._work.cases[which], self.stores[which[0]]
        try:
            asked, code = self.runner.question(case), self.runner.code(case)
        except Exception as error:
            self._settle(which, error)
            return False
        if known := self._known(store, asked, code):
            self._settle(which, known, "reused")
            return False
        key = f"{asked.digest[:16]}-{code}"
        assert self.claims is not None, "cases are run after `prepare`"
        claim = ExitStack()
        if not claim.enter_context(self.claims.case(key)):
            return None
        self.runner.timings.learn(store.refresh())  # another run may have been at it until now
        known, how = self._known(store, asked, code), "reused"
        if known is None:
            known, how = self._taken(which[0], asked, code), "taken"
        if known is not None:
            claim.close()
            self._settle(which, known, how)
            return False
        request = *which, self.results / STEPS / key
        self._pool.give(slot, Job((asked, claim), request, self.limit, self._apart(case)))
        return True

    def _known(self, store: Store, asked: Question, code: str | None) -> Mapping[str, Any] | None:
        known = store.find(asked, code, self.proofs)
        if known is None or (self.retry and known["status"] == "failed" and not store.is_new(known)):
            return None
        return known

    def _taken(self, suite: str, asked: Question, code: str | None) -> Mapping[str, Any] | None:
        """What another suite of the folder has of a case, which is this suite's from now on, too."""
        found = self.siblings[suite].find(asked, code, self.proofs)
        if found is None or (self.retry and found.status == "failed"):
            return None
        self.stores[suite].append(self.runner.timings.settled(found))
        return {"status": found.status, "reason": found.reason}

    def _apart(self, case: Case) -> str | None:
        """Whose process the case runs in: a stranger's own, one of ours (empty), or None, that of the run."""
        if self._work.is_here and self.runner.device.type != "cpu":
            return None
        strangers = ",".join(sorted(self.registry.strangers(case)))
        return strangers or (None if self._work.is_here and self.limit is None else "")

    def _finish(self, job: Job, found: Any) -> None:
        """Write the record; a death is a failed one."""
        (asked, claim), (suite, label, steps) = job.item, job.request
        which, case = (suite, label), self._work.cases[suite, label]
        with claim:
            if isinstance(found, Overdue):
                found = self.runner.run(case, suite, f"{found.place}: CaseTimeout: {overdue(job.limit or 0)}")
            elif isinstance(found, Died):
                found = self.runner.run(
                    case, suite, f"{found}; the run went on without it, --retry-failed runs it again"
                )
            elif isinstance(found, Exception):
                self._settle(which, found)
                return
            record: Record = self.runner.timings.settled(found)
            if differences := asked.differences(json.loads(record.as_json())):
                other = (
                    f"a worker ran {label} with another {', '.join(differences)}; all machines need the same versions"
                )
                self._settle(which, WfbenchError(f"{other}, plugins and data"))
                return
            self.stores[suite].append(record)
            shutil.rmtree(steps, ignore_errors=True)
        self._settle(which, {"status": record.status, "reason": record.reason}, "run")

    def _settle(self, which: Which, found: Mapping[str, Any] | Exception, how: str = "") -> None:
        self._settled[which] = found
        if not isinstance(found, Exception):
            self.counts[how] += 1
            if found["status"] == "failed":
                self.counts["failed"] += 1
                self.failures[which[1]] = str(found["reason"])
        if self.bar is not None:
            self.bar.set_postfix(self.counts, refresh=False)
            self.bar.update()


def words(expression: str) -> set[str]:
    """The markers that an expression names."""
    return set(re.findall(r"\w+", expression)) - {"and", "or", "not"}
