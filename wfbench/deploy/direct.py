"""`wfbench.prune`: a trained module and samples in, a pruned module out."""

import warnings
from typing import Any

from torch import Tensor, nn

from wfbench.channels.pattern import Filter
from wfbench.data import Dataset, Labeled, MapStyle, Unlabeled
from wfbench.errors import BrokenRule, CaseFailed, WfbenchError, unknown
from wfbench.export import smaller
from wfbench.harness.case import Case, pattern_of
from wfbench.harness.plugins import discover
from wfbench.harness.runner import Runner
from wfbench.network import Network
from wfbench.pruner import Pruner
from wfbench.recoveries.base import Recovery
from wfbench.recoveries.names import RECOVERIES
from wfbench.recoveries.statistics import statistics_off
from wfbench.sparsity import Scope, Target, Unit, Unstructured
from wfbench.tasks.task import Task

USUAL = "obs-distilled"
"""The method where none is given, of single weights and of whole channels; it needs no labels, and recovers."""


def prune(
    module: nn.Module,
    samples: Any,
    sparsity: float = 0.9,
    method: str | Pruner[Any] | None = None,
    recovery: str | Recovery[Any] = "none",
    of: Unit | None = None,
) -> nn.Module:
    """A pruned copy of a trained network, in eval mode, on its device, free to be trained; `module` stays as it is.

    Args:
        module: of convolution, linear and norm layers, from inputs to logits.
        samples: all are used: inputs `[n, *input]` as a tensor or an array, a map-style dataset of them, or either with
            labels, which only some methods read.
        sparsity: the fraction removed, in [0, 1), of what `of` counts.
        method: a name of `wfbench list`, or a method. By default `obs-distilled`, for single weights and for whole
            channels; it reads no labels, and recovers by itself.
        recovery: a name in `wfbench.RECOVERIES`, or a recovery: what follows, on the same samples.
        of: `weights`, so that these become zeros; `filters`, `params` or `macs`, so that whole channels are taken out
            and the network gets smaller. By default what the method removes.

    Raises:
        WfbenchError: an unknown name, a sparsity out of range or that cannot be met, samples that do not fit, or a
            method without a result.

    Warns:
        UserWarning: the statistics of the network's BatchNorms do not seem to be those of the samples.
    """
    source = source_of(samples, Network(module))
    task = Task("samples", module, source)
    case = case_of(task, sparsity, method, recovery, of)
    try:
        recovered = Runner(str(Network(module).device)).recover(case)[1]
    except (BrokenRule, CaseFailed) as error:
        raise WfbenchError(f"{case.method.name} has no result: {error}") from error
    if warning := statistics_off(Network(module), source[0] if isinstance(source, tuple) else source):
        warnings.warn(warning, stacklevel=2)
    pattern = Filter.of(task.train_set.take([0]).inputs)
    removed = {name: sorted(set(gone)) for name, gone in recovered.removed_channels.items() if gone}
    return smaller(Network(module), pattern, removed, recovered.state).requires_grad_(True).eval()


def source_of(samples: Any, net: Network) -> tuple[Tensor, Tensor] | Tensor:
    """All samples: the inputs, as floats of the network's type, with their labels where they have some.

    Raises:
        WfbenchError: there are none, or they are of another kind.
    """
    if isinstance(samples, (Labeled, Unlabeled)):
        found = samples
    else:
        if not isinstance(samples, (Dataset, MapStyle)):
            raise WfbenchError(
                f"samples are a {type(samples).__name__}; give a tensor or an array of inputs, or a map-style dataset"
            )
        dataset = samples if isinstance(samples, Dataset) else Dataset(samples, "samples")
        found = dataset.take(range(len(dataset)))
    if not len(found):
        raise WfbenchError("there are no samples; give some inputs")
    inputs = found.inputs.to(net.dtype)
    return (inputs, found.labels) if isinstance(found, Labeled) else inputs


def case_of(
    task: Task,
    sparsity: float,
    method: str | Pruner[Any] | None = None,
    recovery: str | Recovery[Any] = "none",
    of: Unit | None = None,
    *,
    scope: Scope | None = None,
    budget: int | None = None,
    seed: int = 0,
    replicate: int = 0,
    registry: Any = None,
) -> Case:
    """What is asked of a task, with what is usual where nothing is said; all samples by default.

    Raises:
        WfbenchError: an unknown name, a number out of range, or a method that does not reach what `of` counts.
    """
    pruner = (registry or discover()).pruner(method or USUAL) if isinstance(method, str | None) else method
    if isinstance(recovery, str) and recovery not in RECOVERIES:
        raise unknown("recovery", recovery, RECOVERIES)
    after = RECOVERIES[recovery] if isinstance(recovery, str) else recovery
    counted: Unit = of or ("weights" if Unstructured.name in pruner.patterns else "macs")
    patterns = (Unstructured, Filter) if counted == "weights" else (Filter, Unstructured)
    reached = [one.name for one in patterns if one.name in pruner.patterns and counted in one.units]
    if not reached:
        kind = "single weights" if counted == "weights" else "whole channels"
        raise WfbenchError(
            f"of {counted} is for methods that remove {kind}; {pruner.name} reaches {' and '.join(pruner.patterns)}"
        )
    target = Target(sparsity, pattern_of(reached[0], task, counted), scope or pruner.scope, counted)
    task.dense(replicate)
    size = len(task.train_set) if budget is None else budget
    return Case(task, size, seed, replicate, target, pruner, after)
