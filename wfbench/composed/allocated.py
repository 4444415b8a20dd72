"""One method's amounts with another's choice: as many weights or channels of every layer; or half of the way there.

Who looks at the whole network knows how much a layer's channels bear on the logits, but not how well the method that
chooses them makes good within layers what it takes: where much goes, it may take too much of one. With `k_e` the kept
share of a group where all groups lose as large a part, and `k_g` that under the other's amounts, half-way is

    k = √(k_e k_g)^c

with the c that meets the target. A method that is led goes there where networks that were fitted without some of the
samples are nearer to the dense one on these, by more than a standard error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite, log
from statistics import mean
from typing import Any, ClassVar

import torch

from wfbench.channels.costs import Costs, remove_lowest
from wfbench.channels.pattern import Filter
from wfbench.channels.pruner import filters_of
from wfbench.composed.matched import Amounts, channels_taken, check_taken, taking_channels, weights_taken
from wfbench.data import Labeled, Unlabeled
from wfbench.draws import folds
from wfbench.errors import WfbenchError
from wfbench.licence import handed, strongest
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner, take_after
from wfbench.sparsity import Target, Unstructured

FOLDS = 4
MOST = 100
"""Samples that a choice looks at."""


@dataclass(frozen=True)
class Allocation(Pruner[Any]):
    """A method that takes as much of every layer as another one does, and chooses and updates as ever.

    Called `METHOD-as-OTHER`, as `obc-as-staged-magnitude`. Of single weights it takes as many of every layer; of whole
    channels as many of every coupled group, so that the filters, parameters or MACs that go are the other's, too.
    `METHOD-led-by-OTHER`, of whole channels, does so or goes half of the way from an even thinning; the record lists
    both trials, with `KL(dense‖pruned)` of at most 100 samples, each held out once [nats]. Where an even thinning is
    asked for, and from one sample, where none can be held out, it is `METHOD-as-OTHER`.

    Args:
        of: chooses the weights or channels, and what becomes of the others.
        amounts: says how many go of each layer.
        led: as far as held-out samples say.
    """

    source: ClassVar[str] = "one method's allocation with another's choice; not a published method"
    fidelity: ClassVar[str] = "equal to the method itself where both take as many; not a published configuration"
    of: Pruner[Any]
    amounts: Pruner[Any]
    led: bool = False

    def __post_init__(self) -> None:
        licence, both = strongest((self.of.licence, self.amounts.licence)), (self.of, self.amounts)
        name = f"{self.of.name}-{'led-by' if self.led else 'as'}-{self.amounts.name}"
        take_after(self, self.amounts, name, licence)
        known = (Filter.name,) if self.led else (Unstructured.name, Filter.name)
        patterns = tuple(one for one in known if all(one in method.patterns for method in both))
        if not patterns:
            reach = ", ".join(f"{one.name} reaches {' and '.join(one.patterns)}" for one in both)
            ways = "" if self.led else "two methods of single weights, or "
            raise WfbenchError(f"{self.name}: {reach}; give {ways}two of whole channels")
        if self.led and licence is type(None):
            raise WfbenchError(f"{self.name}: neither sees samples, by which the amounts are chosen")
        object.__setattr__(self, "patterns", patterns)

    def fit(self, net: Network, data: Any) -> Fitted:
        fitted = (one.fit(net, handed(one.licence, data)) for one in (self.of, self.amounts))
        return (_Led if self.led else _Allocating)(self, net, data, *fitted)


@dataclass(frozen=True)
class _Allocating:
    method: Allocation
    net: Network
    data: Labeled | Unlabeled
    of: Fitted
    amounts: Fitted

    def prune(self, target: Target) -> Pruned:
        given = self.amounts.prune(target)
        if target.sparsity == 0:
            return given
        if isinstance(target.pattern, Filter):
            return self.taking(self.of, target, channels_taken(given))
        counts = weights_taken(given.mask)
        amounts = Amounts(counts=tuple(counts.items()), sparsity=target.sparsity)
        found = self.of.prune(replace(target, pattern=amounts, scope="layer", of="weights"))
        check_taken(self.method.of.name, weights_taken(found.mask), self.method.amounts.name, counts, "weights")
        return found

    def taking(self, of: Fitted, target: Target, counts: Mapping[str, int]) -> Pruned:
        return taking_channels(of, self.method.of.name, target, counts, self.method.amounts.name)


@dataclass(frozen=True)
class _Led(_Allocating):
    """Both, fitted; without some of the samples the method is fitted when a target asks, and forgotten."""

    def prune(self, target: Target) -> Pruned:
        given = self.amounts.prune(target)
        if target.sparsity == 0:
            return given
        whole = channels_taken(given)
        if target.scope == "layer" or len(self.data) == self.data.copies:
            return self.taking(self.of, target, whole)
        even = channels_taken(self.of.prune(replace(target, scope="layer")))
        half = halfway(filters_of(target, self.method.name).costs(self.net), even, whole, target)
        changes = list(self._changes(target, half, whole))
        gains = torch.tensor([of_whole - of_half for of_half, of_whole in changes], dtype=torch.float64)
        nearer = bool(gains.mean() > gains.std() / len(gains) ** 0.5)  # not where either is no number
        tried = zip((0.5, 1.0), map(mean, zip(*changes, strict=True)), strict=True)
        trials = ({"led": share, "change": change} if isfinite(change) else {"led": share} for share, change in tried)
        return replace(self.taking(self.of, target, half if nearer else whole), trials=tuple(trials))

    def _changes(self, target: Target, *ways: Mapping[str, int]) -> Iterator[list[float]]:
        """`KL(dense‖pruned)` of every fold of the samples under each of the amounts, fitted on the others [nats]."""
        n, copies = min(MOST, len(self.data) // self.data.copies), self.data.copies
        for fold in folds(n, min(FOLDS, n)):
            held = range(fold.start * copies, fold.stop * copies)  # whole samples
            rest = self.data.take([i for i in range(n * copies) if i not in held])
            of = self.method.of.fit(self.net, handed(self.method.of.licence, rest))
            seen = Unlabeled(self.data.inputs[held.start : held.stop])
            yield [self.net.change(self.taking(of, target, counts).state, seen) for counts in ways]


def halfway(costs: Costs, even: Mapping[str, int], whole: Mapping[str, int], target: Target) -> dict[str, int]:
    """How many channels go of each group with `√(k_e k_g)^c` kept, where the two allocations keep `k_e` and `k_g`.

    As c grows, the j-th channel of a group of m goes where `m·√(k_e k_g)^c = m − j + ½`.

    Args:
        even, whole: how many channels go of each group.
    """
    times = {}
    for name, size in costs.groups.items():
        logs = sum(log(1 - counts.get(name, 0) / size) for counts in (even, whole)) / 2
        left = 1 - (torch.arange(size, dtype=torch.float64) + 0.5) / size
        times[name] = left.log().abs() / abs(logs)  # infinite where none goes
    return {name: len(gone) for name, gone in remove_lowest(times, costs, replace(target, scope="global")).items()}
