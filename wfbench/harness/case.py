"""A case: what is asked, and the names and options that a record says it by."""

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from wfbench.channels.pattern import Filter
from wfbench.draws import RANDOM, Sampling
from wfbench.errors import CaseFailed, WfbenchError
from wfbench.licence import TRACKS, Track, strongest
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.pruner import Pruner
from wfbench.recoveries.base import Recovery
from wfbench.sparsity import NM, Pattern, Target, Unit, Unstructured
from wfbench.tasks.task import Task


@dataclass(frozen=True, kw_only=True)
class Unread(Pattern):
    """Stands for a pattern on a task that cannot be read, so that its cases are there to fail, with the reason."""

    name: str  # type: ignore[misc]
    units: tuple[Unit, ...]  # type: ignore[misc]
    reason: str

    def achieved(self, target: Target, net: Network, pruned: Pruned, x: Tensor) -> float:
        raise CaseFailed(self.reason)


@dataclass(frozen=True)
class Case:
    """One cell of a suite: task × budget × draw × checkpoint × target × pruner × recovery.

    Args:
        task: what is pruned.
        budget: calibration samples, at least 1.
        seed: of the draw.
        replicate: which of the task's dense checkpoints.
        target: how much is removed, and how.
        method: the pruner.
        recovery: what follows, with the same samples.
        sampling: how the samples are drawn.

    Raises:
        WfbenchError: a budget below 1, a pattern that the method does not reach, or a draw that looks at labels or
            changes them for a case that is not labelled.
    """

    task: Task
    budget: int
    seed: int
    replicate: int
    target: Target
    method: Pruner[Any]
    recovery: Recovery[Any]
    sampling: Sampling = RANDOM

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise WfbenchError(f"budget {self.budget} is not a number of samples; give an integer of at least 1")
        if self.target.pattern.name not in self.method.patterns:
            reached = ", ".join(self.method.patterns)
            raise WfbenchError(f"{self.method.name} reaches {reached}, not the pattern {self.target.pattern.name}")
        if self.sampling.needs_labels and self.track != "labeled":
            raise WfbenchError(
                f"{self.sampling} looks at labels, and {self.method.name} with recovery {self.recovery.name} is "
                f"{self.track}; use it with labelled methods or recoveries"
            )

    @property
    def track(self) -> Track:
        """The strongest licence among pruner and recovery."""
        _ = self.method.track, self.recovery.track  # each says what it may see
        return TRACKS[strongest((self.method.licence, self.recovery.licence))]

    def identity(self) -> dict[str, Any]:
        """The fields of the record that say which case it is of."""
        return {
            "task": self.task.name,
            "method": self.method.name,
            "track": self.track,
            "budget": self.budget,
            "seed": self.seed,
            "replicate": self.replicate,
            "sparsity": self.target.sparsity,
            "pattern": self.target.pattern.name,
            "scope": self.target.scope,
            "of": self.target.of,
            "recovery": self.recovery.name,
            "draw": self.sampling.kind,
            "wrong_labels": self.sampling.wrong_labels,
            **({"copies": self.sampling.copies} if self.sampling.copies > 1 else {}),  # as records from before copies
        }

    def label(self) -> str:
        """The identity in one line."""
        target, sampling = self.target, self.sampling
        unusual = [target.pattern.name] * (target.pattern.name != "unstructured")
        unusual += [target.of] * (target.of != "weights") + [sampling.kind] * (sampling.kind != "random")
        unusual += [f"wrong{sampling.wrong_labels:g}"] * (sampling.wrong_labels > 0)
        unusual += [f"copies{sampling.copies}"] * (sampling.copies > 1)
        parts = [self.task.name, f"n{self.budget}", f"s{self.seed}", self.method.name, *unusual]
        return "-".join([*parts, target.scope, f"{target.sparsity:g}", self.recovery.name])


def gathered(cases: Iterable[Case]) -> list[Case]:
    """Those of a draw side by side, in these those of a budget, then of a method, then of a target; first come first.

    Neighbours share what was drawn, then what was fitted, then what was pruned.
    """

    def kinds(case: Case) -> list[tuple[object, ...]]:
        draw = (case.task.name, case.replicate, case.seed, case.sampling)
        pattern = (case.target.pattern.name, case.target.of, case.target.scope)
        whole = (*draw, case.budget, case.method.name, *pattern, case.target.sparsity)
        return [whole[:depth] for depth in (4, 5, 6, len(whole))]

    every = [(case, kinds(case)) for case in cases]
    place: dict[tuple[object, ...], int] = {}
    for kind in (kind for _, of in every for kind in of):
        place.setdefault(kind, len(place))
    return [case for case, _ in sorted(every, key=lambda one: [place[kind] for kind in one[1]])]


def options(component: object) -> dict[str, Any]:
    """The hyper-parameters of a frozen dataclass, as JSON values."""
    if not is_dataclass(component):
        return {}
    return {field.name: _plain(getattr(component, field.name)) for field in fields(component)}


def changed(component: object) -> dict[str, Any]:
    """Those of its hyper-parameters that are not its defaults; what the defaults are is said by its code."""
    if not is_dataclass(component):
        return {}
    usual = {field.name: field.default for field in fields(component)}
    return {name: value for name, value in options(component).items() if value != _plain(usual[name])}


def defaults(component: object) -> dict[str, Any]:
    """The defaults of its hyper-parameters, and those of the components that it is made of, as it makes them."""
    if not is_dataclass(component):
        return {}
    found = {one.name: _plain(one.default) for one in fields(component) if one.default is not MISSING}
    for one in fields(component):
        if is_dataclass(part := getattr(component, one.name)) and one.default is MISSING:
            usual = one.default_factory() if one.default_factory is not MISSING else None
            its = {"is": type(part).__name__, **defaults(part)}
            found[one.name] = _plain(usual) if type(usual) is type(part) else its
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {"is": type(value).__name__, **options(value)}
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


PATTERNS: dict[str, type[Pattern]] = {found.name: found for found in (Unstructured, NM, Filter)}


def pattern_of(name: str, task: Task, of: Unit) -> Pattern:
    """The pattern of that name on a task."""
    return PATTERNS[name].for_task(task.dense, task.train_set.take([0]).inputs, of)


def possible(
    task: Task,
    budget: int,
    seed: int,
    target: Target,
    method: Pruner[Any],
    recovery: Recovery[Any],
    sampling: Sampling,
) -> Case | None:
    """None where a case cannot be.

    Where a draw that needs labels meets a case that may not see any, a labelled case samples without, or copies a task
    without an augmentation.
    """
    labelled = "labeled" in (method.track, recovery.track)
    if (sampling.needs_labels and not labelled) or (labelled and not task.train_set.labelled):
        return None
    if sampling.copies > 1 and task.augment is None:
        return None
    return Case(task, budget, seed, seed % max(1, task.replicates), target, method, recovery, sampling)
