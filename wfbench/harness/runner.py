"""`run(case)`: draw, fit, prune, recover, score. The only file that sees every stage."""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from wfbench.channels.coupled import shrunk
from wfbench.channels.latency import Timing, latencies
from wfbench.data import Dataset, Labeled, Unlabeled
from wfbench.draws import drawn_indices
from wfbench.errors import BrokenRule, CaseFailed, WfbenchError, why
from wfbench.execution.allocator import give_back_much, keep_freed_memory
from wfbench.execution.clock import now
from wfbench.execution.devices import usable
from wfbench.execution.precision import precisely
from wfbench.harness.case import Case, Unread
from wfbench.harness.dense import Dense
from wfbench.harness.isolation import caught, drawn, limits, stage
from wfbench.harness.measures import (
    Timings,
    achieved_sparsity,
    check_finite,
    finite,
    magnitude_overlap,
    realised_change,
)
from wfbench.harness.record import Record, environment, fields_of
from wfbench.harness.reuse import Question, Questions, checkpoint_digest, code, reached, unanswerable
from wfbench.licence import handed
from wfbench.modules import state_of
from wfbench.network import Params
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted
from wfbench.sparsity import Target
from wfbench.tasks.evaluate import Agreement, Measure, Scores, agreement, evaluate


class Runner:
    """Runs cases and keeps what they share: dense networks, gradients, a fitted method, scores and latencies.

    Sharing changes no science field; the order of cases decides only how much is saved.

    Args:
        device: where networks compute.
        is_here: whether this machine has it; else cases are run by others, and only what they ask is answered here.
    """

    def __init__(self, device: str = "cpu", is_here: bool = True) -> None:
        self.device = usable(device, is_here)
        self._home = self.device if is_here else torch.device("cpu")
        self.timings, self.workers = Timings(), 1
        self._questions = Questions(self.device)
        self._dense: dict[tuple[str, int], Dense | CaseFailed] = {}
        self._shared_for: tuple[Any, ...] = ()
        self._fitted: tuple[tuple[Any, ...], Fitted, float] | None = None
        self._pruned: tuple[Target, Pruned, float] | None = None
        self._scoring: tuple[tuple[Any, ...], tuple[Measure, Dataset]] | None = None
        self._scores: dict[tuple[Any, ...], Scores | Agreement] = {}

    def question(self, case: Case) -> Question:
        """What the case asks, by which a stored record answers it."""
        if isinstance(dense := self._prepared(case), CaseFailed):
            return unanswerable(case, str(dense), self.device)
        return self._questions.of(case, dense.module, dense.digest)[0]

    def code(self, case: Case) -> str | None:
        """The digest of the code that shapes the case's result; None where it cannot be read."""
        if isinstance(dense := self._prepared(case), CaseFailed):
            return code(case, None)
        return self._questions.of(case, dense.module, dense.digest)[1]

    def read_ahead(self, cases: Iterable[Case]) -> None:
        """What cases ask, and the packages that they reach: read once for all processes forked from this one."""
        kinds = {(id(one.task), one.replicate, id(one.method), id(one.recovery)): one for one in cases}
        good = [case for case in kinds.values() if self.failure(case) is None and self.code(case)]
        packages = {name for case in good for name in reached(case, self._dense_of(case).module)}
        for package in packages - sys.modules.keys():
            with suppress(Exception):  # whoever needs it says what is wrong with it
                import_module(package)

    @precisely
    def run(self, case: Case, suite: str = "", died: str = "") -> Record:
        """The record of the case; failures of the task, of the method and of what the network allows are records too.

        Args:
            died: why there is no result, where that is known.

        Raises:
            BrokenRule: the method changed the dense network, read a split, or mask or sparsity are not what it says.
        """
        found: dict[str, Any] = {"trials": 0, "status": "ok", "reason": None}
        handed_over = 0
        try:
            dense, data = self._dense_of(case), drawn(case)
            handed_over = len(data) // data.copies
            if died:
                raise CaseFailed(died)
            found["measure"] = None if (measure := self._scored_on(case)[0]) == "accuracy" else measure
            found |= self._measure(case, dense, data)
        except CaseFailed as failure:
            found |= {"status": "failed", "reason": str(failure)}
        licences = (case.method.licence, case.recovery.licence)
        asked = self.question(case).said
        return Record(
            suite=suite,
            **asked | {"environment": environment(self.device, self.workers) | asked["environment"]} | found,
            n_inputs=handed_over if Labeled in licences or Unlabeled in licences else 0,
            n_labels=handed_over if Labeled in licences else 0,
            code=self.code(case),
        )

    @precisely
    def prune(self, case: Case) -> tuple[Pruned, float]:
        """The pruned network before any recovery, and the seconds that fitting and pruning took.

        Raises:
            CaseFailed: the method has no result.
            BrokenRule: as `run`.
        """
        dense, data = self._dense_of(case), drawn(case)
        with self._watched(case, dense):
            check_finite(state_of(dense.module), "dense")
            fitted, fitting = self._fit(case, dense, data)
            pruned, pruning = self._prune(case, fitted)
            check_finite(pruned.state, "pruned")
            with limits("sparsity"):
                achieved_sparsity(case.method, case.target, dense.network, pruned, data.inputs[:1])
        return pruned, fitting + pruning

    @precisely
    def recover(self, case: Case) -> tuple[Pruned, Pruned, float, float]:
        """The pruned network, the recovered one, the seconds that fitting, pruning and recovery took, and its sparsity.

        Raises:
            CaseFailed: method or recovery have no result.
            BrokenRule: as `run`.
        """
        dense, data = self._dense_of(case), drawn(case)
        given = handed(case.recovery.licence, data)
        pruned, seconds = self.prune(case)
        with self._timed(dense) as taken, self._watched(case, dense), stage(case, "recovery", self.device):
            recovered = case.recovery.apply(dense.network, pruned, given)
        seconds += sum(taken)
        check_finite(recovered.state, "pruned")
        with limits("sparsity"):
            achieved = achieved_sparsity(case.method, case.target, dense.network, recovered, data.inputs[:1])
        return pruned, recovered, seconds, achieved

    def _measure(self, case: Case, dense: Dense, data: Labeled | Unlabeled) -> dict[str, Any]:
        seen, x = handed(case.method.licence, data), data.inputs[:1]
        pruned, recovered, seconds, achieved = self.recover(case)
        with limits("dense network"):
            before = self._evaluate(case, dense.module, dense.digest)
        if isinstance(before, Scores):
            try:
                case.task.check_registered(case.replicate, before)
            except WfbenchError as error:
                raise BrokenRule(str(error)) from error
        with limits("scores"):
            steps = [
                {"sparsity": sparsity, **self._score(case, dense, state).headline} for sparsity, state in pruned.path
            ]
            scores = self._score(case, dense, recovered.state)
            realised = realised_change(dense.network, pruned, seen)
        with limits("costs"):
            costs = self._costs(case, dense, recovered, x)
        if not math.isfinite(scores.loss):
            raise CaseFailed("the pruned network's logits contain NaN or infinite values")
        return {
            "achieved_sparsity": achieved,
            **(scores.fields() | before.as_dense()),
            "scored": before.total,
            "magnitude_overlap": magnitude_overlap(dense.network, recovered),
            **{name: finite(pruned.diagnostics.get(name)) for name in fields_of("diagnostic")},
            "realised_change": realised,
            "trials": max(1, len(pruned.trials)),
            "steps": steps or None,
            "tried": [dict(trial) for trial in pruned.trials] or None,
            **costs,
            "seconds": seconds,
        }

    def _costs(self, case: Case, dense: Dense, pruned: Pruned, x: Tensor) -> dict[str, Any]:
        """What the pattern measures, and how long a network of its architecture takes; timed once, with this one."""
        costs = case.target.pattern.measured(dense.network, pruned, x)
        if "architecture" not in costs:
            return costs

        def measure() -> list[Timing]:
            removed = {name: list(gone) for name, gone in pruned.removed_channels.items()}
            return latencies(dense.network.module(), shrunk(dense.network, pruned.state, x, removed), x.to(self.device))

        place = environment(self.device, self.workers)
        return costs | self.timings.take(case.task.name, costs["architecture"], place, measure)

    def _fit(self, case: Case, dense: Dense, data: Labeled | Unlabeled) -> tuple[Fitted, float]:
        net = dense.network
        share = (case.task.name, case.replicate, case.seed, case.sampling)
        if share != self._shared_for:
            net.memo.clear()
            self._shared_for = share
        which = (*share, case.budget, case.method)
        if self._fitted is not None and self._fitted[0] == which:
            return self._fitted[1], self._fitted[2]
        self._fitted = self._pruned = None
        with self._timed(dense) as taken, stage(case, "fit", self.device):
            fitted: Fitted = case.method.fit(net, handed(case.method.licence, data))
        self._fitted = (which, fitted, sum(taken))
        return fitted, sum(taken)

    @contextmanager
    def _timed(self, dense: Dense) -> Iterator[list[float]]:
        """What the lines inside take, seconds, and what they would have taken besides had nothing been kept."""
        found: list[float] = []
        began, saved = now(self.device), dense.network.memo.saved
        yield found
        found += [now(self.device) - began, dense.network.memo.saved - saved]

    def _prune(self, case: Case, fitted: Fitted) -> tuple[Pruned, float]:
        if self._pruned is None or self._pruned[0] != case.target:
            with self._timed(self._dense_of(case)) as taken, stage(case, "prune", self.device):
                pruned = fitted.prune(case.target)
            self._pruned = (case.target, pruned, sum(taken))
        return self._pruned[1], self._pruned[2]

    def failure(self, case: Case) -> CaseFailed | None:
        """Why the case's task cannot be prepared, or None."""
        dense = self._prepared(case)
        return dense if isinstance(dense, CaseFailed) else None

    def _dense_of(self, case: Case) -> Dense:
        if isinstance(dense := self._prepared(case), CaseFailed):
            raise CaseFailed(str(dense)) from dense.__cause__
        return dense

    def _prepared(self, case: Case) -> Dense | CaseFailed:
        """The dense network and the splits, read once; or why they cannot be had, found out once."""
        pattern = case.target.pattern
        if isinstance(pattern, Unread) and not isinstance(self._made(case), CaseFailed):
            return CaseFailed(f"pattern {pattern.name}: {pattern.reason}")
        return self._made(case)

    def _made(self, case: Case) -> Dense | CaseFailed:
        which = (case.task.name, case.replicate)
        if which not in self._dense:
            try:
                self._dense[which] = Dense(case.task, case.replicate, self._home)
            except BaseException as error:  # a stranger's task may raise anything
                self._dense[which] = failed = CaseFailed(f"task: {why(caught(error))}")
                failed.__cause__ = error
        return self._dense[which]

    def _score(self, case: Case, dense: Dense, state: Params) -> Scores | Agreement:
        module = dense.network.module(state)
        return self._evaluate(case, module, checkpoint_digest(module))

    def _scored_on(self, case: Case) -> tuple[Measure, Dataset]:
        """What the case is scored by and on; kept while draw and budget stay, where the test split is not all."""
        which = (case.task.name, case.budget, case.seed, case.sampling)
        if self._scoring is None or self._scoring[0] != which:
            draws = case.task.train_set, case.budget, case.seed, case.sampling
            self._scoring = which, case.task.scoring(drawn_indices(*draws) if case.task.test is None else [])
        return self._scoring[1]

    def _evaluate(self, case: Case, module: nn.Module, digest: str) -> Scores | Agreement:
        measure, data = self._scored_on(case)
        of = () if measure == "accuracy" else (case.replicate, case.budget, case.seed, case.sampling)
        which = (case.task.name, digest, *of)
        if which not in self._scores:
            dense = self._dense_of(case).module
            keep_freed_memory()  # whatever a method near its bound has asked for
            give_back_much()  # of what it has freed
            self._scores[which] = evaluate(module, data) if measure == "accuracy" else agreement(module, dense, data)
        return self._scores[which]

    @contextmanager
    def _watched(self, case: Case, dense: Dense) -> Iterator[None]:
        """Whatever happens, the dense network is as it was; nothing a rule-breaking method touched outlives it."""
        try:
            try:
                yield
            finally:
                if changed := dense.changed():
                    raise BrokenRule(f"{case.method.name} changed the dense network ({changed}); work on a copy")
        except BrokenRule:
            self._dense.pop((case.task.name, case.replicate), None)
            self._fitted = self._pruned = None
            raise


def run(case: Case, device: str = "cpu") -> Record:
    """Run one case on its own."""
    return Runner(device).run(case)
