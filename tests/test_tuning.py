"""Recoveries by gradient descent: the loss is the one named, the mask holds, nothing else moves."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.cases import blob_network, blobs
from tests.test_repair import magnitude
from wfbench import Labeled, Network, Pruned, Unlabeled
from wfbench.network import NORMS
from wfbench.recoveries import descent
from wfbench.recoveries.base import BatchNormReestimation, Recovery
from wfbench.recoveries.descent import (
    STEP_BATCH,
    BriefDistillation,
    FeatureDistillation,
    FineTuning,
    LogitDistillation,
)
from wfbench.recoveries.names import RECOVERIES

KINDS = [FineTuning, LogitDistillation, FeatureDistillation]


def problem(n: int = 20) -> tuple[Network, Labeled]:
    x, y = blobs(n, 5)
    return Network(blob_network().double()), Labeled(x.double(), y)


def handed(recovery: Recovery, data: Labeled) -> Labeled | Unlabeled:
    return data if recovery.licence is Labeled else Unlabeled(data.inputs)


def start(net: Network, data: Labeled, sparsity: float) -> Pruned:
    """Magnitude's network with re-estimated statistics: where the descent starts; doing it again changes nothing."""
    return BatchNormReestimation().apply(net, magnitude(net, sparsity), Unlabeled(data.inputs))


def features(net: Network, state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    module = net.module()
    module.load_state_dict(state)
    found = []
    for layer in module:
        x = layer(x)
        if isinstance(layer, (torch.nn.Linear, *NORMS)):
            found.append(x)
    return found


def value(kind: type, net: Network, state: dict[str, Tensor], data: Labeled) -> Tensor:
    """The loss, written out."""
    found, dense = features(net, state, data.inputs), features(net, net.state(), data.inputs)
    if kind is FineTuning:
        return functional.cross_entropy(found[-1], data.labels)
    if kind is LogitDistillation:
        p = dense[-1].softmax(1)
        return (p * (p.log() - found[-1].log_softmax(1))).sum(1).mean()
    return sum((a - b).square().sum() / b.square().sum() for a, b in zip(found, dense, strict=True)) / len(found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_step_is_adams_along_the_gradient_of_the_loss_written_out(kind: type) -> None:
    """Adam's first step is the rate times the gradient's sign, wherever the gradient is far above its ε of 1e-8."""
    net, data = problem()
    pruned = start(net, data, 0.5)
    recovery = kind(steps=1, rate=1e-4)
    after = recovery.apply(net, pruned, handed(recovery, data)).state
    state = {name: tensor.clone() for name, tensor in pruned.state.items()}
    for name in net.movable:
        state[name].requires_grad_()
    module = net.module().requires_grad_(True)
    module.load_state_dict(pruned.state)
    found = torch.func.functional_call(module, {name: state[name] for name in net.movable}, (data.inputs,))
    if kind is FeatureDistillation:
        epsilon = 1e-6
        name = "3.bias"
        for index in range(3):
            moved = {key: tensor.detach().clone() for key, tensor in pruned.state.items()}
            moved[name][index] += epsilon
            slope = (value(kind, net, moved, data) - value(kind, net, pruned.state, data)) / epsilon
            torch.testing.assert_close(after[name][index] - pruned.state[name][index], -1e-4 * slope.sign())
        return
    p = net.logits({}, data.inputs).softmax(1)
    loss = (
        functional.cross_entropy(found, data.labels)
        if kind is FineTuning
        else (p * (p.log() - found.log_softmax(1))).sum(1).mean()
    )
    for name, gradient in zip(net.movable, torch.autograd.grad(loss, [state[n] for n in net.movable]), strict=True):
        moved = after[name] - pruned.state[name]
        kept = pruned.mask.get(name, torch.ones_like(gradient, dtype=torch.bool)) & (gradient.abs() > 1e-4)
        torch.testing.assert_close(moved[kept], -1e-4 * gradient[kept].sign(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_the_mask_holds_and_re_estimated_statistics_stay(kind: type) -> None:
    net, data = problem()
    pruned = start(net, data, 0.6)
    recovery = kind(steps=100, rate=1e-2)
    found = recovery.apply(net, pruned, handed(recovery, data))
    assert float(value(kind, net, found.state, data)) < 0.75 * float(value(kind, net, pruned.state, data))
    for name, mask in pruned.mask.items():
        assert not found.state[name][~mask].any()
    for name, tensor in pruned.state.items():
        if name not in net.movable:
            assert torch.equal(found.state[name], tensor), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held", [0, 10**9])
def test_a_step_in_parts_moves_as_one_of_all_its_samples(
    kind: type, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, so that Adam's division by small numbers does not blow rounding up."""
    net, data = problem(90)
    pruned, recovery = start(net, data, 0.6), kind(steps=6)

    def moved() -> Pruned:
        torch.manual_seed(0)
        return recovery.apply(net, pruned, handed(recovery, data))

    whole, seen = moved(), []
    numbers = sum(one.shape[1] for one in features(net, net.state(), data.inputs))
    monkeypatch.setattr(descent, "NUMBERS", 25 * numbers)
    monkeypatch.setattr(descent, "HELD", held)
    with net.hooked(lambda name, layer, inputs, output: seen.append(len(output))):
        parts = moved()
    assert set(seen) >= {25, 14, 1, 90}  # of 64 and of 26; the one that is measured; all, for the statistics
    for name, tensor in whole.state.items():
        torch.testing.assert_close(parts.state[name], tensor, rtol=1e-7, atol=1e-9)


def test_a_brief_distillation_ends_half_way_to_the_statistics_of_the_moved_weights() -> None:
    """Weights are those of the descent alone; every norm has the mean of what it read before and what it reads now."""
    net, data = problem()
    pruned, x = start(net, data, 0.6), Unlabeled(data.inputs)
    recovery = BriefDistillation(steps=15, rate=2e-3)
    torch.manual_seed(0)
    found = recovery.apply(net, pruned, x)
    torch.manual_seed(0)
    descended = FeatureDistillation(steps=15, rate=2e-3, batch=recovery.batch).apply(net, pruned, x)
    assert all(torch.equal(found.state[name], descended.state[name]) for name in net.movable)
    assert all(torch.equal(found.state[n], t) for n, t in pruned.state.items() if not t.is_floating_point())
    module, seen, count = net.module(found.state), data.inputs, 0
    for name, layer in module.named_children():
        if isinstance(layer, torch.nn.BatchNorm1d):
            mean, var = (pruned.state[f"{name}.running_{what}"] for what in ("mean", "var"))
            torch.testing.assert_close(found.state[f"{name}.running_mean"], (mean + seen.mean(0)) / 2)
            torch.testing.assert_close(found.state[f"{name}.running_var"], (var + seen.var(0)) / 2)
            assert not torch.allclose(seen.mean(0), mean)
            count += 1
            layer.train()
        seen = layer(seen).detach()
    assert count > 0


def test_batches_go_through_every_sample_before_any_comes_again() -> None:
    net, data = problem(150)
    seen: list[Tensor] = []

    class Watches(LogitDistillation):
        def loss(self, net: Network, data: Unlabeled | Labeled) -> object:
            inner = super().loss(net, data)
            return lambda state, at: (seen.append(at), inner(state, at))[1]

    Watches(steps=6).apply(net, magnitude(net, 0.5), Unlabeled(data.inputs))
    assert [len(at) for at in seen] == [STEP_BATCH, STEP_BATCH, 22] * 2
    for start in (0, 3):
        assert torch.equal(torch.cat(seen[start : start + 3]).sort().values, torch.arange(150))


def test_every_recovery_has_its_licence_and_step_budget() -> None:
    licences = {name: recovery.track for name, recovery in RECOVERIES.items()}
    assert licences == {
        "none": "data-free",
        "batchnorm": "unlabeled",
        "correction": "unlabeled",
        "repair": "unlabeled",
        "distill-batchnorm": "unlabeled",
        "finetune-200": "labeled",
        "finetune-2000": "labeled",
        "distill-logits-200": "unlabeled",
        "distill-logits-2000": "unlabeled",
        "distill-200": "unlabeled",
        "distill-2000": "unlabeled",
    }
    for name, recovery in RECOVERIES.items():
        if (steps := name.rpartition("-")[2]).isdigit():
            assert recovery.steps == int(steps)
