"""`wfbench.recommend`: methods tried inside the samples, cheap ones first; calibrated on some, scored on the others."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from tabulate import tabulate
from torch import nn

from wfbench.data import Dataset, Labeled, Unlabeled
from wfbench.deploy.direct import case_of, source_of
from wfbench.draws import draw, folds
from wfbench.errors import BrokenRule, CaseFailed, WfbenchError
from wfbench.harness.plugins import Registry, discover
from wfbench.harness.runner import Runner
from wfbench.network import Network
from wfbench.recoveries.statistics import statistics_off
from wfbench.report.rounding import NOISE
from wfbench.report.stats import student
from wfbench.sparsity import Unit
from wfbench.tasks.evaluate import agreement, evaluate
from wfbench.tasks.task import Task

FOLDS = 5
CANDIDATES: dict[str, tuple[tuple[str, str], ...]] = {
    "weights": (
        ("magnitude", "none"),
        ("magnitude", "batchnorm"),
        ("lamp", "batchnorm"),
        ("magnitude", "repair"),
        ("lamp", "repair"),
        ("staged-magnitude", "none"),
        ("snows", "none"),
        ("obs-distilled", "none"),
    ),
    "channels": (
        ("filter-l2", "batchnorm"),
        ("filter-l2", "repair"),
        ("tp-l2", "repair"),
        ("thinet", "repair"),
        ("obs-filter", "repair"),
        ("obs-distilled", "none"),
    ),
}
"""Method and recovery, cheap ones first; none reads labels. The best of the records' tables for few samples."""


@dataclass(frozen=True)
class Candidate:
    """What one method and recovery did over the folds.

    Args:
        score: mean over the folds of agreement with the dense network, or of accuracy, on the fold held out.
        low, high: the 95 % Student-t interval of the mean.
        loss: mean of KL(dense‖pruned) or of the cross-entropy there, nats.
        seconds: fitting, pruning and recovery, mean over the folds.
        level: the interval of the difference from the best, paired by fold, reaches zero.
    """

    method: str
    recovery: str
    score: float
    low: float
    high: float
    loss: float
    seconds: float
    level: bool


@dataclass(frozen=True)
class Failure:
    """A method and recovery that had no result on some fold, and why."""

    method: str
    recovery: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """A ranked list, the best first; printed as a table.

    Args:
        measure: `agreement` with the dense network, or `accuracy`, where the samples have labels.
        failed: those without a result, with the reason.
        untried: names of the dearer candidates that were left out, since a cheaper one lost nothing.
        command: what to run.
        warning: what seems to be wrong with the dense network, if anything does.
    """

    measure: str
    samples: int
    sparsity: float
    of: str
    ranked: tuple[Candidate, ...]
    failed: tuple[Failure, ...]
    untried: tuple[str, ...]
    command: str
    warning: str | None = None

    @property
    def best(self) -> Candidate:
        return self.ranked[0]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            [one.method, one.recovery, _percent(one), f"{one.loss:.3g}", f"{one.seconds:.2f}", "yes" * one.level]
            for one in self.ranked
        ]
        rows += [[one.method, one.recovery, f"failed: {one.reason}", "", "", ""] for one in self.failed]
        loss = "KL, nats" if self.measure == "agreement" else "loss, nats"
        heads = ["method", "recovery", f"{self.measure} [95 %]", loss, "seconds", "level with the best"]
        about = f"{self.sparsity:g} of {self.of} removed; inside {self.samples} samples: calibrated on four fifths, "
        about += f"{self.measure} on the last, {FOLDS} times"
        left = f"\nnot tried, as a cheaper one lost nothing: {', '.join(self.untried)}" if self.untried else ""
        warning = f"\n\n{self.warning}" if self.warning else ""
        return f"{about}\n\n{tabulate(rows, headers=heads, disable_numparse=True)}\n{left}\n{self.command}{warning}"


def _percent(one: Candidate) -> str:
    return f"{100 * one.score:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def recommend(module: nn.Module, samples: Any, sparsity: float = 0.9, of: Unit = "weights") -> Recommendation:
    """Which method to use on a network with these samples, found inside them; labels, where there are some, only score.

    Args:
        module: the trained network, which stays as it is.
        samples: as for `wfbench.prune`, at least ten.
        sparsity: the fraction removed, of what `of` counts.
        of: `weights`, or `filters`, `params`, `macs` for whole channels.

    Raises:
        WfbenchError: too few samples, or no candidate has a result.
    """
    data = Dataset(source_of(samples, Network(module)), "samples")
    found = tried(module, draw(data, len(data), 0), sparsity, of, discover())
    kind = "" if of == "weights" else f', of="{of}"'

    def command(best: Candidate) -> str:
        return f'wfbench.prune(module, samples, {sparsity:g}, "{best.method}", "{best.recovery}"{kind})'

    warning = statistics_off(Network(module), data.take(range(len(data))).inputs)
    return replace(ranked(found, len(data), sparsity, of, command), warning=warning)


@dataclass
class Trial:
    """A candidate's scores, losses and seconds, one each fold; of the dense network alike."""

    method: str
    recovery: str
    measure: str
    scores: list[float]
    losses: list[float]
    seconds: list[float]
    dense: list[float]
    reason: str = ""

    @property
    def lossless(self) -> bool:
        return not self.reason and sum(self.scores) >= sum(self.dense) - NOISE


def tried(
    module: nn.Module,
    data: Labeled | Unlabeled,
    sparsity: float,
    of: Unit,
    registry: Registry,
    tell: Callable[[str], None] = lambda name: None,
) -> list[Trial]:
    """Every candidate in turn, until one loses nothing; the others have no folds.

    Args:
        data: all samples.
        tell: is called with the name of what is tried, once a fold.
    """
    if len(data) < 2 * FOLDS:
        raise WfbenchError(f"{len(data)} samples are too few to hold some out {FOLDS} times; give at least {2 * FOLDS}")
    runner, found, done = Runner(str(Network(module).device)), [], False
    tasks = list(held_out(module, data))
    for method, recovery in CANDIDATES["weights" if of == "weights" else "channels"]:
        trial = Trial(method, recovery, "accuracy" if isinstance(data, Labeled) else "agreement", [], [], [], [])
        for task in () if done else tasks:
            tell(f"{method}, {recovery}")
            try:
                _try(runner, task, trial, sparsity, of, registry)
            except (CaseFailed, BrokenRule, WfbenchError) as error:
                trial.reason = str(error)
                break
        found.append(trial)
        done = done or (trial.lossless and bool(trial.scores))
    return found


def held_out(module: nn.Module, data: Labeled | Unlabeled) -> Iterator[Task]:
    """The samples as tasks: one part to score on, the others to draw from."""
    source = Dataset((data.inputs, data.labels) if isinstance(data, Labeled) else data.inputs)
    for number, held in enumerate(folds(len(data), FOLDS)):
        rest = [i for i in range(len(data)) if i not in held]
        yield Task(f"fold {number}", module, *(_pair(source.take(part)) for part in (rest, held)))


def _pair(data: Labeled | Unlabeled) -> Any:
    return (data.inputs, data.labels) if isinstance(data, Labeled) else data.inputs


def _try(runner: Runner, task: Task, trial: Trial, sparsity: float, of: Unit, registry: Registry) -> None:
    case = case_of(task, sparsity, trial.method, trial.recovery, of, registry=registry)
    _, recovered, seconds, _ = runner.recover(case)
    net = Network(task.dense())
    dense, module = net.module(), net.module()
    module.load_state_dict(recovered.state)
    if trial.measure == "accuracy":
        before, after = evaluate(dense, task.test_set), evaluate(module, task.test_set)
        trial.dense.append(before.accuracy)
        trial.scores.append(after.accuracy)
        trial.losses.append(after.loss)
    else:
        found = agreement(module, dense, task.test_set)
        trial.dense.append(1.0)
        trial.scores.append(found.agreement)
        trial.losses.append(found.loss)
    trial.seconds.append(seconds)


def ranked(
    trials: list[Trial], samples: int, sparsity: float, of: str, command: Callable[[Candidate], str]
) -> Recommendation:
    """The best mean first; between equal ones the least loss, then the least time; failed ones last.

    Raises:
        WfbenchError: none has a result.
    """
    good = [one for one in trials if one.scores and not one.reason]
    if not good:
        reasons = "; ".join(f"{one.method}: {one.reason}" for one in trials)
        raise WfbenchError(f"no method has a result at {sparsity:g} of {of}: {reasons}")
    good.sort(key=lambda one: (-np.mean(one.scores), np.mean(one.losses), np.mean(one.seconds)))
    found = [_candidate(one, good[0]) for one in good]
    failed = tuple(Failure(one.method, one.recovery, one.reason) for one in trials if one.reason)
    untried = tuple(f"{one.method}, {one.recovery}" for one in trials if not one.scores and not one.reason)
    return Recommendation(good[0].measure, samples, sparsity, of, tuple(found), failed, untried, command(found[0]))


def _candidate(trial: Trial, best: Trial) -> Candidate:
    interval = student(np.array(trial.scores))
    apart = student(np.array(trial.scores) - np.array(best.scores))
    low, high = max(0.0, interval.low), min(1.0, interval.high)
    means = float(np.mean(trial.losses)), float(np.mean(trial.seconds))
    return Candidate(trial.method, trial.recovery, interval.estimate, low, high, *means, apart.high >= -NOISE)
