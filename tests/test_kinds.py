"""The data and networks that people bring work as tensors and logits do, or are refused with what to do."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.cases import blob_network, blob_task, blobs, case_of
from wfbench import Dataset, Labeled, Network, Record, WfbenchError, fisher_rows, run
from wfbench.kinds.samples import as_source

X, Y = blobs(30, 0)
LISTED = list(zip(X, Y.tolist(), strict=True))


@pytest.mark.parametrize(
    "source",
    [
        (X.numpy(), Y.numpy()),
        [X.numpy(), Y.numpy()],
        (X.numpy(), Y.to(torch.int32)),
        (X, Y.tolist()),
        TensorDataset(X, Y),
        [(x.numpy(), np.int64(y)) for x, y in LISTED],
        [(x, torch.tensor([y])) for x, y in LISTED],
        [{"pixel_values": x, "labels": y} for x, y in LISTED],
        [{"label": y, "image": x.numpy()} for x, y in LISTED],
    ],
)
def test_samples_of_every_kind_are_the_same_data(source: Any) -> None:
    found = Dataset(source)
    assert len(found) == 30
    assert found.fingerprint == Dataset((X, Y)).fingerprint
    assert torch.equal(found.take([3, 1]).inputs, X[[3, 1]])
    assert found.take([3, 1]).labels.tolist() == Y[[3, 1]].tolist()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_pictures_are_tensors_between_0_and_1(mode: str, channels: int) -> None:
    values = np.arange(6 * channels, dtype=np.uint8).reshape(2, 3, channels)
    picture = Image.fromarray(values.squeeze(), mode)
    found = Dataset([(picture, 1)]).take([0]).inputs
    torch.testing.assert_close(found, torch.from_numpy(values / np.float32(255)).permute(2, 0, 1)[None])
    doubled = Dataset([(picture, 1)], transform=lambda one: one.resize((6, 4))).take([0]).inputs
    assert doubled.shape == (1, channels, 4, 6)


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter([])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((np.array(["a"]), np.array([0])), "^mine: inputs are no numbers"),
        ((X, Y.float()), r"^mine: labels are torch.float32; give class indices, as labels.long\(\)"),
        ((X.numpy(), Y.double().numpy()), "^mine: labels are torch.float64; give class indices"),
        ([(X[0], 1.5)], r"^mine\[0\] has the label 1.5 of type float; give its class index"),
        ([(X[0], "2")], r"^mine\[0\] has the label '2' of type str; give its class index"),
        ([(X[0], np.float32(1))], r"^mine\[0\]: labels are torch.float32"),
        ([{"image": X[0], "mask": X[0], "label": 1}], r"^mine\[0\] is a dict of image, mask, label; give \(input, lab"),
        ([{"image": X[0]}], r"^mine\[0\] is a dict of image; give"),
        ([(np.zeros((4, 4, 3), np.uint8), 1)], "^mine: inputs are torch.uint8; give a `transform`"),
        ([(Image.new("P", (3, 3)), 1)], r"^pictures of mode P; give `transform=lambda x: x.convert"),
    ],
)
def test_samples_that_cannot_be_taken_are_named_with_what_to_do(source: Any, message: str) -> None:
    with pytest.raises(WfbenchError, match=message):
        Dataset(source, "mine").take([0])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DataLoader(TensorDataset(X, Y)), "^mine is a DataLoader; give what it loads from, `loader.dataset`"),
        (Endless(), r"^mine is a Endless, which has no length and no \[i\]; give a map-style dataset"),
        (iter(LISTED), "^mine is a list_iterator, which has no length"),
    ],
)
def test_what_cannot_be_read_sample_by_sample_is_named(source: Any, message: str) -> None:
    with pytest.raises(WfbenchError, match=message):
        as_source(source, "mine")


def test_inputs_of_different_shapes_are_named() -> None:
    with pytest.raises(WfbenchError, match=r"mine\[0\] has the shape \[4\], mine\[1\] \[3\]; give a `transform`"):
        Dataset([(X[0], 0), (X[1, :3], 1)], "mine").take([0, 1])


class Gives(nn.Module):
    """The clouds' network with another form of output."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.form = blob_network(), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.inner(x))


def record_of(module: nn.Module, method: str = "taylor", **splits: Any) -> Record:
    return run(case_of(method, task=replace(blob_task(), module=module.eval(), **splits)))


@pytest.fixture(scope="module")
def plain() -> Record:
    return record_of(Gives(lambda z: z))


@pytest.mark.parametrize(
    "form",
    [
        lambda z: (z,),
        lambda z: [z, None],
        lambda z: (z, z.mean()),
        lambda z: (z[:, :, None], z),
        lambda z: {"logits": z, "features": 2 * z},
        lambda z: {"out": z},
    ],
)
def test_one_logits_tensor_among_outputs_is_what_is_scored(form: Callable[[Tensor], Any], plain: Record) -> None:
    found = record_of(Gives(form))
    assert (found.status, found.accuracy, found.loss) == ("ok", plain.accuracy, plain.loss)


def test_rows_of_a_network_that_gives_a_dict() -> None:
    data = Labeled(X[:6], Y[:6])
    wanted = fisher_rows(Network(Gives(lambda z: z)), data)
    assert torch.equal(fisher_rows(Network(Gives(lambda z: {"logits": z})), data), wanted)


def double(x: Tensor) -> Tensor:
    return x.double()


@pytest.mark.parametrize("method", ["taylor", "woodfisher", "lobs"])
def test_inputs_and_network_of_different_precision_work(method: str) -> None:
    """Bits of float32 inputs are kept in float64; a float64 network is the float32 one to rounding."""
    usual = record_of(blob_network(), method)
    doubled = record_of(blob_network(), method, transform=double)
    assert (doubled.accuracy, doubled.loss) == (usual.accuracy, usual.loss)
    wide = record_of(blob_network().double(), method)
    assert wide.status == "ok"
    assert float(wide.dense_loss or 0) == pytest.approx(float(usual.dense_loss or 0), rel=1e-6)


def test_a_network_in_half_precision_is_scored() -> None:
    found = record_of(blob_network().to(torch.bfloat16), "magnitude")
    assert found.status == "ok"
    assert float(found.dense_accuracy or 0) > 0.9


def test_a_network_within_data_parallel_is_the_network(plain: Record) -> None:
    found = record_of(nn.DataParallel(Gives(lambda z: z)))
    assert (found.status, found.accuracy, found.loss) == ("ok", plain.accuracy, plain.loss)
    assert list(Network(nn.DataParallel(blob_network())).weights) == ["0.weight", "3.weight"]


@pytest.mark.parametrize(
    ("form", "labels", "message"),
    [
        (lambda z: z, nn.functional.one_hot, r"shape \[8, 3\] .*; give labels as class indices, .* labels.argmax\(1\)"),
        (
            lambda z: z,
            lambda y: y[:, None].repeat(1, 5),
            r"logits \[n, classes, \*places\] for labels of shape \[8, 5\]",
        ),
        (
            lambda z: z[:, None].repeat(1, 5, 1),
            lambda y: y[:, None].repeat(1, 5),
            r"shape \[8, 5, 3\] .*; return logits .*, as by .movedim\(-1, 1\)",
        ),
    ],
)
def test_labels_that_are_not_one_a_place_are_named_with_what_to_do(
    form: Callable[[Tensor], Any], labels: Callable[[Tensor], Tensor], message: str
) -> None:
    (x, y), (test, answers) = blobs(300, 0), blobs(60, 2)
    found = record_of(Gives(form), train=(x, labels(y)), test=(test, labels(answers)))
    assert found.status == "failed"
    assert re.search(message, str(found.reason)), found.reason


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda z: z[:, 0], r"gives an output of shape \[8\] for 8 samples of blobs test; for two classes return two"),
        (lambda z: z[:, :1], r"shape \[8, 1\] for 8 samples .* torch.stack\(\[torch.zeros_like\(z\), z\], 1\)"),
        (lambda z: z[:, :, None, None], r"shape \[8, 3, 1, 1\] .*; return logits \[n, classes\], as by .flatten\(1\)"),
        (lambda z: z[:, :, None].expand(-1, -1, 5), r"shape \[8, 3, 5\] .*; return logits \[n, classes\], one label"),
        (lambda z: z.mean(), r"shape \[\] .*; return logits \[n, classes\]"),
        (lambda z: z.repeat(2, 1), r"shape \[16, 3\] .*; keep the samples on the first axis"),
        (lambda z: (z, 2 * z), r"gives a tuple \(0: \[8, 3\], 1: \[8, 3\]\) with 2 tensors \[n, classes\]; return the"),
        (lambda z: {}, r"gives a dict \(no tensor in it\) with no tensors \[n, classes\]"),
        (lambda z: "cat", r"gives a str \(no tensor in it\)"),
        (lambda z: z / 0, "the logits of Gives on blobs test contain NaN or infinite values"),
    ],
)
def test_outputs_that_are_no_logits_are_named_with_what_to_do(form: Callable[[Tensor], Any], message: str) -> None:
    found = record_of(Gives(form))
    assert found.status == "failed"
    assert re.match(f"task: .*{message}", str(found.reason)), found.reason
