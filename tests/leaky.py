"""Methods that break a rule by accident, each in a way that has happened in published code.

Their way to what they may not have is the kit's own task, as a real one's would be the task it is run on.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from wfbench import Fitted, Labeled, Network, Pruned, Pruner, ScorePruner, Target, Unlabeled
from wfbench.conformance.trial import problems
from wfbench.network import Params
from wfbench.pruner import ScoreFitted

TASK = problems()["convolutional"]


def labels_of(inputs: Tensor) -> Tensor:
    """Looks the samples up in the training set."""
    assert isinstance(TASK.train, tuple)
    x, y = TASK.train
    return torch.stack([y[(x == one).flatten(1).all(1)][0] for one in inputs])


def by_inputs(net: Network, inputs: Tensor) -> Params:
    """Scores that depend on every sample, and on their order."""
    logits = net.logits({}, inputs).double()
    weighted = float((logits[:, 0] * torch.arange(1, len(logits) + 1)).sum())
    return {name: (weight.double() * 1e3 + weighted).sin() for name, weight in net.weights.items()}


class LabelsThroughOrder(ScorePruner[Unlabeled]):
    """Sorts its samples by class."""

    name: ClassVar[str] = "labels-through-order"

    def scores(self, net: Network, data: Unlabeled) -> Params:
        return by_inputs(net, data.inputs[labels_of(data.inputs).argsort(stable=True)])


class LabelsThroughBalance(ScorePruner[Unlabeled]):
    """Uses at most two samples of every class."""

    name: ClassVar[str] = "labels-through-balance"

    def scores(self, net: Network, data: Unlabeled) -> Params:
        labels = labels_of(data.inputs)
        chosen = torch.cat([(labels == c).nonzero()[:2, 0] for c in range(3)])
        return by_inputs(net, data.inputs[chosen])


class LabelsThroughPriors(ScorePruner[Unlabeled]):
    """Weighs its scores by how frequent the classes are."""

    name: ClassVar[str] = "labels-through-priors"

    def scores(self, net: Network, data: Unlabeled) -> Params:
        assert isinstance(TASK.train, tuple)
        return by_inputs(net, data.inputs * float(TASK.train[1].bincount()[0]))


class ClaimsATrack(ScorePruner[Unlabeled]):
    """Reads samples, and would be listed among the methods that read none."""

    name: ClassVar[str] = "claims-a-track"
    track = "data-free"  # type: ignore[assignment]

    def scores(self, net: Network, data: Unlabeled) -> Params:
        return by_inputs(net, data.inputs)


class ReadsTest(ScorePruner[Labeled]):
    """Calibrates on evaluation inputs too."""

    name: ClassVar[str] = "reads-test"

    def scores(self, net: Network, data: Labeled) -> Params:
        assert isinstance(TASK.test, tuple)
        return by_inputs(net, torch.cat([data.inputs, TASK.test[0][:4]]))


class MoreData(ScorePruner[Unlabeled]):
    """Fills its samples up to a round batch."""

    name: ClassVar[str] = "more-data"

    def scores(self, net: Network, data: Unlabeled) -> Params:
        assert isinstance(TASK.train, tuple)
        return by_inputs(net, torch.cat([data.inputs, TASK.train[0][: 64 - len(data)]]))


class ReadsSplit(ScorePruner[None]):
    """Asks the task for a split, as a method with its own loader does."""

    name: ClassVar[str] = "reads-split"

    def scores(self, net: Network, data: None) -> Params:
        return by_inputs(net, TASK.train_set.take(range(10)).inputs)


class MutatesWeights(ScorePruner[None]):
    """Normalises the dense weights in place."""

    name: ClassVar[str] = "mutates-weights"

    def scores(self, net: Network, data: None) -> Params:
        return {name: weight.div_(weight.norm()).abs() for name, weight in net.weights.items()}


class MutatesBuffers(ScorePruner[Unlabeled]):
    """Runs the dense network in training mode, so that its BatchNorm statistics move."""

    name: ClassVar[str] = "mutates-buffers"

    def scores(self, net: Network, data: Unlabeled) -> Params:
        with net.hooked(lambda *_: None) as module:
            module.train()(data.inputs)
            module.eval()
        return {name: weight.abs() for name, weight in net.weights.items()}


@dataclass(frozen=True)
class Seeds(ScorePruner[None]):
    """Seeds a global generator to be reproducible."""

    name: str = "seeds-torch"
    seed: Callable[[int], object] = torch.manual_seed

    def scores(self, net: Network, data: None) -> Params:
        self.seed(0)
        return {name: torch.rand(weight.shape) for name, weight in net.weights.items()}


class Clock(ScorePruner[None]):
    """Counts how often it was asked."""

    name: ClassVar[str] = "clock"
    counter: ClassVar[Iterator[int]] = count()

    def scores(self, net: Network, data: None) -> Params:
        now = next(self.counter)
        return {name: (weight * 1e3 + now).sin() for name, weight in net.weights.items()}


def magnitudes(net: Network) -> ScoreFitted:
    return ScoreFitted(net, {name: weight.abs() for name, weight in net.weights.items()})


@dataclass(frozen=True)
class Wrapped:
    """A sound method's result, changed on its way out."""

    fitted: Fitted
    change: Callable[[Pruned], Pruned]

    def prune(self, target: Target) -> Pruned:
        pruned = self.fitted.prune(target)
        return self.change(pruned) if target.sparsity > 0 else pruned


class ClockInFigures(Pruner[None]):
    """The network is the same every time, and what it says of itself is not."""

    name: ClassVar[str] = "clock-in-figures"

    def fit(self, net: Network, data: None) -> Fitted:
        def timed(pruned: Pruned) -> Pruned:
            return replace(pruned, diagnostics={"damping": float(next(Clock.counter))})

        return Wrapped(magnitudes(net), timed)


def first(pruned: Pruned) -> str:
    return next(iter(pruned.mask))


def _hides_zeros(pruned: Pruned) -> Pruned:
    name = first(pruned)
    return Pruned({**pruned.state, name: torch.zeros_like(pruned.state[name])}, pruned.mask)


def _says_all_kept(pruned: Pruned) -> Pruned:
    return Pruned(pruned.state, {name: torch.ones_like(mask) for name, mask in pruned.mask.items()})


def _leaves_a_layer_out(pruned: Pruned) -> Pruned:
    return Pruned(pruned.state, {name: mask for name, mask in pruned.mask.items() if name != first(pruned)})


@dataclass(frozen=True)
class Lies(Pruner[None]):
    """The mask is not what was done to the weights."""

    name: str
    change: Callable[[Pruned], Pruned]

    def fit(self, net: Network, data: None) -> Fitted:
        return Wrapped(magnitudes(net), self.change)


@dataclass(frozen=True)
class Misses(Pruner[None]):
    """Prunes to another sparsity than asked."""

    name: str
    instead: Callable[[float], float]

    def fit(self, net: Network, data: None) -> Fitted:
        fitted, instead = magnitudes(net), self.instead

        class Off:
            def prune(self, target: Target) -> Pruned:
                return fitted.prune(replace(target, sparsity=instead(target.sparsity)))

        return Off()


class CachesScores(ScorePruner[None]):
    """Keeps its scores in the class, by layer name."""

    name: ClassVar[str] = "caches-scores"
    cache: ClassVar[Params] = {}

    def scores(self, net: Network, data: None) -> Params:
        for name, weight in net.weights.items():
            self.cache.setdefault(name, weight.abs())
        return self.cache


class RunningMean(ScorePruner[Unlabeled]):
    """Smooths its scores over the cases it has seen."""

    name: ClassVar[str] = "running-mean"
    mean: ClassVar[list[float]] = [0.0]

    def scores(self, net: Network, data: Unlabeled) -> Params:
        self.mean[0] = 0.5 * self.mean[0] + float(net.logits({}, data.inputs).sum())
        return {name: (weight * 1e3 + self.mean[0]).sin() for name, weight in net.weights.items()}


class TrustsOrder(ScorePruner[Unlabeled]):
    """Claims what it does not keep."""

    name: ClassVar[str] = "trusts-order"
    order_invariant: ClassVar[bool] = True

    def scores(self, net: Network, data: Unlabeled) -> Params:
        return by_inputs(net, data.inputs)


class Widens(Pruner[None]):
    """Returns float64 for a float32 network."""

    name: ClassVar[str] = "widens"

    def fit(self, net: Network, data: None) -> Fitted:
        def widen(pruned: Pruned) -> Pruned:
            return Pruned({name: tensor.double() for name, tensor in pruned.state.items()}, pruned.mask)

        return Wrapped(magnitudes(net), widen)


class NeedsTwo(ScorePruner[Unlabeled]):
    """Falls over on one sample, without a word of its own."""

    name: ClassVar[str] = "needs-two"

    def scores(self, net: Network, data: Unlabeled) -> Params:
        spread = data.inputs.flatten(1)[[0, 1]].std()
        return {name: weight.abs() * spread for name, weight in net.weights.items()}


class NeedsSpread(ScorePruner[Unlabeled]):
    """Divides by the spread of its samples."""

    name: ClassVar[str] = "needs-spread"

    def scores(self, net: Network, data: Unlabeled) -> Params:
        spread = data.inputs.flatten(1).std(0, correction=0).mean()
        return {name: weight.abs() * (spread / spread) for name, weight in net.weights.items()}


@dataclass(frozen=True)
class Forgets(Pruner[None]):
    """`prune` uses up what `fit` made."""

    name: ClassVar[str] = "forgets"

    def fit(self, net: Network, data: None) -> Fitted:
        scores = {name: weight.abs() for name, weight in net.weights.items()}

        class Once:
            def prune(self, target: Target) -> Pruned:
                pruned = ScoreFitted(net, scores).prune(target)
                for name, mask in pruned.mask.items():
                    scores[name] = scores[name] * mask.logical_not()
                return pruned

        return Once()


@dataclass(frozen=True)
class Trains(Pruner[None]):
    """Changes weights although nothing is to be removed."""

    name: str
    step: Callable[[Tensor], Tensor]

    def fit(self, net: Network, data: None) -> Fitted:
        fitted, step = magnitudes(net), self.step

        class Steps:
            def prune(self, target: Target) -> Pruned:
                pruned = fitted.prune(target)
                return Pruned({name: step(tensor) for name, tensor in pruned.state.items()}, pruned.mask)

        return Steps()


LEAKS: dict[str, list[Pruner]] = {
    "labels_unseen": [LabelsThroughOrder(), LabelsThroughBalance(), LabelsThroughPriors()],
    "counts_are_the_licence": [ClaimsATrack()],
    "evaluation_unseen": [ReadsTest()],
    "at_most_n_samples": [MoreData(), ReadsSplit()],
    "dense_network_untouched": [MutatesWeights(), MutatesBuffers()],
    "global_random_state": [
        Seeds(),
        Seeds("seeds-numpy", np.random.seed),
        Seeds("seeds-python", random.seed),
    ],
    "exact_sparsity": [
        Lies("hides-zeros", _hides_zeros),
        Lies("says-all-kept", _says_all_kept),
        Lies("leaves-a-layer-out", _leaves_a_layer_out),
        Misses("too-sparse", lambda sparsity: 1.25 * sparsity),
        Misses("never-above-90", lambda sparsity: min(0.9, sparsity)),
    ],
    "no_state_between_cases": [CachesScores(), RunningMean()],
    "sample_order_invariant": [TrustsOrder()],
    "device_and_dtype_kept": [Widens()],
    "one_sample": [NeedsTwo()],
    "monotone_sparsity": [Forgets()],
    "zero_sparsity_is_identity": [
        Trains("trains", lambda tensor: 0.9 * tensor),
        Trains("adds-nothing", lambda tensor: tensor + 0),  # and so takes the sign off a zero
    ],
    "equal_samples": [NeedsSpread()],
    "same_seed_same_bits": [Clock(), ClockInFigures()],
}
