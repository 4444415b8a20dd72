"""Set saliency, joint update and greedy removal of channels against dense constrained quadratics."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.test_channels import Plain, Separable
from wfbench import Filter, Labeled, Network, Target, Unlabeled, WfbenchError, fisher_rows
from wfbench.channels.costs import Costs, Removal
from wfbench.channels.coupled import Coupled
from wfbench.network import flatten
from wfbench.tasks.models import conv_norm
from wfbench.woodfisher.channel_surgeon import Coordinates, blocks_of, compressed
from wfbench.woodfisher.channel_variants import WoodFisherFilter, WoodFisherFilterExact, WoodFisherFilterUnlabeled


class Residual(nn.Module):
    """Two residual blocks, of which one convolution reads and makes the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(1, 3, 3)
        self.inner = conv_norm(3, 4, 1)
        self.back = conv_norm(4, 3, 1)
        self.around = nn.Conv2d(3, 3, 1, bias=False)
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.back(torch.relu(self.inner(x)))
        x = x + self.around(x)
        return self.out(x.mean((2, 3)))


SHAPES = {Plain: (1, 6, 6), Separable: (2, 5, 5), Residual: (1, 4, 4)}
KINDS = list(SHAPES)


def network(kind: type[nn.Module], seed: int = 0) -> tuple[Network, Filter, Labeled]:
    torch.manual_seed(seed)
    module = kind().double().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
    classes = module(torch.zeros(1, *SHAPES[kind], dtype=torch.float64)).shape[1]
    x = torch.randn(6, *SHAPES[kind], dtype=torch.float64)
    return Network(module), Filter(SHAPES[kind]), Labeled(x, torch.arange(6) % classes)


def flat_sets(net: Network, group: Coupled, channels: Sequence[int]) -> tuple[set[int], set[int], set[int]]:
    """Q, D and the consumers' coordinates, by marking every tensor on its own."""
    marks = {name: {kind: torch.zeros_like(t, dtype=torch.bool) for kind in "QDU"} for name, t in net.movable.items()}
    for kind, parts in (("Q", group.charged), ("D", group.deleted)):
        for part in parts:
            if part.name in marks:
                for channel in channels:
                    for position in part.index[channel].tolist():
                        marks[part.name][kind].select(part.axis, position).fill_(True)
    for consumer in group.consumers:
        for name in (consumer, consumer.replace("weight", "bias")):
            if name in marks:
                marks[name]["U"].fill_(True)
    found = {kind: flatten({name: of[kind] for name, of in marks.items()}) for kind in "QDU"}
    q, d, u = (set(found[kind].nonzero()[:, 0].tolist()) for kind in "QDU")
    return q, d, u


def dense_minimum(matrix: Tensor, w: Tensor, q: set[int], u: set[int]) -> tuple[float, dict[int, float]]:
    """Least `½δᵀAδ` with `δ_Q = −w_Q` and δ zero outside Q and U, by solving for δ_U."""
    rows, free = sorted(q), sorted(u)
    delta = torch.zeros(len(w), dtype=torch.float64)
    delta[rows] = -w[rows]
    if free:
        delta[free] = torch.linalg.solve(matrix[free][:, free], -matrix[free][:, rows] @ delta[rows])
    return float(delta @ matrix @ delta) / 2, {index: float(delta[index]) for index in free}


def setup(kind: type[nn.Module], damping: float, moves: str, seed: int) -> tuple:
    net, pattern, data = network(kind, seed)
    groups, rows = pattern.groups(net), fisher_rows(net, data, over="movable")
    where, w = Coordinates(net, groups), flatten(net.movable)
    everything = where.everything(groups)
    moving = {
        g.name: {"consumers": where.consumers(g), "all": everything, "none": everything[:0]}[moves] for g in groups
    }
    blocks = blocks_of(rows.T.contiguous(), w, damping, groups, where, moving)
    matrix = rows.T @ rows + damping * torch.eye(len(w), dtype=torch.float64)
    return net, groups, where, w, blocks, matrix, moving


@pytest.mark.parametrize("moves", ["consumers", "all", "none"])
@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 50), exponent=st.integers(-5, 0), data=st.data())
@settings(max_examples=5, deadline=None)
def test_greedy_downdates_equal_dense_solves_after_every_removal(
    kind: type[nn.Module], moves: str, seed: int, exponent: int, data: st.DataObject
) -> None:
    """Channels of random groups go one after another: saliency of every next one, and the update of the set."""
    net, groups, where, w, blocks, matrix, moving = setup(kind, 10.0**exponent, moves, seed)
    gone: dict[str, list[int]] = {group.name: [] for group in groups}
    deleted: set[int] = set()
    for _ in range(4):
        open_groups = [group for group in groups if len(gone[group.name]) < group.size - 1]
        if not open_groups:
            break
        group = data.draw(st.sampled_from(open_groups))
        channel = data.draw(st.sampled_from([c for c in range(group.size) if c not in gone[group.name]]))
        for other in groups:  # before: what every channel would add
            q, _, _ = flat_sets(net, other, gone[other.name])
            free = set(moving[other.name].tolist()) - deleted
            before = dense_minimum(matrix, w, q, free - q)[0] if q else 0.0
            scores = blocks[other.name].scores()
            for candidate in range(other.size):
                if candidate in gone[other.name]:
                    assert math.isinf(float(scores[candidate]))
                    continue
                more, taken, _ = flat_sets(net, other, [*gone[other.name], candidate])
                cost = dense_minimum(matrix, w, more, free - more - taken)[0]
                assert float(scores[candidate]) == pytest.approx(cost - before, rel=1e-5, abs=1e-9)
        blocks[group.name].remove(channel)
        gone[group.name].append(channel)
        q, d, _ = flat_sets(net, group, [channel])
        deleted |= q | d
        for block in blocks.values():
            block.drop(where.taken[group.name][channel])
    for group in groups:
        if gone[group.name]:
            q, _, _ = flat_sets(net, group, gone[group.name])
            free = set(moving[group.name].tolist()) - deleted
            cost, expected = dense_minimum(matrix, w, q, free)
            at, by = blocks[group.name].update()
            assert set(at.tolist()) == free
            found = dict(zip(at.tolist(), by.tolist(), strict=True))
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)
            assert blocks[group.name].saliency() == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", [False, True])
def test_downdates_one_by_one_or_together_are_what_the_rows_give_from_scratch(
    kind: type[nn.Module], together: bool
) -> None:
    _, groups, where, _, blocks, _, _ = setup(kind, 1e-3, "consumers", 3)
    for group in groups:
        blocks[group.name].remove(0)
        for block in blocks.values():
            block.drop(where.taken[group.name][0])
            if not together:
                block.scores()
    for block in blocks.values():
        saliency, scores = block.saliency(), block.scores()
        inner = block.inner.clone()
        at, by = block.update()
        block.refresh()
        torch.testing.assert_close(inner, block.inner, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(scores, block.scores(), rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(by, block.update()[1], rtol=1e-8, atol=1e-12)
        assert saliency == pytest.approx(block.saliency(), rel=1e-8)
        assert torch.equal(at, block.update()[0])


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("per", [None, "params", "macs"])
def test_the_method_removes_greedily_and_moves_to_the_minimum(scope: str, per: str | None) -> None:
    """Every choice again by dense solves: least increase for what the channel saves among the groups that are open."""
    net, pattern, data = network(Separable, 1)
    method = WoodFisherFilter(damping=1e-2, per=per)
    target = Target(0.6, pattern, scope, "macs")
    pruned = method.fit(net, data).prune(target)
    groups = {group.name: group for group in pattern.groups(net)}
    rows = fisher_rows(net, data, over="movable")
    matrix, w = rows.T @ rows + 1e-2 * torch.eye(rows.shape[1], dtype=torch.float64), flatten(net.movable)
    removal, deleted = Removal(Costs(net, list(groups.values()), pattern.example(net)), target), set()

    def increase(group: Coupled, channel: int) -> float:
        gone = removal.gone[group.name]
        q, _, u = flat_sets(net, group, gone)
        more, taken, _ = flat_sets(net, group, [*gone, channel])
        before = dense_minimum(matrix, w, q, u - deleted - q)[0] if q else 0.0
        return dense_minimum(matrix, w, more, u - deleted - more - taken)[0] - before

    while not removal.met:
        choices = {
            (name, channel): increase(groups[name], channel) / removal.price(name, per)
            for name in removal.open()
            for channel in range(groups[name].size)
            if channel not in removal.gone[name]
        }
        name, channel = min(choices, key=choices.__getitem__)
        removal.take(name, channel)
        q, d, _ = flat_sets(net, groups[name], [channel])
        deleted |= q | d
    assert {name: set(channels) for name, channels in pruned.removed_channels.items()} == {
        name: set(channels) for name, channels in removal.gone.items()
    }
    expected = w.clone()
    for name, group in groups.items():
        q, _, u = flat_sets(net, group, removal.gone[name])
        if q:
            for index, by in dense_minimum(matrix, w, q, u - deleted)[1].items():
                expected[index] += by
    expected[sorted(deleted)] = 0
    found = flatten({name: pruned.state[name] for name in net.movable})
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-5)  # directions below λ/1000 are left out


@given(k=st.integers(1, 9), scale=st.floats(-6, 2), least=st.floats(-8, 0), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_compressed_rows_keep_the_curvature_to_the_least_eigenvalue(
    k: int, scale: float, least: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(0, scale, k, dtype=torch.float64)[:, None]
    rows = torch.randn(k, 12, dtype=torch.float64, generator=generator) * sizes
    found = compressed(rows, rows @ rows.T, 10**least).T
    assert len(found) <= k
    difference = torch.linalg.eigvalsh(rows.T @ rows - found.T @ found)
    largest = float(torch.linalg.eigvalsh(rows @ rows.T)[-1])
    assert float(difference.abs().max()) <= max(10**least, 0 if len(found) > 1 else largest) + 1e-9 * largest
    if k == 1:
        torch.testing.assert_close(found.T @ found, rows.T @ rows)


@given(k=st.integers(2, 9), rank=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_rank_leaves_out_no_more_than_the_strongest_direction_beyond_it(k: int, rank: int, seed: int) -> None:
    rows = torch.randn(k, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = compressed(rows, rows @ rows.T, 0.0, rank).T
    assert len(found) == min(k, rank)
    beyond = torch.linalg.svdvals(rows)[rank:].square()  # Eckart and Young 1936
    difference = torch.linalg.matrix_norm(rows.T @ rows - found.T @ found, ord=2)
    torch.testing.assert_close(difference, beyond[0] if len(beyond) else difference * 0, rtol=1e-9, atol=1e-9)


class Two(nn.Module):
    """Two layers with a norm and a ReLU in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5, bias=False)
        self.norm = nn.BatchNorm1d(5)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.first(x))))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_stage_for_every_channel_is_one_channel_at_a_time(scope: str) -> None:
    """Scores are taken anew at the end of every stage; with fewer stages the choice is another one."""
    net, pattern, data = network(Plain, 2)
    target = Target(0.6, pattern, scope, "macs")
    found = {
        stages: WoodFisherFilter(damping=1e-4, stages=stages).fit(net, data).prune(target) for stages in (None, 1000, 1)
    }
    assert found[1000].removed_channels == found[None].removed_channels
    for name, tensor in found[None].state.items():
        torch.testing.assert_close(found[1000].state[name], tensor)
    assert found[1].removed_channels != found[None].removed_channels


def trained_two() -> tuple[Network, Unlabeled]:
    """n = 480 samples, p = 43 movable coordinates; trained towards soft targets, so that it is not confident."""
    torch.manual_seed(0)
    module, x = Two(), torch.randn(480, 3)
    wanted = (x @ torch.randn(3, 3)).softmax(1)
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), wanted).backward()
        optimizer.step()
    return Network(module.double().eval()), Unlabeled(x.double())


def predicted_and_realised(damping: float, moves: str = "consumers") -> tuple[float, float]:
    net, data = trained_two()
    method = WoodFisherFilterExact(damping=damping, moves=moves, stages=None)
    pruned = replace(method).fit(net, data).prune(Target(0.2, Filter((3,)), of="filters"))
    assert sum(map(len, pruned.removed_channels.values())) == 1
    return pruned.diagnostics["predicted_change"], net.change(pruned.state, data)


def test_the_predicted_increase_is_near_the_realised_one_and_does_not_hang_on_the_damping() -> None:
    found = [predicted_and_realised(damping) for damping in (1e-8, 1e-6, 1e-4)]
    for predicted, realised in found:
        assert realised / 2 <= predicted <= 2 * realised
    predictions = [predicted for predicted, _ in found]
    assert max(predictions) <= 1.1 * min(predictions)


def test_letting_everything_move_predicts_too_little() -> None:
    """Rescaling the layer before makes the removal look free; the realised change tells."""
    consumers, all_of_it = (predicted_and_realised(1e-6, moves) for moves in ("consumers", "all"))
    assert all_of_it[0] / all_of_it[1] < consumers[0] / consumers[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("update", ["independent", "joint"])
@pytest.mark.parametrize("stages", [None, 2])
def test_every_variant_meets_its_target_and_sparsity_0_is_the_dense_network(
    kind: type[nn.Module], update: str, stages: int | None
) -> None:
    net, pattern, data = network(kind)
    fitted = WoodFisherFilterUnlabeled(update=update, stages=stages).fit(net, Unlabeled(data.inputs))
    for sparsity in (0.0, 0.3, 0.5):
        target = Target(sparsity, pattern, "layer", "params")
        pruned = fitted.prune(target)
        assert pattern.achieved(target, net, pruned, data.inputs[:1]) >= sparsity
        pattern.measured(net, pruned, data.inputs[:1])
    dense = fitted.prune(Target(0.0, pattern, of="macs")).state
    assert all(torch.equal(dense[name], tensor) for name, tensor in net.state().items())


def test_gradients_that_vanish_still_choose_channels() -> None:
    """A network that is sure of everything: with no curvature left, saliency is the damping times the squared norm."""
    net, pattern, data = network(Separable)
    module = net.module()
    module.out.bias.data += torch.tensor([1e9, 0.0, 0.0])
    sure = Network(module)
    pruned = WoodFisherFilter().fit(sure, Labeled(data.inputs, data.labels * 0)).prune(Target(0.5, pattern, of="macs"))
    assert pattern.achieved(Target(0.5, pattern, of="macs"), sure, pruned, data.inputs[:1]) >= 0.5
    with pytest.raises(WfbenchError, match="whole channels"):
        WoodFisherFilter().fit(net, data).prune(Target(0.5))
