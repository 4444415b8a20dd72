"""Whole channels as a pattern: costs, targets, rule 11, and what a result may not be."""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.cases import trained_looking
from tests.test_channels import ALL, Plain
from wfbench import (
    Case,
    Filter,
    Labeled,
    Network,
    Pruned,
    Pruner,
    Record,
    Target,
    Task,
    Unlabeled,
    WfbenchError,
    draw,
    run,
)
from wfbench.channels.costs import Costs, remove_lowest
from wfbench.channels.coupled import Coupled, shrunk
from wfbench.channels.pattern import AGREEMENT, pruned_of
from wfbench.channels.pruner import ChannelPruner, ChannelScores
from wfbench.composed.allocated import Allocation
from wfbench.errors import BrokenRule
from wfbench.harness.plugins import discover
from wfbench.harness.record import fields_of
from wfbench.licence import handed
from wfbench.pruner import Fitted
from wfbench.recoveries.base import Recovery
from wfbench.recoveries.names import RECOVERIES
from wfbench.sparsity import Scope, Unit, Unstructured
from wfbench.tasks.models import conv_norm

UNITS: tuple[Unit, ...] = ("filters", "params", "macs")
SCOPES: tuple[Scope, ...] = ("global", "layer")


class Joined(nn.Module):
    """Two branches side by side under one norm, a shared activation, a one-dimensional head."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 3, 3)
        self.right = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(7)
        self.after = nn.Conv2d(7, 3, 3)
        self.line = nn.Conv1d(3, 4, 2, bias=False)
        self.out = nn.Linear(28, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        return self.out(self.line(torch.relu(self.after(x)).flatten(2)).flatten(1))


class Images(nn.Module):
    """A small network of `images`, with norms or without."""

    def __init__(self, norms: bool) -> None:
        super().__init__()
        self.first = conv_norm(1, 6, 3) if norms else nn.Conv2d(1, 6, 3, padding=1)
        self.second = conv_norm(6, 8, 3, stride=2) if norms else nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.out = nn.Linear(8 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.second(torch.relu(self.first(x)))).flatten(1))


EVERY: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {**ALL, "joined": (Joined, (1, 6, 8))}


@dataclasses.dataclass(frozen=True)
class Problem:
    """A float32 network with its groups and costs."""

    net: Network
    pattern: Filter
    groups: list[Coupled]
    costs: Costs


@cache
def problem(name: str) -> Problem:
    build, shape = EVERY[name]
    net, pattern = Network(trained_looking(build).float()), Filter(shape)
    groups = pattern.groups(net)
    return Problem(net, pattern, groups, Costs(net, groups, pattern.example(net)))


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bright patches in one of three corners of 6x6 images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    x = 0.5 * torch.randn(n, 1, 6, 6, generator=generator)
    for label, (row, column) in enumerate([(0, 0), (0, 3), (3, 0)]):
        x[labels == label, :, row : row + 3, column : column + 3] += 1
    return x, labels


@cache
def image_task(norms: bool = True) -> Task:
    """A task of convolutions that trains in a second."""
    torch.manual_seed(0)
    module, (x, y) = Images(norms), images(240, 0)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    name = f"corners-{'norms' if norms else 'plain'}"
    return Task(name, module.eval(), train=(x, y), validation=images(60, 1), test=images(90, 2))


def case_of(
    method: str | Pruner = "filter-l1",
    *,
    sparsity: float = 0.5,
    of: Unit = "macs",
    scope: Scope = "global",
    recovery: str | Recovery = "none",
    task: Task | None = None,
) -> Case:
    pruner = discover().pruner(method) if isinstance(method, str) else method
    target = Target(sparsity, Filter((1, 6, 6)), scope, of)
    after = RECOVERIES[recovery] if isinstance(recovery, str) else recovery
    return Case(task or image_task(), 20, 0, 0, target, pruner, after)


def masked_and_shrunk_differ(net: Network, pattern: Filter, pruned: Pruned) -> float:
    """As a share of the largest logit."""
    gone = {name: list(channels) for name, channels in pruned.removed_channels.items()}
    x = torch.randn(6, *pattern.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = net.logits(pruned.state, x)
        found = shrunk(net, pruned.state, pattern.example(net), gone)(x)
    return float((wanted - found).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", EVERY)
def test_costs_are_what_torch_counts_on_the_shrunk_network(name: str) -> None:
    it = problem(name)
    everything = st.fixed_dictionaries({group.name: st.integers(0, group.size - 1) for group in it.groups})

    @settings(max_examples=5, deadline=None, derandomize=True, database=None)
    @given(counts=everything, seed=st.integers(0, 100))
    def equal(counts: dict[str, int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = it.costs.groups
        gone = {of: torch.randperm(sizes[of], generator=generator)[:n].tolist() for of, n in counts.items()}
        example = it.pattern.example(it.net)
        small = shrunk(it.net, it.net.state(), example, gone)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            small(example)
        layers = Network(small).weights
        assert it.costs.total(counts, "macs") == counter.get_total_flops() // 2
        assert it.costs.total(counts, "params") == sum(parameter.numel() for parameter in small.parameters())
        assert it.costs.total(counts, "filters") == sum(len(weight) for weight in list(layers.values())[:-1])

    equal()


@pytest.mark.parametrize("name", EVERY)
def test_the_next_channel_saves_what_the_totals_say(name: str) -> None:
    it = problem(name)
    for group in it.groups[:4]:
        counts = {other.name: (other.size - 1) // 2 for other in it.groups}
        for of in UNITS:
            more = {**counts, group.name: counts[group.name] + 1}
            saved = it.costs.total(counts, of) - it.costs.total(more, of)
            assert it.costs.saving(counts, group.name, of) == saved


def reachable(costs: Costs, of: Unit) -> float:
    """The highest sparsity: one channel of every group left."""
    return 1 - costs.total({name: size - 1 for name, size in costs.groups.items()}, of) / costs.total({}, of)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("of", UNITS)
@pytest.mark.parametrize("name", EVERY)
def test_rules_5_and_11_any_scores_meet_any_target_to_one_channel(name: str, of: Unit, scope: Scope) -> None:
    it = problem(name)
    generator = torch.Generator().manual_seed(len(name))
    whole = it.costs.total({}, of)
    for sparsity in (0.3, 0.5, 0.7):
        target = Target(sparsity, it.pattern, scope, of)
        scores = {group.name: torch.rand(group.size, generator=generator) for group in it.groups}
        if sparsity > reachable(it.costs, of):
            with pytest.raises(WfbenchError, match="cannot be met"):
                remove_lowest(scores, it.costs, target)
            continue
        gone = remove_lowest(scores, it.costs, target, per=of if sparsity == 0.5 else None)
        counts = {group: len(set(channels)) for group, channels in gone.items()}
        assert all(counts[group.name] < group.size for group in it.groups)
        left = it.costs.total(counts, of)
        assert left <= (1 - sparsity) * whole * (1 + 1e-6)
        one_back = [it.costs.total({**counts, group: n - 1}, of) for group, n in counts.items() if n]
        assert max(one_back) > (1 - sparsity) * whole
        for group, channels in gone.items():  # the lowest of every group
            order = scores[group].argsort().tolist()
            assert sorted(channels) == sorted(order[: len(channels)])
        if scope == "layer":
            sizes = it.costs.groups
            shares = [(n / sizes[group], 1 / sizes[group]) for group, n in counts.items() if sizes[group] > 1]
            assert max(share - step for share, step in shares) <= min(share for share, _ in shares) + 1e-9
        pruned = pruned_of(it.net, it.groups, gone)
        assert it.pattern.achieved(target, it.net, pruned, torch.zeros(0)) == pytest.approx(1 - left / whole)
        assert masked_and_shrunk_differ(it.net, it.pattern, pruned) <= 1e-4


def test_what_a_channel_saves_divides_its_score() -> None:
    """The first layer's filters are cheap in MACs, the second's dear: the same scores take the dear ones first."""
    net = Network(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 20)))
    pattern = Filter((2,))
    groups = pattern.groups(net)
    costs = Costs(net, groups, pattern.example(net))
    assert [costs.saving({}, group.name, "macs") for group in groups] == [2 + 9, 4 + 20]
    scores = {"0": torch.full((4,), 1.0), "2": torch.full((9,), 2.0)}
    target = Target(0.05, pattern, of="macs")
    assert remove_lowest(scores, costs, target) == {"0": [0, 1], "2": []}
    assert remove_lowest(scores, costs, target, per="macs") == {"0": [], "2": [0]}


@pytest.mark.parametrize("sparsity", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_a_target_that_can_be_met_exactly_is(sparsity: float) -> None:
    """1 - 0.9 is below 0.1 in floating point; nine of ten channels are 0.9 all the same."""
    net, pattern = Network(nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2))), Filter((3,))
    groups = pattern.groups(net)
    costs, target = Costs(net, groups, pattern.example(net)), Target(sparsity, pattern, of="filters")
    gone = remove_lowest({"0": torch.rand(10)}, costs, target)
    assert len(gone["0"]) == round(10 * sparsity)
    assert pattern.achieved(target, net, pruned_of(net, groups, gone), torch.zeros(0)) == pytest.approx(sparsity)


def test_nothing_goes_at_sparsity_0() -> None:
    record = run(case_of(sparsity=0.0))
    assert (record.achieved_sparsity, record.removed_channels) == (0, 0)
    assert record.params == record.dense_params
    assert record.accuracy == record.dense_accuracy


Spoil = Callable[[Network, Pruned], Pruned]


@dataclasses.dataclass(frozen=True)
class Spoiled(Pruner[None]):
    """`filter-l1` with a result that is not what it says."""

    spoil: Spoil
    name = "spoiled"
    patterns = ("filter",)

    def fit(self, net: Network, data: None) -> Fitted:
        fitted = discover().pruner("filter-l1").fit(net, data)
        outer = self

        class Found:
            def prune(self, target: Target) -> Pruned:
                return outer.spoil(net, fitted.prune(target))

        return Found()


def without_mask(net: Network, pruned: Pruned) -> Pruned:
    return dataclasses.replace(pruned, mask={name: torch.ones_like(mask) for name, mask in pruned.mask.items()})


def weights_alone(net: Network, pruned: Pruned) -> Pruned:
    """Zeroes filters, leaves what the norm adds; the mask says nothing of norms."""
    state = {**pruned.state, "first.norm.bias": net.state()["first.norm.bias"]}
    return Pruned(state, {name: pruned.mask[name] for name in net.weights}, pruned.removed_channels)


def shift_left(net: Network, pruned: Pruned) -> Pruned:
    pruned.state["first.norm.bias"].copy_(net.state()["first.norm.bias"])  # behind the back of Pruned's own check
    return pruned


def mask_of_more(net: Network, pruned: Pruned) -> Pruned:
    mask, state = dict(pruned.mask), dict(pruned.state)
    mask["out.bias"] = torch.zeros(3, dtype=torch.bool)
    state["out.bias"] = torch.zeros(3)
    return dataclasses.replace(pruned, mask=mask, state=state)


def kept_weight_outside(net: Network, pruned: Pruned) -> Pruned:
    mask = dict(pruned.mask)
    mask["out.weight"] = torch.ones_like(mask["out.weight"])
    return dataclasses.replace(pruned, mask=mask)


def not_named(net: Network, pruned: Pruned) -> Pruned:
    return dataclasses.replace(pruned, removed_channels={})


def of_nowhere(net: Network, pruned: Pruned) -> Pruned:
    return dataclasses.replace(pruned, removed_channels={**pruned.removed_channels, "out": (0,)})


def whole_group(net: Network, pruned: Pruned) -> Pruned:
    return dataclasses.replace(pruned, removed_channels={**pruned.removed_channels, "first.conv": tuple(range(6))})


def one_more(net: Network, pruned: Pruned) -> Pruned:
    return moved(net, pruned, 1)


def two_less(net: Network, pruned: Pruned) -> Pruned:
    return moved(net, pruned, -2)


def moved(net: Network, pruned: Pruned, by: int) -> Pruned:
    """An honest result with so many channels more in the larger group."""
    pattern = Filter((1, 6, 6))
    gone = {name: list(channels) for name, channels in pruned.removed_channels.items()}
    channels = gone["second.conv"]
    others = [channel for channel in range(8) if channel not in channels]
    gone["second.conv"] = [*channels, *others[:by]] if by > 0 else channels[:by]
    return pruned_of(net, pattern.groups(net), gone)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_mask, "the mask of first.conv.weight is not what the removed channels take with them"),
        (weights_alone, "the mask of first.norm.(weight|bias) is not what the removed channels take"),
        (shift_left, "first.norm.bias is not zero where channels were removed"),
        (mask_of_more, "the mask of out.bias removes what belongs to no removed channel"),
        (kept_weight_outside, "the mask of out.weight is not what the removed channels take with them"),
        (not_named, "the mask of first.conv.weight is not what the removed channels take with them"),
        (of_nowhere, "removed_channels names out, which are no groups of channels"),
        (whole_group, "all 6 channels of first.conv are gone; a layer keeps at least one"),
        (one_more, "the target is sparsity 0.5, met to one channel"),
        (two_less, "the target is sparsity 0.5, met to one channel"),
    ],
)
def test_rule_5_a_result_that_is_not_what_it_says_stops_the_run(spoil: Spoil, message: str) -> None:
    with pytest.raises(BrokenRule, match=f"spoiled: .*{message}"):
        run(case_of(Spoiled(spoil), of="filters"))


def test_the_doubles_are_honest_but_for_what_they_spoil() -> None:
    assert run(case_of(Spoiled(lambda net, pruned: pruned), of="filters")).status == "ok"


def test_rule_11_a_shrunk_network_that_differs_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(net: Network, *arguments: object) -> nn.Module:
        small = shrunk(net, *arguments)  # type: ignore[arg-type]
        last = [parameter for parameter in small.parameters() if parameter.ndim == 1][-1]
        last += 1
        return small

    monkeypatch.setattr("wfbench.channels.pattern.shrunk", other)
    with pytest.raises(BrokenRule, match="masked and shrunk network differ by"):
        run(case_of())


class Fixed(nn.Module):
    """Its forward pass knows how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.conv(x)).view(-1, 64))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.from_numpy(self.conv(x).numpy(force=False)).flatten(1))


def one_layer() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


def normed_across() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def transposed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 3, 3), nn.Flatten(), nn.Linear(108, 3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Fixed, "the network does not run without its removed channels"),
        (Untraceable, "Untraceable cannot be traced .* leave structured pruning out"),
        (one_layer, "no channel can be taken out: none is read by a later layer"),
        (normed_across, "no channel can be taken out: .* a norm over channels"),
        (transposed, "1 is a transposed convolution; its channels are not supported"),
    ],
)
def test_networks_that_cannot_shrink_are_named(build: Callable[[], nn.Module], message: str) -> None:
    net, pattern = Network(build()), Filter((1, 6, 6))
    with pytest.raises(WfbenchError, match=message):
        pattern.measured(net, discover().pruner("filter-l1").fit(net, None).prune(half(pattern)), torch.zeros(0))


def half(pattern: Filter) -> Target:
    return Target(0.5, pattern, of="filters")


def test_channels_under_a_norm_over_several_of_them_stay_and_the_others_go() -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 2)]
    net, pattern = Network(nn.Sequential(*layers)), Filter((1, 6, 6))
    assert [group.name for group in pattern.groups(net)] == ["3"]
    pruned = discover().pruner("filter-l2").fit(net, None).prune(half(pattern))
    assert masked_and_shrunk_differ(net, pattern, pruned) <= AGREEMENT


def test_targets_that_make_no_sense_are_refused() -> None:
    pattern = Filter((1, 6, 6))
    with pytest.raises(WfbenchError, match="the pattern filter counts filters or params or macs, not weights"):
        Target(0.5, pattern)
    record = run(case_of(sparsity=0.99))
    assert record.status == "failed"
    assert "sparsity 0.99 of macs cannot be met: with one channel of every group left it is 0." in str(record.reason)
    it = problem("plain")
    scores = {group.name: torch.full((group.size,), torch.nan) for group in it.groups}
    with pytest.raises(WfbenchError, match="the scores of first contain NaN"):
        remove_lowest(scores, it.costs, Target(0.5, it.pattern, of="macs"))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_group_of_one_channel_never_loses_it(scope: Scope) -> None:
    layers = [nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 6, 3), nn.Flatten(), nn.Linear(24, 2)]
    net, pattern = Network(nn.Sequential(*layers)), Filter((1, 6, 6))
    groups = pattern.groups(net)
    costs = Costs(net, groups, pattern.example(net))
    scores = {"0": torch.zeros(1), "2": torch.ones(6)}
    gone = remove_lowest(scores, costs, Target(0.7, pattern, scope, "filters"))
    assert {name: len(channels) for name, channels in gone.items()} == {"0": 0, "2": 5}
    with pytest.raises(WfbenchError, match="cannot be met"):
        remove_lowest(scores, costs, Target(0.8, pattern, scope, "filters"))


def short(recovery: Recovery) -> Recovery:
    """In three steps where it takes any."""
    if dataclasses.is_dataclass(recovery) and hasattr(recovery, "steps"):
        return dataclasses.replace(recovery, steps=3)
    return recovery


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("name", RECOVERIES)
def test_every_recovery_leaves_removed_channels_out(name: str, norms: bool) -> None:
    task, recovery = image_task(norms), short(RECOVERIES[name])
    case = case_of(recovery=recovery, task=task, scope="layer")
    net, data = Network(task.dense()), draw(task.train_set, 20, 0)
    pruned = case.method.fit(net, None).prune(case.target)
    found = recovery.apply(net, pruned, handed(recovery.licence, data))  # type: ignore[type-var]
    assert isinstance(case.target.pattern, Filter)
    case.target.pattern.achieved(case.target, net, found, data.inputs[:1])
    assert masked_and_shrunk_differ(net, case.target.pattern, found) <= AGREEMENT
    assert found.removed_channels == pruned.removed_channels
    assert all(torch.equal(found.mask[weight], pruned.mask[weight]) for weight in pruned.mask)
    changed = [weight for weight in net.movable if not torch.equal(found.state[weight], pruned.state[weight])]
    assert bool(changed) == (name not in ("none", "batchnorm"))
    if not norms:
        for group, gone in pruned.removed_channels.items():
            assert gone
            assert not found.state[f"{group}.bias"][list(gone)].any()
    assert run(case).status == "ok"


def test_biases_of_a_network_without_norms_go_with_their_filters() -> None:
    """What a removed filter's bias would put out is no part of the shrunk network."""
    net, pattern = Network(trained_looking(Plain).float()), Filter((1, 6, 6))
    groups = pattern.groups(net)
    pruned = pruned_of(net, groups, {"first": [1], "hidden": [0, 4]}, {"out.bias": torch.ones(2, dtype=torch.float64)})
    assert not pruned.state["first.bias"][1]
    assert not pruned.mask["first.bias"][1]
    assert pruned.state["out.bias"].tolist() == [1, 1]
    assert "out.bias" not in pruned.mask
    assert masked_and_shrunk_differ(net, pattern, pruned) <= AGREEMENT


MEASURED = ("params", "macs", "latency", "activation_memory")


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("of", UNITS)
def test_a_structured_record_holds_what_the_network_costs(of: Unit, scope: Scope) -> None:
    record = run(case_of(of=of, scope=scope, recovery="batchnorm"))
    assert (record.status, record.pattern, record.of, record.scope) == ("ok", "filter", of, scope)
    assert record.achieved_sparsity is not None
    assert 0.5 <= record.achieved_sparsity < 0.75
    for field in MEASURED:
        small, dense = getattr(record, field), getattr(record, f"dense_{field}")
        assert small > 0
        assert dense > 0
        if field in ("params", "macs"):
            assert small < dense
    if of in ("params", "macs"):
        share = 1 - getattr(record, of) / getattr(record, f"dense_{of}")
        assert record.achieved_sparsity == pytest.approx(share)
    assert record.removed_channels is not None
    assert record.removed_channels > 0
    if of == "filters":
        assert record.achieved_sparsity == pytest.approx(record.removed_channels / 14)
    assert f'"of": "{of}"' in record.as_json()
    assert '"removed_channels"' in record.as_json()


def science(record: Record) -> dict[str, object]:
    return {name: value for name, value in dataclasses.asdict(record).items() if name not in fields_of("time")}


@pytest.mark.parametrize("recovery", ["none", "batchnorm", "repair", "distill-200"])
@pytest.mark.parametrize("method", ["filter-l1", "filter-l2"])
def test_rule_1_the_same_structured_case_twice_has_the_same_bits(method: str, recovery: str) -> None:
    first, second = (run(case_of(method, recovery=short(RECOVERIES[recovery]))) for _ in range(2))
    assert first.status == "ok", first.reason
    assert science(first) == science(second)


def test_filter_norms_by_hand() -> None:
    """The smallest filters go, by absolute sum and by Euclidean norm."""
    module = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    module[0].weight.data = torch.tensor([[1.0, 1.0], [1.9, 0.0], [3.0, 3.0]])
    net, target = Network(module), Target(0.3, Filter((2,)), of="filters")
    for method, gone in (("filter-l1", 1), ("filter-l2", 0)):
        assert dict(discover().pruner(method).fit(net, None).prune(target).removed_channels) == {"0": (gone,)}


class Dear(ChannelPruner[None]):
    """Takes from the second layer alone, as long as it has more than one channel."""

    name = "dear"

    def channel_scores(self, net: Network, groups: list[Coupled], data: None) -> ChannelScores:
        return {group.name: torch.full((group.size,), float(group.name == "0")) for group in groups}


def test_channels_are_allocated_by_hand() -> None:
    """By absolute sum the first layer's channels 1 and 0 would go; another method takes two of the second layer."""
    module = nn.Sequential(*(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)))
    module[0].weight.data = torch.tensor([[0.2, 0.1], [0.1, 0.1], [0.3, 0.3]])
    module[2].weight.data = torch.tensor([[9.0, 9.0, 9.0], [4.0, 4.0, 4.0], [5.0, 5.0, 5.0], [0.0, 12.1, 0.0]])
    net, target = Network(module), Target(0.3, Filter((2,)), of="macs")
    alone, dear = discover().pruner("filter-l1"), Dear()
    whole, each = 3 * 2 + 4 * 3 + 2 * 4, 3 + 2
    assert -(-0.3 * whole // each) == 2
    assert dict(alone.fit(net, None).prune(target).removed_channels) == {"0": (0, 1), "2": ()}
    assert dict(dear.fit(net, None).prune(target).removed_channels) == {"0": (), "2": (0, 1)}
    found = Allocation(alone, dear).fit(net, None).prune(target)
    assert dict(found.removed_channels) == {"0": (), "2": (1, 3)}
    assert target.pattern.achieved(target, net, found, torch.zeros(0)) == pytest.approx(2 * each / whole)


@pytest.mark.parametrize(
    ("of", "parts"), [("weights", "global-obc"), ("macs", "obs-filter-led-by-woodfisher-filter-logits[rank=64]")]
)
def test_obs_distilled_is_its_three_parts_by_name(of: Unit, parts: str) -> None:
    task = image_task()
    net, x = Network(task.dense(0)), Unlabeled(draw(task.train_set, 12, 0).inputs)
    pattern = Unstructured() if of == "weights" else Filter.of(x.inputs)
    methods = [discover().pruner(name) for name in ("obs-distilled", parts)]
    assert all(one.scope == "global" and one.licence is Unlabeled for one in methods)
    found, part = (one.fit(net, x) for one in methods)
    for share in (0.5, 0.3):
        torch.manual_seed(0)
        whole = found.prune(Target(share, pattern, of=of))
        torch.manual_seed(0)
        pruned = RECOVERIES["distill-batchnorm"].apply(net, part.prune(Target(share, pattern, of=of)), x)
        assert whole.removed_channels == pruned.removed_channels
        assert all(torch.equal(tensor, whole.state[name]) for name, tensor in pruned.state.items())
    dense = found.prune(Target(0.0, pattern, of=of))
    assert all(torch.equal(tensor, dense.state[name]) for name, tensor in net.state().items())


def test_seconds_of_obs_distilled_hold_its_fit_at_every_sparsity() -> None:
    task = image_task()
    net, x = Network(task.dense(0)), Unlabeled(draw(task.train_set, 4, 0).inputs)
    magnitude = discover().pruner("magnitude")

    class Slow(type(magnitude)):  # type: ignore[misc]
        def fit(self, net: Network, data: Any) -> Fitted:
            net.memo.saved += 100  # seconds that it would have taken
            return cast("Fitted", super().fit(net, None))

    ours = discover().pruner("obs-distilled")
    fitted = dataclasses.replace(ours, weights=Slow(), after=RECOVERIES["batchnorm"]).fit(net, x)
    for share in (0.3, 0.5, 0.6):
        before = net.memo.saved
        fitted.prune(Target(share))
        assert net.memo.saved - before >= 100


@pytest.mark.parametrize("method", ["filter-l1", "obs-filter", "woodfisher-filter-logits"])
def test_channels_are_allocated_as_another_takes_them(method: str) -> None:
    """As many of every group; as itself it is the method itself, however it ranks and updates."""
    task = image_task()
    net, x = Network(task.dense(0)), draw(task.train_set, 12, 0).inputs
    target = Target(0.5, Filter.of(x), of="macs")

    def fitted(name: str) -> Pruned:
        pruner = discover().pruner(name)
        return pruner.fit(net, handed(pruner.licence, Unlabeled(x))).prune(target)

    alone, itself = fitted(method), fitted(f"{method}-as-{method}")
    assert itself.removed_channels == alone.removed_channels
    assert all(torch.equal(tensor, alone.state[name]) for name, tensor in itself.state.items())
    other, found = fitted("tp-l2"), fitted(f"{method}-as-tp-l2")
    counts = [{name: len(gone) for name, gone in one.removed_channels.items()} for one in (other, found, alone)]
    assert counts[0] == counts[1] != counts[2]
    assert target.pattern.achieved(target, net, found, x[:1]) >= 0.5


def test_a_method_that_takes_other_amounts_of_channels_is_not_allocated() -> None:
    net, target = Network(image_task().dense(0)), Target(0.5, Filter((1, 6, 6)), of="macs")
    whole = Spoiled(one_more)
    assert set(whole.patterns) == {"filter"}
    with pytest.raises(WfbenchError, match=r"spoiled takes \d+ channels of .* where dear takes \d+: it decides"):
        Allocation(whole, Dear()).fit(net, None).prune(target)


def test_licences_hold_for_channels_too() -> None:
    @dataclasses.dataclass(frozen=True)
    class Peeking(Pruner[Labeled]):
        name = "peeking"
        patterns = ("filter",)

        def fit(self, net: Network, data: Labeled) -> Fitted:
            image_task().test_set.take([0])
            return discover().pruner("filter-l1").fit(net, None)

    with pytest.raises(BrokenRule, match="peeking read corners-norms test in fit"):
        run(case_of(Peeking()))
