"""Channels by a guide's amounts or half-way to an even thinning: the amounts by search, the choice made again."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from math import floor, nan
from statistics import mean, stdev
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wfbench import Filter, Network, Target, Unlabeled, WfbenchError, draw
from wfbench.channels.coupled import Coupled
from wfbench.channels.pruner import ChannelPruner, ChannelScores
from wfbench.composed.allocated import Allocation, halfway
from wfbench.composed.matched import channels_taken, taking_channels
from wfbench.harness.plugins import discover
from wfbench.sparsity import Unit

OF = discover().pruner("obs-filter")
SIZES = (4, 8, 16)


@cache
def layers() -> Network:
    torch.manual_seed(0)
    parts = [(nn.Linear(a, b), nn.ReLU()) for a, b in zip((5, *SIZES), SIZES, strict=False)]
    return Network(nn.Sequential(*(one for part in parts for one in part), nn.Linear(SIZES[-1], 3)))


@settings(deadline=None)
@given(st.data(), st.sampled_from(["filters", "params", "macs"]), st.floats(0.05, 0.9))
def test_halfway_is_the_least_power_that_meets_the_target(data: Any, of: Unit, sparsity: float) -> None:
    """By bisection: of m channels `floor(m + ½ − m√(k_e k_g)^c)` go, but one stays."""
    costs = Filter((5,)).costs(layers())
    gone = st.fixed_dictionaries({name: st.integers(1, size - 1) for name, size in costs.groups.items()})
    even, guided = data.draw(gone), data.draw(gone)
    kept = {g: ((m - even[g]) * (m - guided[g]) / m**2) ** 0.5 for g, m in costs.groups.items()}

    def counts(c: float) -> dict[str, int]:
        return {g: min(m - 1, floor(m + 0.5 - m * kept[g] ** c)) for g, m in costs.groups.items()}

    allowed = (1 - sparsity + 1e-9) * costs.total({}, of)
    if costs.total(counts(1000.0), of) > allowed:
        return  # one channel of every group is too much
    low, high = 0.0, 1000.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if costs.total(counts(middle), of) <= allowed else (middle, high)
    found = halfway(costs, even, guided, Target(sparsity, Filter((5,)), of=of))
    before, after = counts(high * (1 - 1e-9)), counts(high * (1 + 1e-9))
    assert all(before[g] <= found[g] <= after[g] for g in found)  # of those that go at one time as many as it takes
    assert costs.total(found, of) <= allowed
    last = [found | {g: found[g] - 1} for g in found if found[g] > before[g]]
    assert any(costs.total(one, of) > allowed for one in last)


class Greedy(ChannelPruner[None]):
    """Takes the first group's channels as long as there is more than one."""

    name: ClassVar[str] = "greedy"

    def channel_scores(self, net: Network, groups: list[Coupled], data: None) -> ChannelScores:
        return {group.name: torch.full((group.size,), float(at)) for at, group in enumerate(groups)}


def pictures() -> tuple[Network, Tensor]:
    task = discover().task("digits-cnn")
    return Network(task.dense(0)), draw(task.train_set, 12, 0).inputs


TARGET = Target(0.6, Filter((1, 8, 8)), of="macs")


def again(net: Network, x: Tensor, ways: list[Mapping[str, int]]) -> list[list[float]]:
    """What every way costs each fourth of the samples, fitted on the others: KL of the logits [nats]."""
    found = []
    for part in range(4):
        held = torch.arange(len(x)) // (len(x) // 4) == part
        fitted = OF.fit(net, Unlabeled(x[~held]))
        dense = net.logits({}, x[held]).double().log_softmax(1)
        states = [taking_channels(fitted, "", TARGET, way, "").state for way in ways]
        logs = [net.logits(state, x[held]).double().log_softmax(1) for state in states]
        found.append([float((dense.exp() * (dense - log)).sum(1).mean()) for log in logs])
    return [list(one) for one in zip(*found, strict=True)]


@pytest.mark.parametrize(
    ("guide", "share"), [(Greedy(), 0.5), (discover().pruner("filter-l2"), 1.0), (discover().pruner("thinet"), 1.0)]
)
def test_the_guide_is_followed_half_way_where_that_is_nearer_by_more_than_a_standard_error(
    guide: Any, share: float
) -> None:
    net, x = pictures()
    found = Allocation(OF, guide, led=True).fit(net, Unlabeled(x)).prune(TARGET)
    guided = channels_taken(guide.fit(net, Unlabeled(x)).prune(TARGET))
    even = channels_taken(OF.fit(net, Unlabeled(x)).prune(Target(0.6, TARGET.pattern, "layer", "macs")))
    less = halfway(TARGET.pattern.costs(net), even, guided, TARGET)  # type: ignore[attr-defined]
    changes = again(net, x, [less, guided])
    assert [one["led"] for one in found.trials] == [0.5, 1.0]
    assert [one["change"] for one in found.trials] == pytest.approx([mean(one) for one in changes], rel=1e-6)
    gains = [b - a for a, b in zip(*changes, strict=True)]
    assert (mean(gains) > stdev(gains) / 2) == (share == 0.5)
    assert channels_taken(found) == (less if share == 0.5 else guided)
    assert TARGET.pattern.achieved(TARGET, net, found, x[:1]) >= 0.6


def test_the_choice_looks_at_a_hundred_samples_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more it is that of the first ones."""
    net, x = pictures()
    first = Allocation(OF, Greedy(), led=True).fit(net, Unlabeled(x[:8])).prune(TARGET)
    monkeypatch.setattr("wfbench.composed.allocated.MOST", 8)
    found = Allocation(OF, Greedy(), led=True).fit(net, Unlabeled(x)).prune(TARGET)
    assert found.trials == first.trials
    assert channels_taken(found) == channels_taken(first)


def test_copies_are_held_out_with_their_sample() -> None:
    """Copies that are the sample itself change nothing; in a fold of their own they would have been seen."""
    net, x = pictures()
    alone = Allocation(OF, Greedy(), led=True).fit(net, Unlabeled(x)).prune(TARGET)
    twice = Allocation(OF, Greedy(), led=True).fit(net, Unlabeled(x.repeat_interleave(2, 0), 2)).prune(TARGET)
    assert [one["change"] for one in twice.trials] == pytest.approx([one["change"] for one in alone.trials], rel=1e-6)


@pytest.mark.parametrize(
    ("n", "target"),
    [(1, TARGET), (12, replace(TARGET, scope="layer")), (12, replace(TARGET, sparsity=0.0))],
)
def test_one_sample_even_thinning_and_no_sparsity_leave_nothing_to_choose(n: int, target: Target) -> None:
    net, x = pictures()
    both = [Allocation(OF, Greedy(), led=led).fit(net, Unlabeled(x[:n])).prune(target) for led in (False, True)]
    assert not both[1].trials
    assert both[0].removed_channels == both[1].removed_channels
    assert all(torch.equal(tensor, both[1].state[name]) for name, tensor in both[0].state.items())


def test_what_is_no_number_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = pictures()
    fitted = Allocation(OF, Greedy(), led=True).fit(net, Unlabeled(x))
    monkeypatch.setattr(Network, "change", lambda *_: nan)
    found = fitted.prune(TARGET)
    assert found.trials == ({"led": 0.5}, {"led": 1.0})
    assert channels_taken(found) == channels_taken(Greedy().fit(net, None).prune(TARGET))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("obc-led-by-obs-filter", "obc reaches unstructured, obs-filter reaches filter; give two of whole channels"),
        ("obs-filter-led-by-obc", "obs-filter reaches filter, obc reaches unstructured; give two of whole channels"),
        ("filter-l1-led-by-filter-l2", "neither sees samples"),
    ],
)
def test_methods_that_do_not_go_together_are_refused(name: str, problem: str) -> None:
    with pytest.raises(WfbenchError, match=f"{name}: {problem}"):
        discover().pruner(name)
