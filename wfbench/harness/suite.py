"""A suite: grids of cases in one record file, which the user's options filter.

Every combination of the values that the user asks for is run by the grids that declare it, and one that none declares
by the first grid of each pattern that it fits: what is asked for by name runs. Where another suite of the same
marker declares all of it by name, it joins nothing.

An own suite is a file `suite_*.py`, run by `pytest FOLDER -m mine` with `pytest_plugins = ["wfbench.pytest_plugin"]` in
the `conftest.py` beside it, or with `-p wfbench.pytest_plugin`:

    SUITE = Suite("mine", (Grid((10, 100), (0.9,), ("none",), seeds=3, tasks=("digits-cnn",)),))
    test_case = case_test("mine")  # from wfbench.pytest_plugin
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product, repeat
from typing import Any

from wfbench.draws import RANDOM, Sampling
from wfbench.errors import WfbenchError, why
from wfbench.harness.case import PATTERNS, Case, Unread, gathered, pattern_of, possible
from wfbench.harness.isolation import caught
from wfbench.harness.plugins import Registry
from wfbench.licence import Licensed
from wfbench.pruner import Pruner
from wfbench.recoveries.names import recovery_of
from wfbench.sparsity import Pattern, Scope, Target, Unit
from wfbench.tasks.task import Task

OPTIONS = ("tasks", "methods", "budgets", "sparsities", "recoveries", "copies")
"""What the user may choose values of; tasks first, since whether a sparsity can be met is asked on one."""

DENSE = "magnitude"
"""The method that, at sparsity 0, stands for the dense network; what is not pruned needs no data."""


@dataclass(frozen=True)
class Grid:
    """Every combination of what it declares. An empty `tasks` or `methods` declares all there are.

    Args:
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
        copies: of each sample, 1 is itself alone; others go to tasks that declare an augmentation alone.
    """

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
    copies: tuple[int, ...] = (1,)

    def __str__(self) -> str:
        """The options that choose all of it."""
        lists = {option: ",".join(map(str, getattr(self, option))) or "(all)" for option in OPTIONS}
        return " ".join(f"--{option} {values}" for option, values in lists.items())

    def spelt_out(self, registry: Registry) -> "Grid":
        """With the names of all tasks (but those on request) or methods where it declares them all."""
        reaching = [name for name, method in sorted(registry.pruners.items()) if self.pattern in method.patterns]
        tasks = self.tasks or tuple(task.name for task in registry.chosen(()))
        return replace(self, tasks=tasks, methods=self.methods or tuple(reaching))

    def kept(self, asked: Mapping[str, tuple[Any, ...]]) -> "Grid":
        """With those of its values alone that are asked for."""
        found: dict[str, Any] = {
            option: tuple(item for item in getattr(self, option) if not {item, _uncut(item, option)}.isdisjoint(values))
            for option, values in asked.items()
        }
        return replace(self, **found)

    def joined_by(self, box: Mapping[str, tuple[Any, ...]], registry: Registry) -> "Grid":
        """With these values in place of its own, as far as its pattern can be had with them."""
        grid = self
        for option, values in box.items():
            change: dict[str, Any] = {option: tuple(one for one in values if grid.fits(option, one, registry))}
            grid = replace(grid, **change)
        return grid

    def fits(self, option: str, value: Any, registry: Registry) -> bool:
        """Whether the pattern can be had with a value of an option.

        Raises:
            WfbenchError: there is no such task, method or recovery, or no pattern can be had with it.
        """
        if option == "tasks":
            registry.task(value)
        if option == "recoveries":
            recovery_of(value)
        if option == "methods":
            return self.pattern in registry.pruner(value).patterns
        return option != "sparsities" or self._meets(value, registry)

    def _meets(self, sparsity: float, registry: Registry) -> bool:
        Target(sparsity)  # outside [0, 1) nothing is met
        if not self.tasks:
            return False
        pattern = _on(registry.task(self.tasks[0]), self.pattern, self.of)
        try:
            Target(sparsity, pattern, of=self.of)
        except WfbenchError:
            return False
        return True

    def cases(self, registry: Registry) -> list[Case]:
        """Every case, and the dense network under every recovery, which tables show beside the others'.

        Ordered so that neighbours share as much as they can: draw, budget (largest first), method.
        """
        if self.seeds < 1:
            raise WfbenchError(f"{self.seeds} draws: give at least 1")
        recoveries = [recovery_of(name) for name in self.recoveries]
        methods = [registry.pruner(name) for name in self.methods]
        dense = (registry.pruner(DENSE), [Target(0.0)], [one for one in recoveries if one.name != "none"])
        return [
            made
            for task in map(registry.task, self.tasks)
            for pattern in (_on(task, self.pattern, self.of),)
            for seed in range(self.seeds)
            for drawn in self.samplings
            for sampling in (replace(drawn, copies=copies) for copies in self.copies)
            for budget in sorted(self.budgets, reverse=True)
            for method, targets, after in (dense, *((one, self._targets(pattern, one), recoveries) for one in methods))
            for target in targets
            for recovery in after
            if (made := possible(task, budget, seed, target, method, recovery, sampling)) is not None
        ]

    def _targets(self, pattern: Pattern, method: Pruner[Any]) -> list[Target]:
        scopes = self.scopes or (method.scope,)
        return [Target(sparsity, pattern, scope, self.of) for scope in scopes for sparsity in sorted(self.sparsities)]


@dataclass(frozen=True)
class Suite:
    """The cases of one record file.

    Args:
        name: of the record file; the marker, or the marker and what is special.
        grids: what they share runs once; an own task, method or budget joins the first of each pattern that it fits.
    """

    name: str
    grids: tuple[Grid, ...]

    def narrowed(self, registry: Registry, *, seeds: int | None = None, **chosen: tuple[Any, ...] | None) -> "Suite":
        """The grids that are left with the user's choices (`OPTIONS`), and what joins them.

        Every combination of the values asked for is run by the grids that declare it, else by the first grid of each
        pattern that it fits. `TASK` means a declared `TASK[2000]`. A suite that has tasks on request beside
        others runs them where the user names them alone.

        Raises:
            WfbenchError: an unknown task, method or recovery; a sparsity out of range.
        """
        grids = [grid.spelt_out(registry) for grid in self.grids]
        if seeds is not None:
            grids = [replace(grid, seeds=seeds) for grid in grids]
        if not chosen.get("tasks"):
            grids = _unasked(grids, registry)
        asked = {option: tuple(dict.fromkeys(values)) for option in OPTIONS if (values := chosen.get(option))}
        left = [grid.kept(asked) for grid in grids]
        first = {grid.pattern: grid for grid in reversed(grids)}
        left += [grid.joined_by(box, registry) for box in _undeclared(asked, grids) for grid in first.values()]
        return replace(self, grids=tuple(grid for grid in left if all(getattr(grid, option) for option in OPTIONS)))

    def declares(self, registry: Registry, chosen: Mapping[str, Any]) -> bool:
        """Whether nothing that the user chose has to join."""
        return not _not_named([grid.spelt_out(registry) for grid in self.grids], chosen)

    def names(self, chosen: Mapping[str, Any]) -> bool:
        """Whether all that the user chose stands in its grids by name."""
        return not _not_named(self.grids, chosen)

    def cases(self, registry: Registry) -> list[Case]:
        """Every case once; those of a draw, budget, method and target side by side, whatever grids they are of.

        Raises:
            WfbenchError: an unknown task, method or recovery; a budget, sparsity or number of draws out of range; a
                declared method that does not reach the pattern of its grid.
        """
        found = [case for grid in self.grids for case in grid.spelt_out(registry).cases(registry)]
        return gathered({case.label(): case for case in found}.values())


def _unasked(grids: list[Grid], registry: Registry) -> list[Grid]:
    """The grids without the tasks on request, as not everyone has their data; as they are where there are no others."""

    def is_for_all(name: str) -> bool:
        return not registry.task(_uncut(name, "tasks")).on_request

    left = [replace(grid, tasks=tuple(filter(is_for_all, grid.tasks))) for grid in grids]
    return [grid for grid in left if grid.tasks] or grids


def unlabelled(suites: Iterable[Suite], registry: Registry) -> str:
    """Which methods and recoveries are left out of which tasks, as the training samples have no labels; else empty."""
    found: dict[str, set[str]] = {}
    for grid in (grid.spelt_out(registry) for suite in suites for grid in suite.grids):
        parts: list[Licensed[Any]] = [*map(registry.pruner, grid.methods), *map(recovery_of, grid.recoveries)]
        names = {part.name for part in parts if part.track == "labeled"}
        for task in grid.tasks if names else ():
            if not registry.task(task).train_set.labelled:
                found.setdefault(task, set()).update(names)
    return "; ".join(f"{', '.join(sorted(names))} on {task}" for task, names in found.items())


def unaugmented(suites: Iterable[Suite], registry: Registry) -> str:
    """Which tasks have no copies of samples, where a suite has some, as they declare no augmentation; else empty."""
    grids = [grid.spelt_out(registry) for suite in suites for grid in suite.grids if max(grid.copies) > 1]
    names = {name for grid in grids for name in grid.tasks if registry.task(name).augment is None}
    return ", ".join(sorted(names))


def _on(task: Task, name: str, of: Unit) -> Pattern:
    """The pattern of that name on a task; one that stands for it where the task breaks."""
    try:
        return pattern_of(name, task, of)
    except BaseException as error:  # a stranger's task may raise anything
        return Unread(name=name, units=PATTERNS[name].units, reason=why(caught(error)))


def _undeclared(asked: dict[str, tuple[Any, ...]], grids: list[Grid]) -> list[dict[str, tuple[Any, ...]]]:
    """The combinations of what is asked for that no grid declares, in as few products as they fall into."""
    boxes: list[dict[str, tuple[Any, ...]]] = [
        {option: (value,) for option, value in zip(asked, values, strict=True)}
        for values in product(*asked.values())
        if not any(all(map(_named, values, asked, repeat(grid))) for grid in grids)
    ]
    for option in reversed(asked):
        merged: dict[tuple[Any, ...], dict[str, tuple[Any, ...]]] = {}
        for box in boxes:
            rest = tuple(box[other] for other in asked if other != option)
            known = merged.setdefault(rest, {**box, option: ()})
            known[option] += box[option]
        boxes = list(merged.values())
    return boxes


def _not_named(grids: Iterable[Grid], chosen: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The user's choices, each with its option, that no grid declares."""
    asked = [(option, value) for option in OPTIONS for value in chosen.get(option) or ()]
    grids = list(grids)
    return [(option, value) for option, value in asked if not any(_named(value, option, grid) for grid in grids)]


def _named(value: Any, option: str, grid: Grid) -> bool:
    """Whether a grid declares a value of an option."""
    return any(value in (item, _uncut(item, option)) for item in getattr(grid, option))


def _uncut(item: Any, option: str) -> Any:
    """`TASK` for `TASK[2000]`."""
    return item.partition("[")[0] if option == "tasks" else item


def left_out(
    declared: Iterable[Suite], narrowed: Iterable[Suite], chosen: Mapping[str, Any], registry: Registry
) -> str:
    """The user's choices that suites declare, but not together with the other choices; as options.

    Args:
        narrowed: the suites with these choices.

    Raises:
        WfbenchError: no case is left, or none with a choice that joins a suite where it can.
    """
    suites = list(declared)
    all_of = [grid.spelt_out(registry) for suite in suites for grid in suite.grids]
    left = [grid for suite in narrowed for grid in suite.grids]
    missed = _not_named(left, chosen)
    text = " ".join(f"--{option} {value}" for option, value in missed)
    if left and not set(missed).intersection(_not_named(all_of, chosen)):
        return text
    names, patterns = ", ".join(suite.name for suite in suites), {grid.pattern for grid in all_of}
    problem = f"nothing to run: no case of the suite {names} has {text}"
    for option, name in missed:
        if option == "methods" and patterns.isdisjoint(reached := registry.pruner(name).patterns):
            of = ", ".join(sorted(patterns))
            problem = f"{name} reaches {', '.join(reached)}; the suite {names} is of {of}"
    grids = "\n".join(f"  {suite.name}, {grid.pattern}: {grid}" for suite in suites for grid in suite.grids)
    raise WfbenchError(f"{problem}; declared are:\n{grids}")
