"""A task that breaks fails its own cases, with the reason; the others run, and once it is mended so do its own."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import blob_task, blobs, case_of
from tests.test_suites import suites
from wfbench import Case, Runner, Sampling, run
from wfbench.harness.plugins import Registry
from wfbench.harness.store import SameBits, Store

TASKS = """
import sys
import torch
from dataclasses import replace
from torch import nn
from tests.cases import blob_network, blob_task, blobs
from wfbench import Task

class Raises:
    def __len__(self):
        return 300
    def __getitem__(self, index):
        if index == 17:
            raise OSError("bad JPEG")
        return blobs(300, 0)[0][index], index % 3

class Uncopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("holds a lock")

def quits():
    sys.exit(3)

good = blob_task("good")
TASKS = [
    good,
    replace(good, name="raises", train=Raises() if BROKEN else good.train),
    replace(good, name="uncopied", module=nn.Sequential(Uncopied(4, 3))),
    replace(good, name="normed", module=nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))),
    replace(good, name="quits", module=quits),
    replace(good, name="bare", module=nn.Sequential(nn.ReLU())),
    replace(good, name="half", module=blob_network().to(torch.bfloat16)),
]
"""
GRID = ["-m", "smoke", "--methods", "magnitude", "--budgets", "4", "--sparsities", "0.5", "--seeds", "1"]
GRID += ["--recoveries", "none"]

REASONS = {
    "raises": r"task: OSError: bad JPEG \(raises train\[17\]\)$",
    "uncopied": r"task: .*cannot be copied \(TypeError: holds a lock\); give `module` as a network that copy",
    "normed": r"task: layer 0 of Sequential cannot be copied: .* torch.nn.utils.remove_weight_norm",
    "quits": "task: SystemExit: 3$",
    "bare": "task: Sequential has no linear or convolution weight to prune",
}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "smoke.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch, about the old weight_norm
def test_a_task_that_breaks_fails_its_own_cases_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(f"BROKEN = True\n{TASKS}")
    names = "good,raises,uncopied,normed,quits,bare,half"
    arguments = [*GRID, "--results", str(tmp_path), "--task-path", str(tmp_path / "tasks.py"), "--tasks", names]
    found = suites(*arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    first = {one["task"]: one for one in records(tmp_path)}
    reasons = {name: one["reason"] for name, one in first.items()}
    assert first["good"]["status"] == first["half"]["status"] == "ok"
    for name, reason in REASONS.items():
        assert first[name]["status"] == "failed"
        assert re.match(reason, first[name]["reason"]), reasons
        assert first[name]["environment"]["test"] is None  # by which the record answers no mended task
    assert "raises" in (tmp_path / "tables" / "smoke-failures.md").read_text()


def test_the_failed_record_answers_as_long_as_the_task_breaks_in_this_way(tmp_path: Path) -> None:
    store, proofs = Store(tmp_path / "smoke.jsonl"), SameBits(tmp_path)

    def known(case: Case) -> bool:
        return store.find((runner := Runner()).question(case), runner.code(case), proofs) is not None

    broken, otherwise, mended = (task_of(breaks) for breaks in (OSError("bad JPEG"), OSError("no such file"), None))
    store.append(run(broken))
    assert store.records[0]["reason"] == "task: OSError: bad JPEG (blobs train[17])"
    assert known(broken)
    assert not known(otherwise)
    assert not known(mended)
    assert run(mended).status == "ok"


def task_of(breaks: Exception | None) -> Case:
    """A case of a task whose sample 17 raises, or of the same without that."""

    class Samples(list[tuple[Tensor, int]]):
        def __getitem__(self, index: Any) -> Any:
            if breaks is not None and index == 17:
                raise type(breaks)(*breaks.args)
            return super().__getitem__(index)

    task = blob_task()
    x, y = blobs(300, 0)
    return case_of("magnitude", task=replace(task, train=Samples(zip(x, y.tolist(), strict=True))))


def test_a_subset_of_a_broken_test_split_fails_its_cases() -> None:
    def unread() -> Any:
        raise OSError("no such file")

    registry = Registry(tasks={"blobs": replace(blob_task(), test=unread)})
    record = run(case_of("magnitude", task=registry.task("blobs[50]")))
    assert (record.task, record.reason) == ("blobs[50]", "task: OSError: no such file")


def test_a_draw_that_cannot_be_had_is_a_failed_row() -> None:
    rare = replace(blob_task(), train=(blobs(300, 0)[0], (torch.arange(300) > 1).long()))
    record = run(replace(case_of("taylor", budget=6, task=rare), sampling=Sampling("k-shot")))
    assert (record.status, record.n_inputs, record.n_labels) == ("failed", 0, 0)
    assert record.reason == "draw: blobs train: the rarest class has 2 samples, fewer than 3"
