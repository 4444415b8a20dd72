"""Draws and datasets."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from tests.cases import blob_task, blobs
from wfbench import (
    Case,
    CrossValidated,
    Dataset,
    Labeled,
    Sampling,
    Target,
    Unlabeled,
    WfbenchError,
    WoodFisherUnlabeled,
    draw,
    run,
)
from wfbench.data import Augment
from wfbench.draws import draw_indices
from wfbench.harness.plugins import discover
from wfbench.recoveries.names import RECOVERIES


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
        ([1, 2, 3], "is a int, not a tensor"),
        ([(torch.zeros(2), 0, 0)], "is not an \\(input, label\\) pair"),
        ([("text", 0)], "is a str, not a tensor"),
    ],
)
def test_bad_datasets_are_named(source: object, message: str) -> None:
    with pytest.raises(WfbenchError, match=message):
        Dataset(source, "mine").take([0])


K_SHOT = Sampling("k-shot")


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_k_shot_draws_have_as_many_of_every_class_and_nest(seed: int) -> None:
    x, _ = blobs(90, 0)
    labels = torch.tensor([0] * 60 + [1] * 20 + [2] * 10)
    large = draw((x, labels), 30, seed, K_SHOT)
    assert large.labels.bincount().tolist() == [10, 10, 10]
    assert len(large.inputs.unique(dim=0)) == 30
    for n in (3, 9):
        small = draw((x, labels), n, seed, K_SHOT)
        assert small.labels.bincount().tolist() == [n // 3] * 3
        assert torch.equal(small.inputs, large.inputs[:n])
    assert not torch.equal(large.inputs, draw((x, labels), 30, seed + 1, K_SHOT).inputs)
    listed = [(a, int(b)) for a, b in zip(x, labels, strict=True)]
    assert torch.equal(draw(listed, 9, seed, K_SHOT).inputs, large.inputs[:9])


@pytest.mark.parametrize(
    ("n", "message"),
    [(4, "multiple of the classes"), (33, "rarest class has 10 samples, fewer than 11"), (0, "multiple")],
)
def test_impossible_k_shot_draws_are_errors(n: int, message: str) -> None:
    x, _ = blobs(90, 0)
    with pytest.raises(WfbenchError, match=message):
        draw((x, torch.tensor([0] * 60 + [1] * 20 + [2] * 10)), n, 0, K_SHOT)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_wrong_labels_are_other_classes_at_the_stated_rate_and_nest(share: float) -> None:
    """20 draws of 300: the bound is five standard deviations of a binomial of 6000."""
    x, y = blobs(300, 0)
    wrong, seen = 0, torch.zeros(3, 3)
    for seed in range(20):
        clean, noisy = draw((x, y), 300, seed), draw((x, y), 300, seed, Sampling(wrong_labels=share))
        assert torch.equal(clean.inputs, noisy.inputs)
        assert torch.equal(draw((x, y), 40, seed, Sampling(wrong_labels=share)).labels, noisy.labels[:40])
        different = clean.labels != noisy.labels
        wrong += int(different.sum())
        seen.index_put_(
            (clean.labels[different], noisy.labels[different]), torch.ones(int(different.sum())), accumulate=True
        )
    assert abs(wrong - 6000 * share) < 5 * (6000 * share * (1 - share)) ** 0.5
    others = seen[~torch.eye(3, dtype=torch.bool)]
    assert ((others - wrong / 6).abs() < 5 * (wrong / 6) ** 0.5).all()


def dimmed(x: Tensor, generator: torch.Generator) -> Tensor:
    return x * torch.rand((), generator=generator)


def test_copies_are_of_the_same_samples_and_nest_in_samples_copies_and_draws() -> None:
    """Each sample comes first itself; what is made of it hangs on its place in the data and the copy's number alone."""
    x, y = blobs(50, 0)
    data = Dataset((x, y), "one", augment=dimmed)
    plain, three, five = (draw(data, 10, 3, Sampling(copies=copies)) for copies in (1, 3, 5))
    assert (len(five), five.copies, plain.copies) == (50, 5, 1)
    by_sample = five.inputs.unflatten(0, (10, 5))
    assert torch.equal(by_sample[:, 0], plain.inputs)
    assert torch.equal(by_sample[:, :3], three.inputs.unflatten(0, (10, 3)))
    assert torch.equal(five.labels.unflatten(0, (10, 5)), plain.labels[:, None].expand(10, 5))
    assert torch.equal(draw(data, 4, 3, Sampling(copies=5)).inputs, five.inputs[:20])
    factors = (by_sample[:, 1:] / by_sample[:, :1]).flatten(2).mean(2)
    assert len(factors.unique()) == 40
    torch.manual_seed(5)
    everything = {seed: draw(data, 50, seed, Sampling(copies=2)).inputs for seed in (0, 1)}
    order = {seed: torch.tensor(draw_indices(50, 50, seed)).argsort() for seed in (0, 1)}
    assert torch.equal(*(everything[seed].unflatten(0, (50, 2))[order[seed]] for seed in (0, 1)))


def test_copies_of_a_wrong_label_have_the_same_wrong_label() -> None:
    x, y = blobs(30, 0)
    found = draw(Dataset((x, y), "one", augment=dimmed), 30, 0, Sampling(wrong_labels=0.5, copies=2)).labels
    assert torch.equal(found[::2], draw((x, y), 30, 0, Sampling(wrong_labels=0.5)).labels)
    assert torch.equal(found[::2], found[1::2])


def test_folds_hold_samples_out_with_their_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a damping would be chosen on what the method has seen, moved a little."""
    task, seen = dataclasses.replace(blob_task(), augment=dimmed), []
    fit = WoodFisherUnlabeled.fit
    monkeypatch.setattr(
        WoodFisherUnlabeled, "fit", lambda self, net, data: seen.append(data.inputs) or fit(self, net, data)
    )
    method = WoodFisherUnlabeled(damping=CrossValidated((1.0,), folds=2))
    case = Case(task, 4, 0, 0, Target(0.5), method, RECOVERIES["none"], Sampling(copies=3))
    assert run(case).status == "ok"
    drawn = draw(task.train_set, 4, 0, Sampling(copies=3)).inputs
    for part in (drawn[6:], drawn[:6], drawn):
        assert any(torch.equal(part, inputs) for inputs in seen)
    assert {len(inputs) for inputs in seen} == {6, 12}


def test_unlabelled_copies_count_as_the_samples_they_are_of() -> None:
    task = dataclasses.replace(blob_task(), augment=dimmed)
    case = Case(
        task, 6, 0, 0, Target(0.5, scope="layer"), discover().pruner("wanda"), RECOVERIES["none"], Sampling(copies=4)
    )
    record = run(case)
    assert (record.status, record.n_inputs, record.n_labels, record.copies) == ("ok", 6, 0, 4)
    assert json.loads(record.as_json())["copies"] == 4
    assert "copies" not in json.loads(run(dataclasses.replace(case, sampling=Sampling())).as_json())


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (None, "one has no augmentation to make copies with; give `augment=` to its Task"),
        (lambda x, _: x[:1], r"one\[.*`augment` made torch.float32 \(1,\) of torch.float32 \(2,\); it keeps both"),
        (lambda x, _: x.double(), r"`augment` made torch.float64 \(2,\) of torch.float32"),
        (lambda *_: None, "`augment` made NoneType of"),
        (lambda x, _: x + torch.rand(()), "gives another copy when it is called again; use its generator"),
    ],
)
def test_what_cannot_be_copied_is_an_error(augment: Augment | None, message: str) -> None:
    data = Dataset((torch.randn(5, 2), torch.zeros(5, dtype=torch.int64)), "one", augment=augment)
    with pytest.raises(WfbenchError, match=message):
        draw(data, 2, 0, Sampling(copies=2))
    with pytest.raises(WfbenchError, match="0 copies of a sample: give at least 1"):
        Sampling(copies=0)


@pytest.mark.parametrize("sampling", [K_SHOT, Sampling(wrong_labels=0.1)])
@pytest.mark.parametrize(
    ("method", "recovery", "fits"),
    [
        ("woodfisher", "none", True),
        ("obc", "none", False),
        ("magnitude", "batchnorm", False),
        ("obc", "finetune-200", True),
    ],
)
def test_rule_2_draws_that_look_at_labels_never_pair_with_an_unlabelled_case(
    method: str, recovery: str, fits: bool, sampling: Sampling
) -> None:
    pruner = discover().pruner(method)

    def case() -> Case:
        target = Target(0.5, scope=pruner.scope)
        return Case(blob_task(), 9, 0, 0, target, pruner, RECOVERIES[recovery], sampling)

    if fits:
        assert case().identity()["draw"] == sampling.kind
        return
    with pytest.raises(WfbenchError, match="use it with labelled methods or recoveries"):
        case()


def test_samplings_that_do_not_exist_are_errors() -> None:
    with pytest.raises(WfbenchError, match="outside \\[0, 1\\)"):
        Sampling(wrong_labels=1.0)
    with pytest.raises((WfbenchError, TypeCheckError), match="kind"):
        Sampling("sorted")


class Files:
    """Map-style, a file a sample."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.load(self.folder / f"{index}.pt"), index


def test_a_file_that_changes_is_noticed_at_its_next_reading(tmp_path: Path) -> None:
    for index in range(4):
        torch.save(torch.full((2,), float(index)), tmp_path / f"{index}.pt")
    dataset = Dataset(Files(tmp_path), "mine train")
    assert dataset.fingerprint == Dataset(Files(tmp_path)).fingerprint
    torch.save(torch.full((2,), 7.0), tmp_path / "2.pt")
    assert dataset.take([0, 1, 3]).labels.tolist() == [0, 1, 3]
    with pytest.raises(WfbenchError, match=r"mine train\[2\] is not what it was when it was first read; keep its file"):
        dataset.take([2])
    assert Dataset(Files(tmp_path)).take([2]).inputs.tolist() == [[7, 7]]


def test_a_mapped_file_that_changes_does_not_change_the_data(tmp_path: Path) -> None:
    inputs = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (4, 2))
    dataset = Dataset((torch.from_numpy(inputs), torch.arange(4)))
    inputs[:] = 1
    assert dataset.take(range(4)).inputs.tolist() == [[0, 0]] * 4


def test_what_changes_by_chance_is_noticed() -> None:
    torch.manual_seed(0)
    dataset = Dataset((torch.zeros(4, 2), torch.arange(4)), "mine", lambda x: x + torch.rand(2))
    dataset.take([1])
    with pytest.raises(WfbenchError, match=r"mine\[1\] is not what it was .* free of chance"):
        dataset.take([0, 1])
