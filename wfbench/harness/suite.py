"""A suite: the declared grids of a marker, cut down by the user's options."""

from dataclasses import dataclass, replace
from typing import Any

from wfbench.channels.pattern import Filter
from wfbench.data import RANDOM, Sampling
from wfbench.errors import WfbenchError, unknown
from wfbench.harness.case import Case
from wfbench.harness.plugins import Registry
from wfbench.network import Network
from wfbench.pruner import Pruner
from wfbench.recoveries.base import Recovery
from wfbench.recoveries.names import RECOVERIES
from wfbench.sparsity import NM, Pattern, Scope, Target, Unit, Unstructured
from wfbench.tasks.task import Task


@dataclass(frozen=True)
class Suite:
    """Which cases a marker runs. An empty `tasks` or `methods` means all there are.

    Args:
        name: of the record file; the marker, or the marker and what is special.
        budgets: numbers of calibration samples.
        sparsities: fractions of weights removed.
        recoveries: names of what follows the pruning.
        seeds: draws 0 … seeds−1; draw s is run on dense checkpoint s mod (checkpoints of the task).
        tasks: names.
        methods: names.
        pattern: name of the sparsity pattern; without `methods` all that reach it.
        of: what the sparsities count.
        scopes: allocations over layers; empty for each method's own.
        samplings: how samples are drawn; those that look at labels or change them go to labelled cases alone.
        only_declared: options keep what the grid declares and add nothing to it.
        also: further grids in the same record file, with `only_declared`.
    """

    name: str
    budgets: tuple[int, ...]
    sparsities: tuple[float, ...]
    recoveries: tuple[str, ...]
    seeds: int
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    pattern: str = "unstructured"
    of: Unit = "weights"
    scopes: tuple[Scope, ...] = ()
    samplings: tuple[Sampling, ...] = (RANDOM,)
    only_declared: bool = False
    also: tuple["Suite", ...] = ()

    def narrowed(self, **chosen: tuple[object, ...] | int | None) -> "Suite":
        """This suite with the user's choices in place of the declared ones; `TASK` means a declared `TASK[2000]`."""
        wanted: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        also = tuple(grid._kept(wanted) for grid in self.also)
        if self.only_declared:
            return replace(self._kept(wanted), also=also)
        if "tasks" in wanted:
            cut = {_uncut(name): name for name in self.tasks}
            wanted["tasks"] = tuple(cut.get(name, name) for name in wanted["tasks"])
        return replace(self, **wanted, also=also)

    def _kept(self, wanted: dict[str, Any]) -> "Suite":
        """What this grid declares and the user wants, with the user's number of draws; without `budgets` if nothing."""
        kept: dict[str, Any] = {}
        for name, value in wanted.items():
            kept[name] = value
            if isinstance(value, tuple):
                kept[name] = tuple(item for item in getattr(self, name) if item in value or _uncut(item) in value)
                if not kept[name]:
                    return replace(self, budgets=())
        return replace(self, **kept)

    def cases(self, registry: Registry) -> list[Case]:
        """Every case once, ordered so that neighbours share as much as they can: draw, budget (largest first), method.

        Raises:
            WfbenchError: an unknown task, method or recovery; a budget, sparsity or number of draws out of range; a
                method that reaches none of the suite's patterns.
        """
        if self.seeds < 1:
            raise WfbenchError(f"{self.seeds} draws: give at least 1")
        patterns = {self.pattern, *(grid.pattern for grid in self.also)}
        for name in self.methods:
            if patterns.isdisjoint(reached := registry.pruner(name).patterns):
                raise WfbenchError(
                    f"{name} reaches {', '.join(reached)}; the suite {self.name} is of {', '.join(sorted(patterns))}"
                )
        found = [case for grid in (self, *self.also) for case in grid._grid(registry)]
        return list({case.label(): case for case in found}.values())

    def _targets(self, task: Task, method: Pruner[Any]) -> list[Target]:
        pattern = pattern_of(self.pattern, task, self.of)
        scopes = self.scopes or (method.scope,)
        return [Target(sparsity, pattern, scope, self.of) for scope in scopes for sparsity in sorted(self.sparsities)]

    def _grid(self, registry: Registry) -> list[Case]:
        recoveries = [_recovery(name) for name in self.recoveries]
        methods = [registry.pruner(name) for name in self.methods or sorted(registry.pruners)]
        methods = [method for method in methods if self.pattern in method.patterns]
        return [
            made
            for task in [registry.task(name) for name in self.tasks or registry.tasks]
            for seed in range(self.seeds)
            for sampling in self.samplings
            for budget in sorted(self.budgets, reverse=True)
            for method in methods
            for target in self._targets(task, method)
            for recovery in recoveries
            if (made := _case(task, budget, seed, target, method, recovery, sampling)) is not None
        ]


def pattern_of(name: str, task: Task, of: Unit) -> Pattern:
    """The pattern of that name on a task; single weights that count multiply-accumulates are told theirs."""
    if name == Filter.name:
        return Filter(tuple(task.train_set.take([0]).inputs.shape[1:]))
    if name == Unstructured.name and of == "macs":
        return Unstructured(tuple(Network(task.dense()).places(task.train_set.take([0]).inputs).items()))
    return {found.name: found for found in (Unstructured(), NM())}[name]


def _case(
    task: Task,
    budget: int,
    seed: int,
    target: Target,
    method: Pruner[Any],
    recovery: Recovery[Any],
    sampling: Sampling,
) -> Case | None:
    """None where a draw that needs labels meets a case that may not see any."""
    if sampling.needs_labels and "labeled" not in (method.track, recovery.track):
        return None
    return Case(task, budget, seed, seed % max(1, task.replicates), target, method, recovery, sampling)


def _uncut(name: object) -> object:
    """`TASK` for `TASK[2000]`."""
    return name.partition("[")[0] if isinstance(name, str) else name


def _recovery(name: str) -> Recovery[Any]:
    if name not in RECOVERIES:
        raise unknown("recovery", name, RECOVERIES)
    return RECOVERIES[name]
