"""What a record says of a result besides its scores: sparsity, likeness to magnitude, change of the loss, latency."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wfbench.channels.latency import Timing
from wfbench.data import Labeled, Unlabeled
from wfbench.errors import BrokenRule, CaseFailed
from wfbench.harness.record import PLACE, Record
from wfbench.network import Network, Params, flatten
from wfbench.pruned import Pruned
from wfbench.pruner import TRIALS, Pruner
from wfbench.sparsity import Target, keep_largest


def check_finite(state: Params, what: str) -> None:
    """Raises CaseFailed for NaN or infinite values in the `what` network."""
    floating = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    if not floating or torch.isfinite(flatten(floating)).all():  # one question to the device, not one a tensor
        return
    for name, tensor in floating.items():
        if not torch.isfinite(tensor).all():
            raise CaseFailed(f"{name} of the {what} network contains NaN or infinite values")


def achieved_sparsity(method: Pruner[Any], target: Target, net: Network, pruned: Pruned, x: Tensor) -> float:
    """The sparsity that the pattern counts, of a result that is whole and kept to the cap on trials.

    Args:
        x: one sample `[1, *input]`.

    Raises:
        BrokenRule: state or mask are not whole, too many trials, or the target is missed.
    """
    missing = ({*net.names.values()} - pruned.state.keys()) | (net.weights.keys() - pruned.mask.keys())
    if missing:
        raise BrokenRule(f"{method.name} returned no state or mask for {', '.join(sorted(missing))}")
    if (tried := len(pruned.trials)) > TRIALS:
        raise BrokenRule(f"{method.name} tried {tried} values of its hyper-parameters; the cap is {TRIALS}")
    try:
        return target.pattern.achieved(target, net, pruned, x)
    except BrokenRule as broken:
        raise BrokenRule(f"{method.name}: {broken}") from None


def realised_change(net: Network, pruned: Pruned, seen: Labeled | Unlabeled | None) -> float | None:
    """What pruning did to the loss on the samples that the method may see, nats; None without any."""
    return None if seen is None else finite(net.change(pruned.state, seen))


def magnitude_overlap(net: Network, pruned: Pruned) -> float:
    """Share of the kept weights that global magnitude would keep at the same sparsity; 0 where none is kept."""
    kept = flatten({name: pruned.mask[name] for name in net.weights})
    if not kept.any():
        return 0.0
    sparsity = 1 - int(kept.sum()) / len(kept)
    magnitude = keep_largest({name: weight.abs() for name, weight in net.weights.items()}, Target(sparsity))
    return int((kept & flatten(magnitude)).sum()) / int(kept.sum())


def finite(value: float | None) -> float | None:
    """The value, or None where it is none that JSON can hold."""
    return value if value is not None and math.isfinite(value) else None


class Timings:
    """Latencies by task, architecture and place (what is in `PLACE`), each measured once and kept."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], list[Timing]] = {}

    def learn(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Take over what stored records have measured; the first of each architecture counts."""
        for record in records:
            if found := record.get("latencies"):
                self._known.setdefault(_timed_as(record["task"], record["architecture"], record["environment"]), found)

    def settled(self, record: Record) -> Record:
        """The record with what is known of its architecture, which another process may have measured too."""
        if record.latencies is None or record.architecture is None:
            return record
        measured = record.latencies
        return replace(record, **self.take(record.task, record.architecture, record.environment, lambda: measured))

    def take(
        self,
        task: str,
        architecture: str,
        place: Mapping[str, Any],
        measure: Callable[[], list[Timing]],
    ) -> dict[str, Any]:
        """The record's fields of an architecture, measured where it is not known."""
        which = _timed_as(task, architecture, place)
        if which not in self._known:
            self._known[which] = measure()
        found = self._known[which]
        return {**{name: found[0][name] for name in ("latency", "dense_latency")}, "latencies": found}


def _timed_as(task: str, architecture: str, place: Mapping[str, Any]) -> tuple[Any, ...]:
    return task, architecture, *(place.get(name) for name in PLACE)
