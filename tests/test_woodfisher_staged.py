"""WoodFisher in stages: Jacobian, joint update and stages against autograd, a dense ridge solution, closed forms."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from tests.cases import REGISTRY, trained_looking
from wfbench import Filter, Network, Pruned, Target, Unlabeled, WfbenchError, fisher_rows
from wfbench.curvature import rows
from wfbench.deploy.direct import USUAL
from wfbench.network import flatten
from wfbench.recoveries.base import BatchNormReestimation
from wfbench.recoveries.repair import LeastSquaresRepair
from wfbench.sparsity import Unit, keep_largest
from wfbench.woodfisher.restored import WoodFisherStaged, joint_update


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def normed() -> nn.Module:
    first = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(64, 3))


def problem(build: Callable[[], nn.Module], n: int, sparsity: float) -> tuple[Network, Pruned, Unlabeled]:
    net = Network(trained_looking(build))
    mask = keep_largest({name: weight.abs() for name, weight in net.weights.items()}, Target(sparsity))
    shape = (5,) if build is perceptron else (2, 4, 4)
    x = torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return net, Pruned.of(net, net.weights, mask), Unlabeled(x)


def centred(net: Network, state: dict[str, Tensor], data: Unlabeled) -> Tensor:
    logits = functional_call(net.module(), state, (data.inputs,))
    return logits - logits.mean(1, keepdim=True)


def dense_jacobian(net: Network, state: dict[str, Tensor], data: Unlabeled) -> Tensor:
    rest = {name: tensor for name, tensor in state.items() if name not in net.weights}
    weights = {name: state[name] for name in net.weights}
    found = jacrev(lambda weights: centred(net, rest | weights, data))(weights)
    return torch.cat([found[name].flatten(2) for name in net.weights], 2).flatten(0, 1)


@pytest.mark.parametrize("build", [perceptron, normed])
@pytest.mark.parametrize("n", [1, 3, 35])
def test_the_jacobian_is_autograds(build: Callable[[], nn.Module], n: int) -> None:
    net, _, data = problem(build, n, 0.5)
    expected = dense_jacobian(net, dict(net.state()), data) / n**0.5
    torch.testing.assert_close(fisher_rows(net, data, "logits"), expected, rtol=1e-9, atol=1e-11)


@given(n=some.integers(1, 6), sparsity=some.floats(0.05, 0.8), damping=some.sampled_from([1e-6, 1e-3, 1.0]))
@settings(max_examples=25, deadline=None)
def test_an_update_is_a_dense_ridge_solution_and_comes_closer(n: int, sparsity: float, damping: float) -> None:
    net, pruned, data = problem(perceptron, n, sparsity)
    wanted, before = centred(net, dict(net.state()), data), centred(net, dict(pruned.state), data)
    moved = joint_update(net, pruned, data, damping)
    if moved is None:  # six halvings did not help, or nothing was missing
        return
    kept = flatten(pruned.mask)
    j = dense_jacobian(net, dict(pruned.state), data)[:, kept]
    share = damping * j.square().sum() / j.shape[1]
    expected = torch.linalg.solve(j.T @ j + share * torch.eye(j.shape[1]).double(), j.T @ (wanted - before).flatten())
    found = flatten({name: moved.state[name] - pruned.state[name] for name in net.weights})
    assert not found[~kept].any()
    torch.testing.assert_close(found[kept], moved.diagnostics["step"] * expected, rtol=1e-5, atol=1e-8)
    after = centred(net, dict(moved.state), data)
    assert (wanted - after).square().sum() < (wanted - before).square().sum()
    assert moved.diagnostics["damping_ratio"] == pytest.approx(moved.diagnostics["damping"]) == pytest.approx(damping)


@pytest.mark.parametrize("seed", [0, 2])
def test_with_probes_an_update_is_the_ridge_solution_of_the_combined_logits(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_ENTRIES", 0)
    monkeypatch.setattr(rows, "PROBE_ROWS", 10)
    net, pruned, data = problem(perceptron, 5, 0.5)
    missing = centred(net, dict(net.state()), data) - centred(net, dict(pruned.state), data)
    moved = joint_update(net, pruned, data, 0.1, seed)
    assert moved is not None
    assert moved.diagnostics["probes"] == 2
    kept, signs = flatten(pruned.mask), rows.probe_signs(range(5), 2, missing.shape[1:], seed)
    every = dense_jacobian(net, dict(pruned.state), data)[:, kept].reshape(*missing.shape, -1)
    j = torch.einsum("nsc,ncp->nsp", signs, every).flatten(0, 1)
    right = torch.einsum("nsc,nc->ns", signs, missing).flatten()
    share = 0.1 * j.square().sum() / j.shape[1]
    expected = torch.linalg.solve(j.T @ j + share * torch.eye(j.shape[1]).double(), j.T @ right)
    found = flatten({name: moved.state[name] - pruned.state[name] for name in net.weights})
    torch.testing.assert_close(found[kept], moved.diagnostics["step"] * expected, rtol=1e-6, atol=1e-9)


def test_one_linear_layer_gets_its_logits_back_in_one_update() -> None:
    """Fewer samples than kept inputs of any row: the system is solvable, and linear."""
    net = Network(trained_looking(lambda: nn.Linear(30, 3)))
    mask = keep_largest({"weight": net.weights["weight"].abs()}, Target(0.5, scope="layer"))
    data = Unlabeled(torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    moved = joint_update(net, Pruned.of(net, net.weights, mask), data, 1e-9)
    assert moved is not None
    torch.testing.assert_close(
        centred(net, dict(moved.state), data), centred(net, dict(net.state()), data), rtol=1e-6, atol=1e-6
    )
    assert moved.diagnostics["step"] == 1


def test_one_stage_without_updates_is_magnitude_repaired_and_its_norms_re_estimated() -> None:
    net, pruned, data = problem(normed, 20, 0.6)
    found = WoodFisherStaged(stages=1, steps=0).fit(net, data).prune(Target(0.6))
    expected = BatchNormReestimation().apply(net, LeastSquaresRepair().apply(net, pruned, data), data)
    assert found.state.keys() == expected.state.keys()
    for name, tensor in expected.state.items():
        assert torch.equal(found.state[name], tensor), name


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_stages_remove_ever_more_and_what_is_gone_stays_gone(scope: str) -> None:
    net, _, data = problem(normed, 20, 0.6)
    masks = [
        flatten(WoodFisherStaged(stages=stages, steps=0).fit(net, data).prune(Target(sparsity, scope=scope)).mask)  # type: ignore[arg-type]
        for stages, sparsity in ((1, 1 - 0.2 ** (1 / 3)), (2, 1 - 0.2 ** (2 / 3)), (3, 0.8))
    ]
    counts = [int(mask.sum()) for mask in masks]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 3
    for before, after in pairwise(masks):
        assert not (after & ~before).any()


def test_nothing_moves_where_nothing_is_missing_or_every_gradient_vanishes() -> None:
    net, _, data = problem(perceptron, 3, 0.5)
    everything = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in net.weights.items()}
    assert joint_update(net, Pruned.of(net, net.weights, everything), data, 1e-3) is None
    nothing = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in net.weights.items()}
    assert joint_update(net, Pruned.of(net, net.weights, nothing), data, 1e-3) is None


def test_identical_samples_and_one_sample_are_no_trouble() -> None:
    net, _, data = problem(normed, 1, 0.5)
    for x in (data.inputs, data.inputs.expand(5, -1, -1, -1)):
        found = WoodFisherStaged(stages=2).fit(net, Unlabeled(x)).prune(Target(0.7))
        assert all(torch.isfinite(tensor).all() for tensor in found.state.values())


@pytest.mark.parametrize(
    ("method", "n"),
    [
        *(("woodfisher-staged", n) for n in (1, 3, 1000)),
        ("woodfisher-logits", 3),
        *(("woodfisher-filter-logits", n) for n in (3, 1000)),
    ],
)
def test_a_thousand_outputs_need_no_option(method: str, n: int) -> None:
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1000)))
    data = Unlabeled(torch.randn(n, 4, generator=torch.Generator().manual_seed(n)))
    target = Target(0.3, Filter((4,)), of="filters") if "filter" in method else Target(0.5)
    pruned = REGISTRY.pruner(method).fit(net, data).prune(target)
    assert pruned.diagnostics.get("probes") == {1: None, 3: 85, 1000: 1}[n]
    assert all(torch.isfinite(tensor).all() for tensor in pruned.state.values())


@pytest.mark.parametrize("n", [1, 1000])
@pytest.mark.parametrize("of", ["weights", "filters"])
def test_the_default_takes_a_thousand_outputs(of: Unit, n: int) -> None:
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1000)))
    target = Target(0.5) if of == "weights" else Target(0.5, Filter((4,)), of=of)
    pruned = REGISTRY.pruner(USUAL).fit(net, Unlabeled(torch.randn(n, 4))).prune(target)
    assert all(torch.isfinite(tensor).all() for tensor in pruned.state.values())
    gone = sum(int((~pruned.mask[name]).sum()) for name in net.weights)
    assert gone == (6024 / 2 if of == "weights" else 3 * 1004)


def test_options_that_make_no_sense_say_so() -> None:
    for options, words in (({"stages": 0}, "stages=0"), ({"steps": -1}, "steps=-1"), ({"damping": 0.0}, "damping=0")):
        with pytest.raises(WfbenchError, match=words):
            WoodFisherStaged(**options)  # type: ignore[arg-type]
