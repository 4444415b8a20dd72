"""Tasks without labels, or without a test split: who may run, what is scored, and what it is called."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from tests.cases import blob_network, blobs, case_of
from tests.test_suites import refused, suites
from wfbench import Dataset, Labeled, Runner, Sampling, Task, Unlabeled, WfbenchError, draw, run
from wfbench.draws import draw_indices
from wfbench.output import files
from wfbench.report import frames
from wfbench.tasks.evaluate import agreement

X, Y = blobs(40, 0)
TEST, TEST_LABELS = blobs(60, 2)
TASK = """
from tests.test_unlabelled import unlabelled
TASKS = [unlabelled()]
"""


def unlabelled(**changed: Any) -> Task:
    return Task(**{"name": "blobs", "module": blob_network(), "train": X, **changed})


def by_hand(module: torch.nn.Module, dense: torch.nn.Module, x: Tensor) -> tuple[float, float]:
    """Top-1 agreement, and mean KL(dense‖module), one sample after the other in numpy."""
    with torch.no_grad():
        p, q = (np.exp(net(x).double().numpy()) for net in (dense, module))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    same = sum(int(np.argmax(one) == np.argmax(other)) for one, other in zip(p, q, strict=True))
    divergence = sum(float(sum(a * np.log(a / b))) for a, b in zip(p, q, strict=True))
    return same / len(x), divergence / len(x)


KINDS: dict[str, Callable[[], Any]] = {
    "tensor": lambda: X,
    "array": lambda: X.numpy(),
    "list of tensors": lambda: list(X),
    "dataset of single inputs": lambda: TensorDataset(X),
    "function": lambda: lambda: X,
}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_alone_in_every_shape_are_the_same_draw(kind: str) -> None:
    task = unlabelled(train=KINDS[kind]())
    assert not task.train_set.labelled
    drawn = draw(task.train_set, 8, 3)
    assert isinstance(drawn, Unlabeled)
    assert torch.equal(drawn.inputs, draw((X, Y), 8, 3).inputs)
    assert task.train_set.fingerprint == unlabelled().train_set.fingerprint != Dataset((X, Y)).fingerprint
    with pytest.raises(WfbenchError, match="blobs train has no labels; give pairs of inputs and class indices"):
        _ = task.train_set.labels


def test_a_transform_sees_single_inputs_without_labels() -> None:
    found = Dataset((X * 255).round().to(torch.uint8), transform=lambda x: x.float() / 255).take([3, 1])
    assert isinstance(found, Unlabeled)
    assert torch.equal(found.inputs, (X[[3, 1]] * 255).round().to(torch.uint8).float() / 255)
    assert isinstance(Dataset(TensorDataset(X, Y)).take([0]), Labeled)
    with pytest.raises(WfbenchError, match=r"mixed\[1\] is not an \(input, label\) pair"):
        Dataset([(X[0], 1), X[1], X[2]], "mixed").take([0, 1])


def test_without_a_test_split_the_score_is_agreement_on_the_inputs_not_drawn() -> None:
    task, runner = unlabelled(), Runner()
    case = case_of("magnitude", task=task, seed=3, sparsity=0.6, recovery="repair")
    record = runner.run(case)
    rest = [i for i in range(len(X)) if i not in draw_indices(len(X), 8, 3)]
    module = blob_network()
    module.load_state_dict(runner.recover(case)[1].state)
    same, kl = by_hand(module, blob_network(), X[rest])
    assert (record.status, record.measure, record.agreement) == ("ok", "agreement-undrawn", same)
    assert record.kl == pytest.approx(kl, rel=1e-5)
    assert record.kl > 0
    assert (record.accuracy, record.loss, record.dense_accuracy, record.dense_loss, record.chance) == (None,) * 5
    assert (record.n_inputs, record.n_labels) == (8, 0)
    written = json.loads(record.as_json())
    assert (written["agreement"], written["accuracy"]) == (same, None)
    other = runner.run(case_of("magnitude", task=task, seed=4, sparsity=0.6, recovery="repair"))
    assert other.kl != record.kl  # of other inputs, and not taken from the cache


def test_where_a_draw_leaves_nothing_the_record_says_that_it_was_scored_on_its_own_samples() -> None:
    record = Runner().run(case_of("magnitude", task=unlabelled(), budget=len(X)))
    assert record.measure == "agreement-drawn"


def test_a_test_split_of_inputs_alone_is_scored_by_agreement_and_labels_by_accuracy() -> None:
    runner = Runner()
    case = case_of("magnitude", task=unlabelled(test=TEST), sparsity=0.6)
    record = runner.run(case)
    module = blob_network()
    module.load_state_dict(runner.prune(case)[0].state)
    assert record.agreement == by_hand(module, blob_network(), TEST)[0]
    assert (record.measure, record.accuracy) == ("agreement", None)
    labelled = Runner().run(case_of("magnitude", task=unlabelled(test=(TEST, TEST_LABELS)), sparsity=0.6))
    assert (labelled.measure, labelled.agreement) == (None, None)
    assert labelled.accuracy == float((module(TEST).argmax(1) == TEST_LABELS).double().mean())
    assert "measure" not in json.loads(labelled.as_json())


def test_the_dense_network_agrees_with_itself() -> None:
    found = agreement(blob_network(), blob_network(), Dataset(X))
    assert (found.agreement, found.loss, found.total) == (1.0, 0.0, len(X))


def test_gradual_steps_are_scored_as_the_case_is() -> None:
    record = Runner().run(case_of("gradual[steps=2]-magnitude", task=unlabelled(train=(X, Y), test=TEST)))
    assert record.steps is not None
    assert [set(step) for step in record.steps] == [{"sparsity", "agreement"}] * len(record.steps)


@pytest.mark.parametrize(("method", "recovery"), [("woodfisher", "none"), ("magnitude", "finetune-200")])
def test_what_needs_labels_is_refused_by_name(method: str, recovery: str) -> None:
    reason = run(case_of(method, task=unlabelled(), recovery=recovery)).reason
    needing = method if recovery == "none" else f"recovery {recovery}"
    assert reason == f"draw: {needing} needs labels, and blobs train has none; choose one without"
    balanced = replace(case_of("woodfisher", task=unlabelled()), sampling=Sampling("k-shot"))
    assert "blobs train has no labels" in str(run(balanced).reason)


def test_a_suite_leaves_labelled_methods_out_with_a_word_and_its_tables_say_agreement(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TASK)
    narrow = ["--budgets", "8", "--sparsities", "0.5", "--recoveries", "none,finetune-200", "--seeds", "2"]
    options = ["-m", "unstructured", "--task-path", str(tmp_path / "mine.py"), "--tasks", "blobs", *narrow]
    out = str(tmp_path / "results")
    found = suites(*options, "--methods", "woodfisher,magnitude,wanda", "--results", out)
    assert found.returncode == 0, found.stdout + found.stderr
    said = "left out, as their training samples have no labels: finetune-200, woodfisher on blobs"
    assert said in found.stdout
    records = [json.loads(line) for line in (tmp_path / "results" / "unstructured.jsonl").read_text().splitlines()]
    assert (
        sorted((one["method"], one["recovery"]) for one in records)
        == [("magnitude", "none")] * 2 + [("wanda", "none")] * 2
    )
    title = "blobs, 8 samples, agreement with the dense network on inputs not drawn"
    assert title in found.stdout
    tables = tmp_path / "results" / "tables"
    assert f"## {title}" in (tables / "unstructured.md").read_text()
    assert "Where a title says agreement" in (tables / "unstructured.md").read_text()
    page = (tables / "unstructured-agreement.md").read_text()
    mean = np.mean([one["agreement"] for one in records if one["method"] == "wanda"])
    kl = np.mean([one["kl"] for one in records if one["method"] == "wanda"])
    assert f"{100 * mean:.1f}; {kl:.2g}" in page
    again = suites(*options, "--methods", "magnitude,wanda", "--results", out)
    assert "0 cases run, 4 reused" in again.stdout
    refused(suites(*options, "--methods", "woodfisher"), "there are no labels for finetune-200, woodfisher on blobs")


def test_tables_of_labelled_cases_do_not_speak_of_agreement() -> None:
    records = [json.loads(Runner().run(case_of("magnitude")).as_json())]
    assert not any(b"greement" in content for content in files.render("s", records).values())
    loaded = frames.frame_of(records)
    assert list(loaded["measure"]) == ["accuracy"]
