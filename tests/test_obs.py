"""Saliencies, updates and staged removal against exhaustive dense optimal brain surgery on eight weights."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.cases import tiny_network
from tests.oracles import constrained_minimum, curvature, greedy
from wfbench import Labeled, Network, Target, WoodburyInverse, WoodFisher, WoodFisherUnlabeled, fisher_rows
from wfbench.network import flatten
from wfbench.woodfisher.surgeon import independent_update, joint_update, layer_blocks, saliency

P = 8


def problem(seed: int, k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(k, P, dtype=torch.float64, generator=generator)
    return rows, torch.randn(P, dtype=torch.float64, generator=generator)


def mask_without(removed: tuple[int, ...]) -> torch.Tensor:
    mask = torch.ones(P, dtype=torch.bool)
    mask[list(removed)] = False
    return mask


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), exponent=st.floats(-6, 0), block=st.sampled_from([None, 3, 8]))
@settings(max_examples=60, deadline=None)
def test_single_saliency_and_update_equal_the_constrained_minimum(
    seed: int, k: int, exponent: float, block: int | None
) -> None:
    rows, w = problem(seed, k)
    damping = 10**exponent
    matrix = curvature(rows, damping, block)
    inverse = WoodburyInverse(rows, damping, block)
    diagonal = inverse.diagonal()
    costs = saliency(w, diagonal)
    for q in range(P):
        cost, weights = constrained_minimum(matrix, w, [q])
        assert float(costs[q]) == pytest.approx(cost, rel=1e-5, abs=1e-12)
        found = independent_update(inverse, diagonal, w, mask_without((q,)))
        torch.testing.assert_close(found, torch.where(mask_without((q,)), weights, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("k", [2, 5, 12])
@pytest.mark.parametrize("damping", [1e-5, 1e-2])
def test_the_joint_update_equals_the_constrained_minimum_for_every_set(
    k: int, damping: float, block: int | None
) -> None:
    rows, w = problem(k, k)
    matrix = curvature(rows, damping, block)
    for size in range(1, P):
        for removed in itertools.combinations(range(P), size):
            _, weights = constrained_minimum(matrix, w, removed)
            mask = mask_without(removed)
            inverse = WoodburyInverse(rows, damping, block, kept=mask)
            torch.testing.assert_close(joint_update(inverse, w), torch.where(mask, weights, 0), rtol=1e-5, atol=1e-6)


def test_independent_update_is_the_sum_of_single_updates_then_the_mask() -> None:
    rows, w = problem(1)
    dense = torch.linalg.inv(curvature(rows, 1e-3))
    mask = mask_without((0, 3, 4))
    moved = w.clone()
    for q in (0, 3, 4):
        moved -= dense[:, q] * w[q] / dense[q, q]
    inverse = WoodburyInverse(rows, 1e-3)
    found = independent_update(inverse, inverse.diagonal(), w, mask)
    torch.testing.assert_close(found, torch.where(mask, moved, 0), rtol=1e-8, atol=1e-10)


def data(n: int = 12) -> Labeled:
    generator = torch.Generator().manual_seed(5)
    return Labeled(torch.randn(n, 2, dtype=torch.float64, generator=generator), torch.arange(n) % 2)


@pytest.mark.parametrize("block", [None, "layer", 3])
@pytest.mark.parametrize("damping", [1e-4, 1e-2])
@pytest.mark.parametrize("count", range(1, P))
def test_staged_joint_removal_is_greedy_optimal_brain_surgery(
    count: int, damping: float, block: int | str | None
) -> None:
    """As many stages as weights to remove: each stage removes one, as exhaustive greedy search does."""
    net = Network(tiny_network())
    rows, w = fisher_rows(net, data()), flatten(net.weights)
    matrix = curvature(rows, damping, layer_blocks(net, block))
    removed = greedy(matrix, w, count)
    expected = constrained_minimum(matrix, w, removed)[1]
    method = WoodFisher(damping=damping, block_size=block, update="joint", stages=count)
    pruned = method.fit(net, data()).prune(Target(count / P))
    mask = flatten({name: pruned.mask[name] for name in net.weights})
    assert set(removed) == set((~mask).nonzero()[:, 0].tolist())
    found = flatten({name: pruned.state[name] for name in net.weights})
    torch.testing.assert_close(found, torch.where(mask, expected, 0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("stages", [1, 2, 32])
@pytest.mark.parametrize("fisher", ["empirical", "sampled", "exact", "logits"])
def test_joint_weights_depend_on_the_removed_set_alone(fisher: str, stages: int) -> None:
    net = Network(tiny_network())
    sample = data()
    if fisher == "empirical":
        fitted = WoodFisher(damping=1e-3, block_size=None, update="joint", stages=stages).fit(net, sample)
        rows = fisher_rows(net, sample)
    else:
        from wfbench import Unlabeled

        unlabeled = Unlabeled(sample.inputs)
        method = WoodFisherUnlabeled(fisher=fisher, damping=1e-3, block_size=None, update="joint", stages=stages)
        fitted, rows = method.fit(net, unlabeled), fisher_rows(net, unlabeled, fisher)
    pruned = fitted.prune(Target(0.5))
    mask = flatten({name: pruned.mask[name] for name in net.weights})
    removed = (~mask).nonzero()[:, 0].tolist()
    expected = constrained_minimum(curvature(rows, 1e-3), flatten(net.weights), removed)[1]
    found = flatten({name: pruned.state[name] for name in net.weights})
    assert len(removed) == 4
    torch.testing.assert_close(found, torch.where(mask, expected, 0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("block", [None, "layer", 3])
def test_the_papers_one_shot_removes_the_smallest_saliencies(block: int | str | None) -> None:
    """Independent update, one stage, mini-batches: mask and weights from the dense formula."""
    net = Network(tiny_network())
    rows, w = fisher_rows(net, data(), batch=2), flatten(net.weights)
    dense = torch.linalg.inv(curvature(rows, 1e-3, layer_blocks(net, block)))
    order = (w.square() / (2 * dense.diagonal())).argsort()
    moved = w - sum(dense[:, q] * w[q] / dense[q, q] for q in order[:3])
    pruned = WoodFisher(damping=1e-3, block_size=block, batch=2).fit(net, data()).prune(Target(3 / P))
    mask = torch.ones(P, dtype=torch.bool)
    mask[order[:3]] = False
    assert torch.equal(flatten({name: pruned.mask[name] for name in net.weights}), mask)
    found = flatten({name: pruned.state[name] for name in net.weights})
    torch.testing.assert_close(found, torch.where(mask, moved, 0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("update", ["independent", "joint"])
def test_a_flops_aware_saliency_is_divided_by_the_weights_multiply_accumulates(power: float, update: str) -> None:
    """A convolution, whose 6 weights are used 4 times a sample, beside a linear layer, whose 8 are used once."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv1d(1, 2, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)).double()
    net = Network(module)
    x, y = torch.randn(6, 1, 6, dtype=torch.float64), torch.arange(6) % 3
    method = WoodFisher(damping=1e-3, block_size=None, update=update, stages=1, flops_power=power)  # type: ignore[arg-type]
    found = method.fit(net, Labeled(x, y)).prune(Target(0.5))
    diagonal = torch.linalg.inv(curvature(fisher_rows(net, Labeled(x, y)), 1e-3)).diagonal()
    price = torch.tensor([4.0] * 6 + [1.0] * 24, dtype=torch.float64) ** power
    scores = flatten(net.weights).square() / (2 * diagonal) / price
    kept = torch.ones(30, dtype=torch.bool)
    kept[scores.argsort()[:15]] = False
    assert torch.equal(flatten({name: found.mask[name] for name in net.weights}), kept)


def test_mean_leverage_is_the_trace() -> None:
    net = Network(tiny_network())
    rows = fisher_rows(net, data())
    matrix = curvature(rows, 1e-3)
    expected = torch.trace((matrix - 1e-3 * torch.eye(P)) @ torch.linalg.inv(matrix)) / P
    pruned = WoodFisher(damping=1e-3, block_size=None).fit(net, data()).prune(Target(0.5))
    assert pruned.diagnostics["mean_leverage"] == pytest.approx(float(expected), rel=1e-6)


def test_blocks_never_straddle_two_layers() -> None:
    net = Network(tiny_network())
    assert layer_blocks(net, 3) == [3, 1, 3, 1]
    assert layer_blocks(net, "layer") == [4, 4]
    assert layer_blocks(net, None) is None
