"""What is found out of a task before its first case: samples and logits that change, labels, splits that overlap."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.cases import blob_network, blob_task, blobs, case_of
from wfbench import Dataset, Runner, run
from wfbench.kinds.samples import hashes_of

X, Y = blobs(300, 0)
TEST, ANSWERS = blobs(203, 2)


class Counted:
    """Map-style; counts how often it is read, and may give another sample every time."""

    def __init__(self, inputs: Tensor, labels: Tensor, changing: str = "") -> None:
        self.inputs, self.labels, self.changing = inputs, labels, changing
        self.reads = 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        x, y = self.inputs[index], int(self.labels[index])
        return x + self.reads * (self.changing == "inputs"), (y + self.reads) % 3 if self.changing == "labels" else y


class Drops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = blob_network()

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.inner(x), training=True)


class Counts(Drops):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x)


def reason_of(**changes: Any) -> str | None:
    return run(case_of("magnitude", task=replace(blob_task(), **changes))).reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": Counted(X, Y, "inputs")}, r"blobs train\[0\] is not what it was .* free of chance"),
        ({"test": Counted(TEST, ANSWERS, "labels")}, r"blobs test\[[01]\] is not what it was when it was first read"),
        ({"transform": lambda x: x + torch.rand(4)}, r"blobs train\[0\] is not what it was when it was first read"),
        ({"module": Drops().eval()}, "Drops in eval mode gives other logits when it is run again .* F.dropout"),
        ({"module": Counts().eval()}, "Counts changes its own tensors when it is run in eval mode"),
        ({"train": (X, Y + 1)}, "blobs train: labels from 1 to 3, and the network gives .* 3 classes; give .* 0 to 2"),
        ({"test": (TEST, ANSWERS - 1)}, "blobs test: labels from -1 to 1"),
        ({"test": Counted(TEST, ANSWERS * 100)}, "blobs test: labels from 0 to 200"),
        ({"train": (X, Y.double())}, "blobs train: labels are torch.float64; give class indices"),
        ({"test": (TEST[:0], ANSWERS[:0])}, "blobs test is empty; give at least one sample"),
        ({"train": (X[:0], Y[:0])}, "blobs train is empty; give at least one sample"),
        (
            {"test": (X, Y)},
            r"blobs test and blobs train overlap: 300 of 300 inputs .* the first is blobs test\[0\], which is",
        ),
        (
            {"test": (torch.cat([TEST, X[[7, 5]]]), torch.cat([ANSWERS, Y[[5, 7]]]))},
            r"overlap: 2 of 205 inputs .* the first is blobs test\[203\], which is blobs train\[7\]; take them out",
        ),
        ({"test": Counted(X[200:], Y[200:])}, r"blobs test and blobs train overlap: 100 of 100 .* blobs train\[200\]"),
    ],
)
def test_a_task_that_cannot_be_trusted_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    reason = reason_of(**changes)
    assert re.search(f"^task: .*{message}", str(reason)), reason


def test_a_task_is_read_once_but_for_a_few_samples() -> None:
    train, test = Counted(X, Y), Counted(TEST, ANSWERS)
    task, runner = replace(blob_task(), train=train, test=test), Runner()
    for method in ("magnitude", "taylor"):
        runner.question(case_of(method, task=task))
    assert (train.reads, test.reads) == (
        300 + 4,
        203 + 4 + 8,
    )  # the first to see its kind, three again, eight for the network


def test_equal_inputs_alone_have_equal_hashes() -> None:
    """4096 inputs that differ in one bit or in order; counted by exact comparison."""
    x = torch.arange(4096, dtype=torch.int32)[:, None].repeat(1, 3) + torch.tensor([0, 1 << 20, 5], dtype=torch.int32)
    inputs = torch.cat([x, x.flip(1), x[:7]]).view(torch.float32)
    assert len(hashes_of(inputs).unique()) == len({tuple(row) for row in inputs.view(torch.int32).tolist()}) == 8192
    assert torch.equal(hashes_of(inputs)[-7:], hashes_of(inputs[:7]))
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert torch.equal(hashes_of(X.to(dtype)), hashes_of(X.to(dtype).clone()))


def test_a_label_is_read_where_it_stands() -> None:
    found = Dataset(Counted(TEST, ANSWERS)).read_through
    assert torch.equal(found.labels, ANSWERS)
    assert found.sha256 == Dataset((TEST, ANSWERS)).fingerprint
