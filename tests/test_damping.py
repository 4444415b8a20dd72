"""Damping: what a name says, relative to what, and chosen by which rule."""

import itertools
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.cases import blob_network, blob_target, blob_task, blobs
from wfbench import (
    Case,
    CrossValidated,
    Labeled,
    Network,
    Pruned,
    Pruner,
    Relative,
    Target,
    Unlabeled,
    WfbenchError,
    WoodFisher,
    WoodFisherUnlabeled,
    fisher_rows,
    run,
)
from wfbench.composed.tuned import Tuned
from wfbench.errors import BrokenRule
from wfbench.harness.plugins import discover
from wfbench.network import flatten
from wfbench.pruner import TRIALS
from wfbench.recoveries.base import NoRecovery

REGISTRY = discover()
TUNABLE = [name for name, pruner in sorted(REGISTRY.pruners.items()) if hasattr(pruner, "damping")]


def double(n: int = 20) -> tuple[Network, Labeled]:
    x, y = blobs(n, 3)
    return Network(blob_network().double()), Labeled(x.double(), y)


@pytest.mark.parametrize("share", [1e-3, 0.5, 20.0])
@pytest.mark.parametrize("block", [None, "layer"])
def test_relative_damping_is_a_share_of_the_mean_diagonal(share: float, block: str | None) -> None:
    net, data = double()
    rows = fisher_rows(net, data)
    absolute = share * float((rows.T @ rows).diagonal().mean())
    for target in (Target(0.4), Target(0.8)):
        found = WoodFisher(damping=Relative(share), block_size=block).fit(net, data).prune(target)
        expected = WoodFisher(damping=absolute, block_size=block).fit(net, data).prune(target)
        assert found.diagnostics["damping"] == pytest.approx(absolute, rel=1e-12)
        assert found.diagnostics["damping_ratio"] == pytest.approx(share, rel=1e-12)
        for name in net.weights:
            torch.testing.assert_close(found.state[name], expected.state[name], rtol=1e-8, atol=1e-10)


def test_nothing_is_relative_to_gradients_that_vanish() -> None:
    module = blob_network()
    module[3].bias.data += torch.tensor([1e6, 0, 0])
    with pytest.raises(WfbenchError, match="all gradients vanish, so no damping is relative"):
        WoodFisher(damping=Relative(0.1)).fit(
            Network(module), Labeled(blobs(8, 1)[0], torch.zeros(8, dtype=torch.int64))
        )


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_a_damping_that_is_no_positive_number_is_an_error(bad: float) -> None:
    for make in (lambda: WoodFisher(damping=bad), lambda: Relative(bad), lambda: CrossValidated((bad,))):
        with pytest.raises(WfbenchError, match="positive and finite"):
            make()


def held_out(net: Network, weights: dict[str, Tensor], data: Labeled | Unlabeled) -> float:
    """Rise of the cross-entropy, or KL(dense‖pruned), by loops over the samples."""
    module, total = net.module(), 0.0
    before = [module(x[None])[0].detach() for x in data.inputs]
    module.load_state_dict({**net.state(), **weights})
    for i, dense in enumerate(before):
        p, q = dense.softmax(0), module(data.inputs[i][None])[0].detach().softmax(0)
        if isinstance(data, Labeled):
            total += float(p[data.labels[i]].log() - q[data.labels[i]].log())
        else:
            total += float((p * (p / q).log()).sum())
    return total / len(data)


@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("n", [4, 9, 20])
def test_cross_validation_takes_the_least_change_on_held_out_folds(labeled: bool, n: int) -> None:
    net, both = double(n)
    data: Any = both if labeled else Unlabeled(both.inputs)
    make: Any = WoodFisher if labeled else WoodFisherUnlabeled
    search, target = CrossValidated((0.1, 10.0, 1e4), folds=3), Target(0.6)
    changes = []
    for factor in search.factors:
        total = 0.0
        for fold in torch.arange(n).tensor_split([n // 3, n * 2 // 3]):
            rest = torch.tensor([i for i in range(n) if i not in fold.tolist()])
            parts = [Labeled(both.inputs[at], both.labels[at]) for at in (rest, fold)]
            train, held = parts if labeled else [Unlabeled(part.inputs) for part in parts]
            state = make(damping=1e-5 * factor).fit(net, train).prune(target).state
            total += held_out(net, dict(state), held) * len(fold)
        changes.append(total / n)
    best = 1e-5 * search.factors[min(range(3), key=changes.__getitem__)]
    found = make(damping=search).fit(net, data).prune(target)
    assert found.diagnostics["damping"] == pytest.approx(best)
    assert [trial["damping"] for trial in found.trials] == pytest.approx([1e-5 * factor for factor in search.factors])
    assert [trial["change"] for trial in found.trials] == pytest.approx(changes, rel=1e-6)
    expected = make(damping=best).fit(net, data).prune(target)
    for name in net.weights:
        assert torch.equal(found.state[name], expected.state[name])


@pytest.mark.parametrize("method", TUNABLE)
def test_rule_15_every_damping_is_chosen_among_as_many_values_and_every_trial_is_logged(method: str) -> None:
    pruner = REGISTRY.pruner(f"{method}[damping=cross-validated]")
    assert isinstance(pruner, Tuned)
    record = run(Case(blob_task(), 8, 0, 0, blob_target(pruner, 0.5), pruner, NoRecovery()))
    assert record.status == "ok", record.reason
    assert record.trials == len(record.tried) == TRIALS
    assert (record.n_inputs, record.track) == (8, REGISTRY.pruner(method).track)
    changes = {trial["damping"]: trial.get("change", float("inf")) for trial in record.tried}
    best = min(changes, key=changes.__getitem__)
    if method.endswith("-logits"):  # λ is a share of the mean diagonal there, and so are the values tried
        chosen = REGISTRY.pruner(f"{method}[damping=relative:{best}]")
        best = run(Case(blob_task(), 8, 0, 0, blob_target(chosen, 0.5), chosen, NoRecovery())).damping or 0.0
    assert record.damping == pytest.approx(best)


def test_rule_15_a_method_without_hyper_parameters_uses_one() -> None:
    for method in ("magnitude", "woodfisher"):
        record = run(Case(blob_task(), 8, 0, 0, Target(0.5), REGISTRY.pruner(method), NoRecovery()))
        assert (record.trials, record.tried) == (1, None)


class TriesTooOften(Pruner[None]):
    """One value more than the cap."""

    name: ClassVar[str] = "tries-too-often"

    def fit(self, net: Network, data: None) -> Any:
        inner = REGISTRY.pruner("magnitude").fit(net, None)

        class Greedy:
            def prune(self, target: Target) -> Pruned:
                return replace(inner.prune(target), trials=({"damping": 1.0},) * (TRIALS + 1))

        return Greedy()


def test_rule_15_more_trials_than_the_cap_are_a_broken_rule() -> None:
    with pytest.raises(BrokenRule, match=f"tried {TRIALS + 1} values"):
        run(Case(blob_task(), 8, 0, 0, Target(0.5), TriesTooOften(), NoRecovery()))
    with pytest.raises(WfbenchError, match=f"a method may try {TRIALS}"):
        WoodFisher(damping=CrossValidated((1.0,) * (TRIALS + 1))).fit(*double())


def test_too_few_samples_are_an_error() -> None:
    net, data = double(3)
    with pytest.raises(WfbenchError, match="at least 4 samples, not 3"):
        WoodFisher(damping=CrossValidated()).fit(net, data)


def test_a_backed_off_update_costs_no_more_on_the_samples_than_no_update() -> None:
    """λ = 1e-9 with few rows: the full update leaves the region where the quadratic holds."""
    net, target, steps = Network(blob_network().double()), Target(0.7), []
    full = WoodFisher(damping=1e-9, update="joint")
    for n, seed in itertools.product((2, 8), range(4)):
        x, y = blobs(n, 10 + seed)
        data = Labeled(x.double(), y)
        found = replace(full, back_off=True).fit(net, data).prune(target)
        kept = {name: torch.where(found.mask[name], weight, 0) for name, weight in net.weights.items()}
        assert net.change(found.state, data) <= net.change(kept, data) + 1e-12
        steps.append(found.diagnostics["step"])
        whole = full.fit(net, data).prune(target)
        move = flatten({name: whole.state[name] - kept[name] for name in kept})
        done = flatten({name: found.state[name] - kept[name] for name in kept})
        torch.testing.assert_close(done, steps[-1] * move, rtol=1e-9, atol=1e-12)
    assert min(steps) < 1
