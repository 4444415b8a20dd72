"""WoodTaylor against the dense constrained minimum of `gᵀδ + ½δᵀAδ`: single weights and sets, one-shot and staged."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.cases import tiny_network
from tests.oracles import curvature
from tests.test_obs import P, data
from wfbench import Labeled, Network, Target, WoodFisher, fisher_rows
from wfbench.network import flatten
from wfbench.woodfisher.surgeon import FittedWoodFisher, layer_blocks
from wfbench.woodfisher.variants import WoodTaylor

BLOCKS = [None, "layer", 3]


def minimum(matrix: Tensor, gradient: Tensor, w: Tensor, removed: Sequence[int]) -> tuple[float, Tensor]:
    """Least `gᵀδ + ½δᵀAδ` subject to `w_Q + δ_Q = 0`, by its KKT system, and the new weights."""
    p, q = len(w), len(removed)
    kkt = torch.zeros(p + q, p + q, dtype=torch.float64)
    kkt[:p, :p] = matrix
    for row, index in enumerate(removed):
        kkt[p + row, index] = kkt[index, p + row] = 1
    delta = torch.linalg.solve(kkt, torch.cat([-gradient, -w[list(removed)]]))[:p]
    return float(gradient @ delta + delta @ matrix @ delta / 2), w + delta


def problem(damping: float, block: int | str | None) -> tuple[Network, Tensor, Tensor, Tensor]:
    """Network, dense curvature, gradient of the mean loss by autograd, weights."""
    net, samples = Network(tiny_network()), data()
    variables = {name: weight.clone().requires_grad_() for name, weight in net.weights.items()}
    gradient = torch.autograd.grad(net.loss(variables, samples), list(variables.values()))
    matrix = curvature(fisher_rows(net, samples), damping, layer_blocks(net, block))
    return net, matrix, torch.cat([part.flatten() for part in gradient]), flatten(net.weights)


def pruned(net: Network, samples: Labeled, count: int, **options: object) -> tuple[Tensor, Tensor]:
    """Weights and mask, flat."""
    found = WoodTaylor(**options).fit(net, samples).prune(Target(count / P))
    return tuple(flatten({name: of[name] for name in net.weights}) for of in (found.state, found.mask))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("damping", [1e-3, 1e-1])
def test_the_first_weight_to_go_is_the_cheapest_and_the_others_move_to_the_minimum(
    damping: float, block: int | str | None
) -> None:
    net, matrix, gradient, w = problem(damping, block)
    costs = [minimum(matrix, gradient, w, [q])[0] for q in range(P)]
    best = min(range(P), key=costs.__getitem__)
    for update in ("independent", "joint"):
        found, mask = pruned(net, data(), 1, damping=damping, block_size=block, update=update, stages=1)
        assert (~mask).nonzero()[:, 0].tolist() == [best]
        expected = torch.where(mask, minimum(matrix, gradient, w, [best])[1], 0)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("count", range(2, P))
def test_the_joint_update_of_any_set_is_the_constrained_minimum(
    count: int, stages: int, block: int | str | None
) -> None:
    net, matrix, gradient, w = problem(1e-2, block)
    found, mask = pruned(net, data(), count, damping=1e-2, block_size=block, update="joint", stages=stages)
    removed = (~mask).nonzero()[:, 0].tolist()
    assert len(removed) == count
    expected = torch.where(mask, minimum(matrix, gradient, w, removed)[1], 0)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("block", [None, "layer"])
@pytest.mark.parametrize("count", [2, 4, 6])
def test_staged_removal_is_greedy_in_the_taylor_objective(count: int, block: int | str | None) -> None:
    """As many stages as weights: each takes the weight whose joint removal with the earlier ones costs least."""
    net, matrix, gradient, w = problem(1e-2, block)
    removed: list[int] = []
    for _ in range(count):
        left = [q for q in range(P) if q not in removed]
        removed.append(min(left, key=lambda q: minimum(matrix, gradient, w, [*removed, q])[0]))
    _, mask = pruned(net, data(), count, damping=1e-2, block_size=block, update="joint", stages=count)
    assert set((~mask).nonzero()[:, 0].tolist()) == set(removed)


def test_the_independent_update_adds_the_single_updates_to_one_newton_step() -> None:
    net, matrix, gradient, w = problem(1e-2, None)
    inverse = torch.linalg.inv(matrix)
    start = w - inverse @ gradient
    found, mask = pruned(net, data(), 3, damping=1e-2, block_size=None)
    moved = start.clone()
    for q in (~mask).nonzero()[:, 0].tolist():
        moved -= inverse[:, q] * start[q] / inverse[q, q]
    torch.testing.assert_close(found, torch.where(mask, moved, 0), rtol=1e-8, atol=1e-10)


def test_the_update_for_a_given_mask_is_the_minimum_for_every_mask() -> None:
    net, matrix, gradient, w = problem(1e-2, None)
    fitted = WoodTaylor(damping=1e-2, block_size=None, update="joint").fit(net, data())
    assert isinstance(fitted, FittedWoodFisher)
    for removed in itertools.chain.from_iterable(itertools.combinations(range(P), size) for size in (1, 3, 7)):
        mask = torch.ones(P, dtype=torch.bool)
        mask[list(removed)] = False
        shaped = {
            name: part.reshape(net.weights[name].shape) for name, part in zip(net.weights, mask.split(4), strict=True)
        }
        expected = torch.where(mask, minimum(matrix, gradient, w, removed)[1], 0)
        torch.testing.assert_close(flatten(fitted.update(shaped)), expected, rtol=1e-7, atol=1e-9)


def test_a_vanishing_gradient_makes_it_woodfisher() -> None:
    """Every input with both labels, and outputs that are zero for the zero input: the gradients of a pair cancel."""
    net = Network(tiny_network())
    samples = Labeled(torch.zeros(2, 2, dtype=torch.float64), torch.tensor([0, 1]))
    found = WoodTaylor(damping=1e-2).fit(net, samples).prune(Target(0.5))
    expected = WoodFisher(damping=1e-2).fit(net, samples).prune(Target(0.5))
    for name in net.weights:
        torch.testing.assert_close(found.state[name], expected.state[name], rtol=0, atol=0)
