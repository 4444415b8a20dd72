"""A task that breaks fails its own cases, with the reason; the others run, and once it is mended so do its own."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.test_suites import suites

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
def test_a_task_that_breaks_fails_its_own_cases_until_it_is_mended(tmp_path: Path) -> None:
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

    written = (tmp_path / "smoke.jsonl").read_bytes()
    again = suites(*arguments)
    assert "0 cases run, 7 reused" in again.stdout
    assert (tmp_path / "smoke.jsonl").read_bytes() == written

    (tmp_path / "mended").mkdir()
    (tmp_path / "mended" / "tasks.py").write_text(f"BROKEN = False\n{TASKS}")
    mended = suites(*[argument.replace("/tasks.py", "/mended/tasks.py") for argument in arguments])
    assert "1 cases run, 6 reused" in mended.stdout, mended.stdout
    assert (records(tmp_path)[-1]["task"], records(tmp_path)[-1]["status"]) == ("raises", "ok")
