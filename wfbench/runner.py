"""`run(case)`: draw, fit, prune, recover, score. The only file that sees every stage."""

import hashlib
import math
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from wfbench.case import Case, Record, checkpoint_digest, environment, options, reuse_key
from wfbench.data import Labeled, Unlabeled, draw
from wfbench.errors import WfbenchError
from wfbench.evaluate import Scores, evaluate
from wfbench.network import Network, flatten
from wfbench.pruner import Fitted, Pruned
from wfbench.sparsity import Target, keep_largest


class BrokenRule(Exception):
    """A method or the harness broke a rule of the benchmark; the run stops being a result."""


class CaseFailed(Exception):
    """The case has no result; the message is the record's reason."""


class Dense:
    """A task's dense network on the device, with what never changes about it."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.module = deepcopy(case.task.dense(case.replicate)).to(device).eval()
        self.digest = checkpoint_digest(self.module)
        self.network = Network(self.module)
        self.network.shared = {}
        self.scores: Scores | None = None


class Runner:
    """Runs cases and keeps what they share: dense networks, gradients, a fitted method, scores of equal networks.

    Sharing changes no science field; the order of cases decides only how much is saved.
    """

    def __init__(self, device: str = "cpu") -> None:
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise WfbenchError(f'device "{device}" cannot be used here ({reason}); use cpu or cuda') from error
        self._dense: dict[tuple[str, int], Dense] = {}
        self._shared_for: tuple[Any, ...] = ()
        self._fitted: tuple[tuple[Any, ...], Fitted, float] | None = None
        self._pruned: tuple[Target, Pruned, float] | None = None
        self._scores: dict[tuple[str, str], Scores] = {}

    def key(self, case: Case) -> str:
        """The reuse key of the case's record."""
        dense = self._dense_of(case)
        return reuse_key(case, dense.module, dense.digest, self.device, sys.modules[__name__])

    def run(self, case: Case, suite: str = "") -> Record:
        """The record of the case; failures of the method are records too.

        Raises:
            BrokenRule: the method changed the dense network, or its sparsity is not the target's.
        """
        dense = self._dense_of(case)
        data = draw(case.task.train_set, case.budget, case.seed)
        found: dict[str, Any] = {}
        reason = None
        try:
            self._check_finite(dense.network, "dense")
            found |= self._measure(case, dense, data)
        except CaseFailed as failure:
            reason = str(failure)
        handed = (case.method.licence, case.recovery.licence)
        return Record(
            suite=suite,
            **case.identity(),
            n_inputs=len(data) if Labeled in handed or Unlabeled in handed else 0,
            n_labels=len(data) if Labeled in handed else 0,
            status="ok" if reason is None else "failed",
            reason=reason,
            options=options(case.method),
            environment=environment(self.device),
            key=self.key(case),
            **found,
        )

    def _measure(self, case: Case, dense: Dense, data: Labeled) -> dict[str, Any]:
        fitted, seconds = self._fit(case, dense, data)
        pruned, pruning = self._prune(case, fitted)
        began = time.perf_counter()
        with _seeded(case), _guarded("recovery"):
            recovered = case.recovery.apply(dense.network, pruned, _handed(case.recovery.licence, data))  # type: ignore[type-var]
        seconds += pruning + time.perf_counter() - began
        self._check_untouched(case, dense)
        for name, tensor in recovered.state.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise CaseFailed(f"{name} of the pruned network contains NaN or infinite values")
        if dense.scores is None:
            dense.scores = self._evaluate(case, dense.module, dense.digest)
            _check_registered(case, dense.scores)
        module = dense.network.module()
        module.load_state_dict(recovered.state)
        scores = self._evaluate(case, module, checkpoint_digest(module))
        if not math.isfinite(scores.loss):
            raise CaseFailed("the pruned network's logits contain NaN or infinite values")
        return {
            "achieved_sparsity": _achieved(case.target, dense.network, recovered),
            "accuracy": scores.accuracy,
            "loss": scores.loss,
            "dense_accuracy": dense.scores.accuracy,
            "dense_loss": dense.scores.loss,
            "magnitude_overlap": _overlap(dense.network, recovered),
            "mean_leverage": pruned.diagnostics.get("mean_leverage"),
            "seconds": seconds,
        }

    def _fit(self, case: Case, dense: Dense, data: Labeled) -> tuple[Fitted, float]:
        net = dense.network
        share = (case.task.name, case.replicate, case.seed)
        if share != self._shared_for:
            net.shared = {}
            self._shared_for = share
        which = (*share, case.budget, case.method)
        if self._fitted is not None and self._fitted[0] == which:
            return self._fitted[1], self._fitted[2]
        self._fitted = self._pruned = None
        net.saved_seconds = 0.0
        began = time.perf_counter()
        with _seeded(case), _guarded("fit"):
            fitted: Fitted = case.method.fit(net, _handed(case.method.licence, data))
        seconds = time.perf_counter() - began + net.saved_seconds
        self._fitted = (which, fitted, seconds)
        return fitted, seconds

    def _prune(self, case: Case, fitted: Fitted) -> tuple[Pruned, float]:
        if self._pruned is None or self._pruned[0] != case.target:
            began = time.perf_counter()
            with _seeded(case), _guarded("prune"):
                pruned = fitted.prune(case.target)
            self._pruned = (case.target, pruned, time.perf_counter() - began)
        return self._pruned[1], self._pruned[2]

    def _dense_of(self, case: Case) -> Dense:
        which = (case.task.name, case.replicate)
        if which not in self._dense:
            self._dense[which] = Dense(case, self.device)
        return self._dense[which]

    def _evaluate(self, case: Case, module: nn.Module, digest: str) -> Scores:
        which = (case.task.name, digest)
        if which not in self._scores:
            self._scores[which] = evaluate(module, case.task.test_set)
        return self._scores[which]

    @staticmethod
    def _check_finite(net: Network, what: str) -> None:
        for name, tensor in net.state().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise CaseFailed(f"{name} of the {what} network contains NaN or infinite values")

    def _check_untouched(self, case: Case, dense: Dense) -> None:
        if checkpoint_digest(dense.network._module) != dense.digest:
            self._dense.pop((case.task.name, case.replicate))
            self._fitted = self._pruned = None
            raise BrokenRule(f"{case.method.name} changed the dense network; methods must work on a copy")


def run(case: Case, device: str = "cpu") -> Record:
    """Run one case on its own."""
    return Runner(device).run(case)


def _handed(licence: type, data: Labeled) -> Labeled | Unlabeled | None:
    """What a licence allows of the draw, in storage of its own."""
    if licence is Labeled:
        return Labeled(data.inputs.clone(), data.labels.clone())
    return Unlabeled(data.inputs.clone()) if licence is Unlabeled else None


@contextmanager
def _guarded(stage: str) -> Iterator[None]:
    """Whatever a method raises is the reason of a failed record."""
    try:
        yield
    except Exception as error:
        raise CaseFailed(f"{stage}: {type(error).__name__}: {error}") from error


@contextmanager
def _seeded(case: Case) -> Iterator[None]:
    """Global generators seeded from (task, budget, seed, method, replicate), and put back afterwards."""
    parts = (case.task.name, case.budget, case.seed, case.method.name, case.replicate)
    value = int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(value)
        random.seed(value)
        np.random.seed(value)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _achieved(target: Target, net: Network, pruned: Pruned) -> float:
    """The sparsity counted on the weights, held against the target: to one weight, or one a layer."""
    removed, weights = 0, 0
    for name, dense in net.weights.items():
        zero = (pruned.state[name] == 0) & ((dense != 0) | ~pruned.mask[name])
        removed, weights = removed + int(zero.sum()), weights + dense.numel()
        if target.scope == "layer" and abs(int(zero.sum()) - target.sparsity * dense.numel()) > 1:
            raise BrokenRule(f"{name} has sparsity {float(zero.float().mean()):.6f}, the target is {target.sparsity}")
    if target.scope == "global" and abs(removed - target.sparsity * weights) > 1:
        raise BrokenRule(f"{removed} of {weights} weights are zero, the target is sparsity {target.sparsity}")
    return removed / weights


def _overlap(net: Network, pruned: Pruned) -> float:
    """Share of the kept weights that global magnitude would keep at the same sparsity."""
    kept = flatten({name: pruned.mask[name] for name in net.weights})
    sparsity = 1 - int(kept.sum()) / len(kept)
    magnitude = keep_largest({name: weight.abs() for name, weight in net.weights.items()}, Target(sparsity))
    return int((kept & flatten(magnitude)).sum()) / max(1, int(kept.sum()))


def _check_registered(case: Case, scores: Scores) -> None:
    """The dense network reproduces its registered accuracy to two images."""
    registered = case.task.accuracies
    if registered and abs(scores.correct - registered[case.replicate] * scores.total) > 2.0001:
        raise BrokenRule(
            f"{case.task.name}, checkpoint {case.replicate}: {scores.correct} of {scores.total} right, registered "
            f"accuracy is {registered[case.replicate]}; do not trust this machine's numbers before that is explained"
        )
