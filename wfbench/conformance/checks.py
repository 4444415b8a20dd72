"""The conformance kit: what every method must keep, checked on problems small enough for any of them.

`wfbench check TARGET` runs it; in a plugin's own tests:

    @parametrize_with_checks([MyMethod()])
    def test_my_method(pruner, check):
        check(pruner)
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from wfbench.conformance.trial import (
    BUDGET,
    CheckFailed,
    Crash,
    Outcome,
    Skipped,
    Trial,
    altered,
    random_states,
    same,
    science,
    trial_of,
)
from wfbench.data import Labeled
from wfbench.draws import draw
from wfbench.harness.reuse import checkpoint_digest
from wfbench.harness.runner import Runner
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.pruner import Pruner
from wfbench.recoveries.base import BatchNormReestimation

SPARSITIES = (0.3, 0.5, 0.75)
HIGH = 0.95
"""Asked of methods for single weights alone: every group of channels keeps one."""
DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))


def exact_sparsity(trial: Trial) -> None:
    """Weights and mask meet the target to one weight (one a layer), and no kept weight hides a removed one."""
    runner = Runner(trial.device)
    for sparsity in (*SPARSITIES, *([HIGH] if "unstructured" in trial.pruner.patterns else [])):
        trial.prune(sparsity, runner)


def zero_sparsity_is_identity(trial: Trial) -> None:
    """Sparsity 0 returns the dense weights bit for bit, the sign of a zero included."""
    module = trial.task.dense(0)
    weight = next(module.parameters()).data
    with altered(weight):
        weight.view(-1)[0] = -0.0
        everything = {name: torch.ones_like(w, dtype=torch.bool) for name, w in Network(module).weights.items()}
        dense = Pruned(module.state_dict(), everything)
        same(trial.prune(0.0), dense, "sparsity 0 changes the network; return the dense weights")


def monotone_sparsity(trial: Trial) -> None:
    """A higher target removes more, in whatever order targets are asked for from one fit."""
    runner = Runner(trial.device)
    up = [trial.prune(sparsity, runner) for sparsity in SPARSITIES]
    kept = [sum(int(mask.sum()) for mask in pruned.mask.values()) for pruned in up]
    if kept != sorted(kept, reverse=True) or len(set(kept)) < len(kept):
        raise CheckFailed(f"kept weights at sparsities {SPARSITIES}: {kept}; they must fall")
    for sparsity, before in zip(reversed(SPARSITIES), reversed(up), strict=True):
        same(before, trial.prune(sparsity, runner), "asking one fit for other targets in between changes the result")


def dense_network_untouched(trial: Trial) -> None:
    """Neither a weight nor a BatchNorm buffer of the dense network changes."""
    network = trial.network()
    before = checkpoint_digest(network.module())
    trial.alone(network, trial.samples())
    if checkpoint_digest(network.module()) != before:
        raise CheckFailed("the dense network changed; work on net.module() or net.state(), which are copies")


def same_seed_same_bits(trial: Trial) -> None:
    """The same case twice gives the same bits, in the network and in the record, on every device."""
    otherwise = "the same case twice differs; draw from torch's, numpy's or Python's generator"
    case = trial.case(recovery=BatchNormReestimation())
    for device in {*DEVICES, trial.device}:
        one, two = Runner(device), Runner(device)
        same(trial.prune(runner=one), trial.prune(runner=two), otherwise)
        first, second = science(trial.run(case, one)), science(trial.run(case, two))
        if different := [name for name in first if first[name] != second[name]]:
            raise CheckFailed(f"{otherwise} (in the record, {', '.join(different)} differ)")


def counts_are_the_licence(trial: Trial) -> None:
    """The record counts the samples and labels that the method's track allows, and is of that track."""
    record = trial.run(trial.case())
    allowed = {"data-free": (0, 0), "unlabeled": (BUDGET, 0), "labeled": (BUDGET, BUDGET)}[trial.pruner.track]
    if (record.track, record.n_inputs, record.n_labels) != (trial.pruner.track, *allowed):
        raise CheckFailed(
            f"the method calls itself {trial.pruner.track}, and was handed {record.n_inputs} inputs and "
            f"{record.n_labels} labels; leave `track` to the type"
        )


def global_random_state(trial: Trial) -> None:
    """The method draws from the global generators and never seeds them; the harness puts them back."""
    before = random_states()[:2]  # Python's generator belongs to others too, such as a run-time type checker
    trial.prune()
    if random_states()[:2] != before:
        raise CheckFailed("the global random state is not what it was before the run")
    ends, numpy, python = [], np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            for seed in (1, 2):
                torch.manual_seed(seed)
                np.random.seed(seed)
                random.seed(seed)
                trial.alone(trial.network(), trial.samples())
                ends.append(random_states())
    finally:
        np.random.set_state(numpy)
        random.setstate(python)
    for name, one, two in zip(("torch", "numpy", "Python"), *ends, strict=True):
        if one == two:
            raise CheckFailed(f"the method seeds {name}'s global generator; just draw, the harness seeds it")


def labels_unseen(trial: Trial) -> None:
    """Other labels before the draw, permuted or renamed, change no bit, unless the licence is `Labeled`."""
    if trial.pruner.licence is Labeled:
        raise Skipped("the method may read labels")
    before = trial.first
    labels = trial.split("train")[1]
    for others in (labels.roll(1), (labels + 1) % 3):
        with altered(labels):
            labels.copy_(others)
            same(before, trial.prune(), "the result depends on labels that the type does not allow")


def at_most_n_samples(trial: Trial) -> None:
    """The training samples outside the draw change no bit."""
    before = trial.first
    x, y = trial.split("train")
    drawn = draw((x, y), BUDGET, 0).inputs.flatten(1)
    outside = ~(x.flatten(1)[:, None] == drawn).all(2).any(1)
    with altered(x, y):
        x[outside], y[outside] = 3 - x[outside], 2 - y[outside]
        same(before, trial.prune(), f"the result depends on training samples beyond the budget of {BUDGET}")


def evaluation_unseen(trial: Trial) -> None:
    """The evaluation data change no bit."""
    before = trial.first
    x, y = trial.split("test")
    with altered(x, y):
        x.mul_(-1)
        y.copy_(2 - y)
        same(before, trial.prune(), "the result depends on the evaluation data")


def no_state_between_cases(trial: Trial) -> None:
    """Other cases in between change no bit, and another dense network gives another mask."""
    first, other = trial.first, trial.prune(replicate=1, seed=1, budget=BUDGET // 2)
    same(first, trial.prune(), "another case in between changes the result; keep nothing in the class or the module")
    if all(torch.equal(first.mask[name], other.mask[name]) for name in first.mask):
        raise CheckFailed("two dense networks get the same mask; keep nothing in the class or the module")


def sample_order_invariant(trial: Trial) -> None:
    """The order of the samples changes nothing but rounding, where the method claims so."""
    if not trial.pruner.order_invariant:
        raise Skipped("the method does not claim it (order_invariant = True)")
    network, data = trial.network(torch.float64), trial.samples()
    first = trial.alone(network, Labeled(data.inputs.double(), data.labels))
    second = trial.alone(network, Labeled(data.inputs.double().flip(0), data.labels.flip(0)))
    for name, weight in first.state.items():
        if not torch.allclose(weight, second.state[name], rtol=1e-6, atol=1e-8):
            raise CheckFailed(f"{name} depends on the order of the samples, and order_invariant is True")


def device_and_dtype_kept(trial: Trial) -> None:
    """The pruned network is on the dense one's device, in its dtype, for float32 and float64."""
    for device in {*DEVICES, trial.device}:
        for dtype in (torch.float32, torch.float64):
            network, data = replace(trial, device=device).network(dtype), trial.samples()
            pruned = trial.alone(network, Labeled(data.inputs.to(dtype), data.labels))
            for name, dense in network.state().items():
                found = pruned.state[name]
                if (found.dtype, found.device) != (dense.dtype, dense.device):
                    raise CheckFailed(f"{name} is {found.dtype} on {found.device}, not {dense.dtype} on {dense.device}")


def one_sample(trial: Trial) -> None:
    """One sample gives a network that can be scored, or a WfbenchError that says why not."""
    runner = Runner(trial.device)
    try:
        trial.prune(budget=1, runner=runner)
    except Skipped:
        return  # a clear error: the other side of the bargain
    trial.run(trial.case(budget=1), runner)


def equal_samples(trial: Trial) -> None:
    """Samples that are all the same, and channels that are dead, give a network that can be scored."""
    x, y = trial.split("train")
    dead = [parameter.data for parameter in trial.task.dense(0).parameters()][:3]
    with altered(x, y, *dead):
        x[:], y[:] = x[0].clone(), y[0].clone()
        for tensor in dead:
            tensor[:2] = 0
        trial.run(trial.case())


CHECKS: tuple[Callable[[Trial], None], ...] = (
    exact_sparsity,
    zero_sparsity_is_identity,
    monotone_sparsity,
    dense_network_untouched,
    same_seed_same_bits,
    counts_are_the_licence,
    global_random_state,
    labels_unseen,
    at_most_n_samples,
    evaluation_unseen,
    no_state_between_cases,
    sample_order_invariant,
    device_and_dtype_kept,
    one_sample,
    equal_samples,
)


def check(pruner: Pruner[Any], device: str = "cpu") -> list[Outcome]:
    """Every check on one method. One that crashes at once, or refuses all problems of the kit, fails `runs` alone."""
    try:
        trial = trial_of(pruner, device)
    except Skipped as refusal:
        return [Outcome(pruner.name, "runs", "failed", f"no check could run the method: {refusal}")]
    except Crash as crash:
        return [Outcome(pruner.name, "runs", "failed", f"{crash}; the other {len(CHECKS)} checks need it to run")]
    found = [Outcome(pruner.name, "runs", "ok")]
    crashes: dict[str, str] = {}
    for one in CHECKS:
        found.append(Outcome(pruner.name, one.__name__, *_verdict(one, trial, crashes)))
    return found


def _verdict(one: Callable[[Trial], None], trial: Trial, crashes: dict[str, str]) -> tuple[str, str]:
    """Status and reason; `crashes` names the first check that met a crash, by its place."""
    try:
        one(trial)
    except Skipped as reason:
        return "skipped", str(reason)
    except Crash as crash:
        first = crashes.setdefault(crash.place, one.__name__)
        return ("failed", str(crash)) if first == one.__name__ else ("skipped", f"the method crashes as in {first}")
    except CheckFailed as failure:
        return "failed", str(failure)
    except Exception as error:  # a stranger's method may raise anything
        return "failed", str(Crash(trial.pruner, error))
    return "ok", ""


def parametrize_with_checks(pruners: Iterable[Pruner[Any]]) -> pytest.MarkDecorator:
    """Parametrise a test by `pruner` and `check`, one item a pair; the test calls `check(pruner)`."""
    trials: dict[int, Trial] = {}

    def trial(pruner: Pruner[Any]) -> Trial:
        if id(pruner) not in trials:
            trials[id(pruner)] = trial_of(pruner)
        return trials[id(pruner)]

    def runs(pruner: Pruner[Any]) -> None:
        try:
            trial(pruner)
        except Skipped as refusal:
            raise CheckFailed(f"no check could run the method: {refusal}") from refusal

    def bound(one: Callable[[Trial], None]) -> Callable[[Pruner[Any]], None]:
        def run(pruner: Pruner[Any]) -> None:
            try:
                on = trial(pruner)
            except (Crash, Skipped) as problem:
                pytest.skip(f"the check `runs` fails: {problem}")
            try:
                one(on)
            except Skipped as reason:
                pytest.skip(str(reason))

        run.__name__ = one.__name__
        return run

    checks = [runs, *(bound(one) for one in CHECKS)]
    pairs = [(pruner, one) for pruner in pruners for one in checks]
    return pytest.mark.parametrize(
        ("pruner", "check"), pairs, ids=[f"{pruner.name}-{one.__name__}" for pruner, one in pairs]
    )
