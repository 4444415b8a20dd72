"""Draws and datasets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from tests.cases import blobs
from wfbench import Dataset, Labeled, Unlabeled, WfbenchError, draw
from wfbench.data import draw_indices


@given(size=st.integers(1, 400), seed=st.integers(0, 50), data=st.data())
@settings(max_examples=60, deadline=None)
def test_draws_are_ordered_prefixes_without_repetition(size: int, seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, size))
    m = data.draw(st.integers(1, n))
    large = draw_indices(size, n, seed)
    assert draw_indices(size, m, seed) == large[:m]
    assert len(set(large)) == n
    assert all(0 <= index < size for index in large)


def test_every_sample_is_as_likely_as_every_other() -> None:
    """4000 draws of 5 of 20: each index about 1000 times; the bound is five standard deviations."""
    counts = torch.zeros(20)
    for seed in range(4000):
        counts[draw_indices(20, 5, seed)] += 1
    assert ((counts - 1000).abs() < 5 * (4000 * 0.25 * 0.75) ** 0.5).all()


def test_a_draw_does_not_look_at_labels_or_global_generators() -> None:
    x, y = blobs(50, 0)
    torch.manual_seed(1)
    one = draw((x, y), 10, 3)
    torch.manual_seed(2)
    other = draw((x, (y + 1) % 3), 10, 3)
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal((one.labels + 1) % 3, other.labels)
    assert not torch.equal(one.inputs, draw((x, y), 10, 4).inputs)


@pytest.mark.parametrize(("n", "message"), [(0, "budget 0"), (-3, "budget -3"), (51, "at most 50")])
def test_impossible_budgets_are_errors(n: int, message: str) -> None:
    with pytest.raises(WfbenchError, match=message):
        draw(blobs(50, 0), n, 0)


def test_labeled_is_not_an_unlabeled() -> None:
    x, y = blobs(5, 0)
    assert not isinstance(Labeled(x, y), Unlabeled)
    assert not hasattr(Unlabeled(x), "labels")
    with pytest.raises((WfbenchError, TypeCheckError), match="labels"):  # the hook may be first
        Labeled(x, y[:3])


def test_map_style_datasets_and_tensor_pairs_are_the_same_data() -> None:
    x, y = blobs(23, 0)
    pair = Dataset((x, y))
    listed = Dataset([(a, int(b)) for a, b in zip(x, y, strict=True)])
    assert pair.fingerprint == listed.fingerprint
    assert torch.equal(draw(pair, 7, 0).inputs, draw(listed, 7, 0).inputs)
    assert [len(batch) for batch in listed.batches(10)] == [10, 10, 3]
    changed = x.clone()
    changed[-1, -1] += 1
    assert Dataset((changed, y)).fingerprint != pair.fingerprint
    assert Dataset((x, (y + 1) % 3)).fingerprint != pair.fingerprint


def test_transform_is_applied_to_single_inputs() -> None:
    x, y = blobs(6, 0)
    doubled = Dataset((x, y), transform=lambda one: 2 * one)
    assert torch.equal(doubled.take([3, 1]).inputs, 2 * x[[3, 1]])
    assert doubled.fingerprint != Dataset((x, y)).fingerprint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(2)), "3 inputs but 2 labels"),
        ((torch.zeros(3, 2, dtype=torch.uint8), torch.zeros(3)), "give a `transform`"),
        ([1, 2, 3], "is not an \\(input, label\\) pair"),
        ([("text", 0)], "is a str, not a tensor"),
    ],
)
def test_bad_datasets_are_named(source: object, message: str) -> None:
    with pytest.raises(WfbenchError, match=message):
        Dataset(source, "mine").take([0])
