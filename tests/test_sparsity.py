"""Masks worked out by hand, and the counts they must meet."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cases import blob_network
from wfbench import Network, Pruned, Target, WfbenchError
from wfbench.pruner import ScoreFitted
from wfbench.sparsity import keep_largest


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
