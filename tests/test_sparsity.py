"""Masks worked out by hand, and the counts they must meet."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from tests.cases import blob_network, blobs
from wfbench import NM, Labeled, Network, Pruned, Target, Unlabeled, Unstructured, WfbenchError
from wfbench.errors import BrokenRule
from wfbench.harness.plugins import discover
from wfbench.pruner import ScoreFitted
from wfbench.sparsity import Scope, keep_largest


def test_masks_by_hand() -> None:
    scores = {"a": torch.tensor([[3.0, 1.0], [2.0, 9.0]]), "b": torch.tensor([0.5, 4.0])}
    found = keep_largest(scores, Target(0.5))
    assert found["a"].tolist() == [[True, False], [False, True]]
    assert found["b"].tolist() == [False, True]
    found = keep_largest(scores, Target(0.5, scope="layer"))
    assert found["a"].tolist() == [[True, False], [False, True]]
    assert found["b"].tolist() == [False, True]
    found = keep_largest(scores, Target(1 / 6))
    assert found["b"].tolist() == [False, True]
    assert found["a"].all()


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    sparsity=st.floats(0, 0.99),
    scope=st.sampled_from(["global", "layer"]),
    levels=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_masks_meet_the_count_and_keep_the_best(
    sizes: list[int], sparsity: float, scope: str, levels: int, seed: int
) -> None:
    """Also with ties: scores take few levels."""
    generator = torch.Generator().manual_seed(seed)
    scores = {str(i): torch.randint(0, levels, (size,), generator=generator).double() for i, size in enumerate(sizes)}
    groups = [scores] if scope == "global" else [{name: tensor} for name, tensor in scores.items()]
    if scope == "layer" and any(round(sparsity * size) == size for size in sizes):
        with pytest.raises(WfbenchError, match="keeps 0 of"):
            keep_largest(scores, Target(sparsity, scope="layer"))
        return
    found = keep_largest(scores, Target(sparsity, scope=scope))
    for group in groups:
        values = torch.cat([scores[name] for name in group])
        kept = torch.cat([found[name] for name in group])
        assert int((~kept).sum()) == round(sparsity * len(values))
        if kept.any() and not kept.all():
            assert values[kept].min() >= values[~kept].max()


@given(
    layers=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9)), min_size=1, max_size=4),
    sparsity=st.floats(0, 0.99),
    levels=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_a_target_in_macs_removes_the_lowest_until_their_share_is_reached(
    layers: list[tuple[int, int]], sparsity: float, levels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = {str(i): torch.randint(0, levels, (n,), generator=generator).double() for i, (n, _) in enumerate(layers)}
    pattern = Unstructured(tuple((str(i), cost) for i, (_, cost) in enumerate(layers)))
    found = torch.cat(list(keep_largest(scores, Target(sparsity, pattern, of="macs")).values()))
    each = [cost for size, cost in layers for _ in range(size)]
    order = sorted(range(len(each)), key=lambda at: (float(torch.cat(list(scores.values()))[at]), at))
    removed, spent = set(), 0
    for at in order:
        if spent >= sparsity * sum(each):
            break
        removed.add(at)
        spent += each[at]
    assert {at for at, kept in enumerate(found.tolist()) if not kept} == removed


@pytest.mark.parametrize(
    ("method", "scope"),
    [
        ("magnitude", "global"),
        ("magnitude", "layer"),
        ("woodfisher-joint", "global"),
        ("wanda", "layer"),
        ("obc", "layer"),
    ],
)
def test_methods_meet_a_target_in_macs(method: str, scope: Scope) -> None:
    """The convolution's 18 weights are used 36 times a sample, the linear layer's 216 once."""
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)))
    x = torch.randn(9, 1, 8, 8)
    pattern = Unstructured(tuple(net.places(x[:1]).items()))
    assert dict(pattern.places) == {"0.weight": 36, "3.weight": 1}
    pruner = discover().pruner(method)
    handed: object = None
    if pruner.licence is not type(None):
        handed = Labeled(x, torch.arange(9) % 3) if pruner.licence is Labeled else Unlabeled(x)
    target = Target(0.6, pattern, scope, "macs")
    found = pruner.fit(net, handed).prune(target)
    gone = {name: int((~found.mask[name]).sum()) for name in net.weights}
    share = (36 * gone["0.weight"] + gone["3.weight"]) / (36 * 18 + 216)
    assert share == pytest.approx(0.6, abs=36 / (36 * 18 + 216))
    assert pattern.achieved(target, net, found, x[:1]) == pytest.approx(share)
    with pytest.raises(BrokenRule, match=r"macs .* are zero; the target is sparsity 0.9"):
        pattern.achieved(Target(0.9, pattern, scope, "macs"), net, found, x[:1])


def test_macs_of_single_weights_need_to_be_told() -> None:
    scores = {"a": torch.ones(3), "b": torch.ones(3)}
    with pytest.raises(WfbenchError, match="of another network: they lack b"):
        keep_largest(scores, Target(0.5, Unstructured((("a", 2),)), of="macs"))
    with pytest.raises(WfbenchError, match=r"give Unstructured\(tuple\(net.places"):
        Target(0.5, of="macs")


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_sparsities_outside_the_range_are_errors(sparsity: float) -> None:
    with pytest.raises(WfbenchError, match="outside \\[0, 1\\)"):
        Target(sparsity)


def test_nan_scores_are_named() -> None:
    with pytest.raises(WfbenchError, match="scores of fc contain NaN"):
        keep_largest({"fc": torch.tensor([1.0, torch.nan])}, Target(0.5))


def test_pruned_rejects_what_its_mask_denies() -> None:
    state = {"a": torch.tensor([1.0, 0.0, 2.0])}
    Pruned(state, {"a": torch.tensor([True, False, True])})
    with pytest.raises(WfbenchError, match="1 weights of a are not zero outside the mask"):
        Pruned(state, {"a": torch.tensor([True, False, False])})
    with pytest.raises(WfbenchError, match="must be bool"):
        Pruned(state, {"a": torch.tensor([1, 0, 1])})
    with pytest.raises(WfbenchError, match="names b"):
        Pruned(state, {"b": torch.tensor([True])})


def test_scores_of_the_wrong_shape_are_named() -> None:
    net = Network(blob_network())
    scores = {name: weight.abs() for name, weight in net.weights.items()}
    scores["3.weight"] = scores["3.weight"].T
    with pytest.raises(WfbenchError, match=r"scores of 3.weight have shape \(8, 3\); they must have shape \(3, 8\)"):
        ScoreFitted(net, scores)


@given(
    n=st.integers(1, 3),
    extra=st.integers(1, 4),
    out=st.integers(1, 3),
    channels=st.integers(1, 11),
    kernel=st.lists(st.integers(1, 3), max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_n_of_m_keeps_the_best_channels_at_each_place_by_loops(
    n: int, extra: int, out: int, channels: int, kernel: list[int], seed: int
) -> None:
    """Linear layers and convolutions of one to three dimensions; with ties, and with a last group that is shorter."""
    m, generator = n + extra, torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (out, channels, *kernel), generator=generator).float()
    mask = keep_largest({"w": scores}, Target(1 - n / m, NM(n, m)))["w"]
    assert mask.shape == scores.shape
    groups = []
    for place in itertools.product(*map(range, kernel)):
        for start in range(0, channels, m):
            groups.append([(channel, *place) for channel in range(start, min(start + m, channels))])
    for filter_scores, filter_mask in zip(scores, mask, strict=True):
        for group in groups:
            values = torch.stack([filter_scores[at] for at in group])
            kept = torch.stack([filter_mask[at] for at in group])
            assert int(kept.sum()) == min(n, len(group))
            if not kept.all():
                assert values[kept].min() >= values[~kept].max()
    flat = torch.arange(scores[0].numel()).reshape(scores[0].shape)
    assert [part.tolist() for part in NM(n, m).columns(scores.shape)] == [
        [int(flat[at]) for at in group] for group in groups
    ]


def test_two_of_four_channels_stay_at_every_place_of_the_kernel() -> None:
    """Every channel is the same nine numbers: ties keep the later channels, wherever the large numbers are."""
    channel = torch.tensor([[9.0, 8, 7], [1, 2, 3], [6, 5, 4]])
    mask = keep_largest({"w": channel.expand(1, 4, 3, 3)}, Target(0.5, NM()))["w"]
    assert mask[0].sum(0).tolist() == [[2, 2, 2]] * 3
    assert mask[0, 2:].all()


def test_a_shorter_last_group_loses_what_is_beyond_n() -> None:
    """Under 2:4 six channels lose two, three lose one, two or one (depthwise) none; the achieved share says so."""
    layers = [nn.Conv2d(6, 3, 1), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 3, groups=2)]
    net = Network(nn.Sequential(*layers))
    target = Target(0.5, NM())
    found = ScoreFitted(net, {name: weight.abs() for name, weight in net.weights.items()}).prune(target)
    removed = {name: int((~mask).sum()) for name, mask in found.mask.items()}
    assert removed == {"0.weight": 3 * 2, "1.weight": 4 * 9, "2.weight": 0, "3.weight": 0}
    share = (6 + 36) / (18 + 108 + 36 + 36)
    assert target.pattern.achieved(target, net, found, torch.zeros(1, 6, 9, 9)) == pytest.approx(share)


@pytest.mark.parametrize(("channels", "kernel"), [(32, (3, 3)), (64, (1, 1)), (64, ())])
def test_two_of_four_is_what_torch_compresses_for_sparse_tensor_cores(channels: int, kernel: tuple[int, ...]) -> None:
    """Compressed and back, nothing of the pruned weight is lost; of a dense one more is.

    Columns are in the order in which tensor cores take a convolution's filters, channels last. Conversion for the
    cores themselves needs a GPU; this is torch's own in plain operations.
    """
    weight = torch.randn(32, channels, *kernel, generator=torch.Generator().manual_seed(0)).half()
    mask = keep_largest({"w": weight.abs()}, Target(0.5, NM()))["w"]

    def there_and_back(dense: Tensor) -> Tensor:
        return sparse_semi_structured_to_dense_cutlass(*sparse_semi_structured_from_dense_cutlass(dense))

    rows = torch.where(mask, weight, 0).movedim(1, -1).reshape(32, -1)
    assert torch.equal(there_and_back(rows), rows)
    dense = weight.movedim(1, -1).reshape(32, -1)
    assert not torch.equal(there_and_back(dense), dense)


@pytest.mark.parametrize("method", [name for name, pruner in discover().pruners.items() if "n:m" in pruner.patterns])
def test_methods_that_reach_n_of_m_meet_it(method: str) -> None:
    pruner, net, data = discover().pruner(method), Network(blob_network()), Labeled(*blobs(8, 1))
    handed = {Labeled: data, Unlabeled: Unlabeled(data.inputs), type(None): None}[pruner.licence]
    fitted, target = pruner.fit(net, handed), Target(0.5, NM(2, 4), pruner.scope)
    pruned = fitted.prune(target)
    assert target.pattern.achieved(target, net, pruned, data.inputs[:1]) == 0.5
    for weight in net.weights:
        groups = pruned.state[weight].reshape(-1, 4) != 0
        assert (groups.sum(1) <= 2).all()
    none = Target(0.0, NM(2, 4), pruner.scope)
    assert none.pattern.achieved(none, net, fitted.prune(none), data.inputs[:1]) == 0


def test_a_broken_n_of_m_pattern_is_a_broken_rule() -> None:
    net = Network(blob_network())
    target = Target(0.5, NM(2, 4))
    scores = {name: weight.abs() for name, weight in net.weights.items()}
    free = ScoreFitted(net, scores).prune(Target(0.5))
    with pytest.raises(BrokenRule, match=r"groups with [34] non-zero weights; the pattern is 2:4"):
        target.pattern.achieved(target, net, free, torch.zeros(1, 4))
    sparser = ScoreFitted(net, scores).prune(Target(0.75, NM(1, 4)))
    with pytest.raises(BrokenRule, match="2:4 removes"):
        target.pattern.achieved(target, net, sparser, torch.zeros(1, 4))


def test_n_of_m_does_not_cover_transposed_convolutions() -> None:
    net, target = Network(nn.Sequential(nn.ConvTranspose2d(4, 8, 2))), Target(0.5, NM())
    found = ScoreFitted(net, {name: weight.abs() for name, weight in net.weights.items()}).prune(target)
    with pytest.raises(WfbenchError, match=r"0.weight is of a transposed convolution, which 2:4 does not cover"):
        target.pattern.achieved(target, net, found, torch.zeros(1, 4, 3, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NM(4, 4), "4:4 is no pattern"),
        (lambda: Target(0.6, NM()), "2:4 removes 0.5 of the weights, not 0.6"),
        (lambda: Target(0.5, NM(), of="macs"), "counts weights, not macs"),
    ],
)
def test_patterns_and_targets_that_do_not_fit_are_errors(make: object, message: str) -> None:
    with pytest.raises(WfbenchError, match=message):
        make()
