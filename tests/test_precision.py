"""Runs multiply float32 as float32, with deterministic kernels on an accelerator, and leave the user's flags alone."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, backends

import wfbench
from benchmarks.tf32 import AsOnCuda, rounded
from tests.cases import REGISTRY, blob_network, blobs
from wfbench import Case, Dataset, Network, Runner, Target, WfbenchError, fisher_rows
from wfbench.execution.precision import ACCELERATOR, FP32, precise
from wfbench.harness.record import SCIENCE
from wfbench.harness.reuse import question
from wfbench.recoveries.names import RECOVERIES
from wfbench.tasks.evaluate import _sent, evaluate, evaluation_batch

CPU, CARD = torch.device("cpu"), torch.device("cuda")
TASK = REGISTRY.task("digits-cnn[50]")
CASE = Case(TASK, 8, 0, 0, Target(0.8), REGISTRY.pruner("woodfisher-joint"), RECOVERIES["repair"])


def told() -> list[str]:
    return [where.fp32_precision for where in FP32]


def under_a_general_one() -> list[str]:
    """Which go by the general one, and so read `ieee` here, is not to be seen in what they read otherwise."""
    before: str = backends.fp32_precision  # type: ignore[attr-defined]
    backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
    found = told()
    backends.fp32_precision = before  # type: ignore[attr-defined]
    return found


def kernels() -> tuple[Any, ...]:
    filled: Any = torch.utils.deterministic
    mode = torch.get_deterministic_debug_mode(), filled.fill_uninitialized_memory
    return *mode, backends.cudnn.deterministic, backends.cudnn.benchmark


@pytest.fixture
def tf32() -> Iterator[None]:
    """A user who asked for TF32 everywhere."""
    backends.fp32_precision = "tf32"  # type: ignore[attr-defined]
    yield
    backends.fp32_precision = "none"  # type: ignore[attr-defined]


USERS: list[Callable[[], None]] = [
    lambda: None,
    lambda: setattr(backends, "fp32_precision", "tf32"),
    lambda: setattr(backends.cudnn, "fp32_precision", "tf32"),
    lambda: setattr(backends.cuda.matmul, "fp32_precision", "tf32"),
    lambda: setattr(backends.mkldnn, "fp32_precision", "bf16"),
]


@pytest.mark.parametrize("device", [CPU, CARD], ids=str)
@pytest.mark.parametrize("asked", USERS)
def test_all_is_whole_inside_and_as_before_outside(
    asked: Callable[[], None], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        asked()
        before, going_by_it, chosen = told(), under_a_general_one(), kernels()
        with suppress(ZeroDivisionError), precise(device), precise(device):
            assert set(told()) == {"ieee"}
            assert kernels() == ((2, False, True, False) if device == CARD else chosen)
            assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if device == CARD else None)
            raise ZeroDivisionError
        assert (told(), under_a_general_one(), kernels()) == (before, going_by_it, chosen)
    finally:
        for where in (backends, backends.cudnn, backends.mkldnn, backends.cuda.matmul):
            where.fp32_precision = "none"  # type: ignore[attr-defined]


def test_a_workspace_that_is_not_deterministic_is_refused_where_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with precise(CPU):
        pass
    with pytest.raises(WfbenchError, match="CUBLAS_WORKSPACE_CONFIG is :0:0"), precise(CARD):
        pass


def science(of: Runner) -> dict[str, Any]:
    record = of.run(CASE)
    assert record.status == "ok", record.reason
    return {name: getattr(record, name) for name in SCIENCE}


def test_runs_and_prune_are_out_of_reach_of_tf32(tf32: None) -> None:
    """By an emulation of CUDA's kernels that heeds the flags; rows that no run surrounds show that it rounds."""
    with AsOnCuda() as card:
        science(Runner())
        assert (card.rounded, card.whole > 20) == (0, True)
        wfbench.prune(TASK.dense(), TASK.train_set.take(range(8)), method="woodfisher", recovery="repair")
        assert (card.rounded, card.whole > 30) == (0, True)

    data = TASK.train_set.take(range(8))
    whole = fisher_rows(Network(TASK.dense()), data)
    with AsOnCuda() as card:
        coarse = fisher_rows(Network(TASK.dense()), data)
    assert card.rounded > 0
    assert float(((coarse - whole).norm(dim=1) / whole.norm(dim=1)).median()) > 1e-4


def test_deterministic_kernels_give_the_same_science() -> None:
    with precise(CARD):
        found = science(Runner())
    assert science(Runner()) == found


def test_rounding_is_to_ten_bits_and_to_the_nearest() -> None:
    ulp = 2.0**-10
    given = torch.tensor([1 + 0.4 * ulp, 1 + 0.5 * ulp, 1 + 0.6 * ulp, -1 - 0.5 * ulp, 2 * ulp**3, 0, float("inf")])
    expected = torch.tensor([1, 1 + ulp, 1 + ulp, -1 - ulp, 2 * ulp**3, 0, float("inf")])
    assert torch.equal(rounded(given), expected)


def test_records_of_an_accelerator_say_their_precision_and_answer_no_other_question() -> None:
    module = TASK.dense()
    asked = {device: question(CASE, module, "0" * 64, device) for device in (CPU, CARD)}
    assert "precision" not in asked[CPU].said["environment"]
    assert asked[CARD].said["environment"]["precision"] == ACCELERATOR
    record = json.loads(json.dumps(asked[CARD].said)) | {"code": "c"}
    assert asked[CARD].differences(record) == []
    del record["environment"]["precision"]  # from before runs took care of it
    assert asked[CARD].differences(record) == ["precision"]


def test_evaluation_reads_its_sums_once_and_sends_what_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of all at once; per batch its labels are read, on the host, and two results when all is asked for."""
    data, module = Dataset(blobs(203, 2), "blobs"), blob_network()
    read: list[str] = []
    for name in ("__int__", "__float__", "__bool__", "item", "tolist"):
        told = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda x, told=told, name=name: (read.append(name), told(x))[1])
    found = {batch: evaluate(module, data, batch) for batch in (50, 203)}
    monkeypatch.undo()
    assert len(read) == (5 + 2) + (1 + 2)
    x, y = blobs(203, 2)
    with torch.no_grad():
        logits = module(x)
    for scores in found.values():
        assert scores.correct == sum(int(row.argmax()) == int(label) for row, label in zip(logits, y, strict=True))
        assert scores.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits.double(), y)), rel=1e-6)
    assert evaluation_batch(CPU) == 50 < evaluation_batch(CARD)

    sent: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: (sent.append("pinned"), x)[1])
    monkeypatch.setattr(Tensor, "to", lambda x, *where, **how: (sent.append((*where, how)), x)[1])
    for device in (CPU, CARD):
        _sent(x, device)
    assert sent == [(CPU, {}), "pinned", (CARD, {"non_blocking": True})]
