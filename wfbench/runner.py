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
from wfbench.data import Labeled, Unlabeled, draw, sealed
from wfbench.errors import WfbenchError
from wfbench.evaluate import Scores, evaluate
from wfbench.network import Network, Params, flatten
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
            BrokenRule: the method changed the dense network, read a split, or its mask or sparsity is not what it says.
        """
        dense = self._dense_of(case)
        data = draw(case.task.train_set, case.budget, case.seed)
        found: dict[str, Any] = {}
        reason = None
        try:
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

    def prune(self, case: Case) -> tuple[Pruned, float]:
        """The pruned network before any recovery, and the seconds that fitting and pruning took.

        Raises:
            CaseFailed: the method has no result.
            BrokenRule: as `run`.
        """
        dense = self._dense_of(case)
        with self._watched(case, dense):
            _check_finite(dense.network.state(), "dense")
            fitted, fitting = self._fit(case, dense, draw(case.task.train_set, case.budget, case.seed))
            pruned, pruning = self._prune(case, fitted)
            _check_finite(pruned.state, "pruned")
            _achieved(case, dense.network, pruned)
        return pruned, fitting + pruning

    def _measure(self, case: Case, dense: Dense, data: Labeled) -> dict[str, Any]:
        pruned, seconds = self.prune(case)
        began = time.perf_counter()
        with self._watched(case, dense), _stage(case, "recovery"):
            recovered = case.recovery.apply(dense.network, pruned, _handed(case.recovery.licence, data))  # type: ignore[type-var]
        seconds += time.perf_counter() - began
        _check_finite(recovered.state, "pruned")
        if dense.scores is None:
            dense.scores = self._evaluate(case, dense.module, dense.digest)
            try:
                case.task.check_registered(case.replicate, dense.scores)
            except WfbenchError as error:
                raise BrokenRule(str(error)) from error
        achieved = _achieved(case, dense.network, recovered)
        module = dense.network.module()
        module.load_state_dict(recovered.state)
        scores = self._evaluate(case, module, checkpoint_digest(module))
        if not math.isfinite(scores.loss):
            raise CaseFailed("the pruned network's logits contain NaN or infinite values")
        return {
            "achieved_sparsity": achieved,
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
        with _stage(case, "fit"):
            fitted: Fitted = case.method.fit(net, _handed(case.method.licence, data))
        seconds = time.perf_counter() - began + net.saved_seconds
        self._fitted = (which, fitted, seconds)
        return fitted, seconds

    def _prune(self, case: Case, fitted: Fitted) -> tuple[Pruned, float]:
        if self._pruned is None or self._pruned[0] != case.target:
            began = time.perf_counter()
            with _stage(case, "prune"):
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

    @contextmanager
    def _watched(self, case: Case, dense: Dense) -> Iterator[None]:
        """Whatever happens, the dense network is as it was; nothing a rule-breaking method touched outlives it."""
        try:
            try:
                yield
            finally:
                if checkpoint_digest(dense.network._module) != dense.digest:
                    raise BrokenRule(f"{case.method.name} changed the dense network; methods must work on a copy")
        except BrokenRule:
            self._dense.pop((case.task.name, case.replicate), None)
            self._fitted = self._pruned = None
            raise


def run(case: Case, device: str = "cpu") -> Record:
    """Run one case on its own."""
    return Runner(device).run(case)


def _handed(licence: type, data: Labeled) -> Labeled | Unlabeled | None:
    """What a licence allows of the draw, in storage of its own."""
    if licence is Labeled:
        return Labeled(data.inputs.clone(), data.labels.clone())
    return Unlabeled(data.inputs.clone()) if licence is Unlabeled else None


@contextmanager
def _stage(case: Case, stage: str) -> Iterator[None]:
    """Seeded and with every split sealed; whatever a method raises is the reason of a failed record."""
    failure: Exception | None = None
    with _seeded(case), sealed() as asked:
        try:
            yield
        except Exception as error:
            failure = error
    if asked:
        raise BrokenRule(f"{case.method.name} read {asked[0]} in {stage}; a method uses only what it is handed")
    if failure is not None:
        raise CaseFailed(f"{stage}: {type(failure).__name__}: {failure}") from failure


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


def _check_finite(state: Params, what: str) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CaseFailed(f"{name} of the {what} network contains NaN or infinite values")


def _achieved(case: Case, net: Network, pruned: Pruned) -> float:
    """The sparsity, counted on the weights; these and the mask meet the target to one weight, or one a layer."""
    target, name = case.target, case.method.name
    missing = (net.state().keys() - pruned.state.keys()) | (net.weights.keys() - pruned.mask.keys())
    if missing:
        raise BrokenRule(f"{name} returned no state or mask for {', '.join(sorted(missing))}")
    counts: dict[str, dict[str, int]] = {"zero": {}, "outside the mask": {}}
    for layer, dense in net.weights.items():
        masked = ~pruned.mask[layer]
        counts["zero"][layer] = int(((pruned.state[layer] == 0) & ((dense != 0) | masked)).sum())
        counts["outside the mask"][layer] = int(masked.sum())
    sizes = {layer: dense.numel() for layer, dense in net.weights.items()}
    for what, found in counts.items():
        groups = list(sizes) if target.scope == "layer" else []
        parts = [([layer], f"of {layer}") for layer in groups] or [(list(sizes), "in all")]
        for layers, where in parts:
            removed, weights = sum(found[layer] for layer in layers), sum(sizes[layer] for layer in layers)
            if abs(removed - target.sparsity * weights) > 1:
                raise BrokenRule(
                    f"{name}: {removed} of {weights} weights {where} are {what}; "
                    f"the target is sparsity {target.sparsity}"
                )
    return sum(counts["zero"].values()) / sum(sizes.values())


def _overlap(net: Network, pruned: Pruned) -> float:
    """Share of the kept weights that global magnitude would keep at the same sparsity."""
    kept = flatten({name: pruned.mask[name] for name in net.weights})
    sparsity = 1 - int(kept.sum()) / len(kept)
    magnitude = keep_largest({name: weight.abs() for name, weight in net.weights.items()}, Target(sparsity))
    return int((kept & flatten(magnitude)).sum()) / max(1, int(kept.sum()))
