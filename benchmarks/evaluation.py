"""Scoring a network on a test split, beside a bare loop over the same batches, read beforehand."""

from collections.abc import Iterable

import torch
from torch import nn

from benchmarks.interleaving import interleaved
from wfbench import discover
from wfbench.data import Labeled
from wfbench.errors import WfbenchError
from wfbench.tasks.evaluate import evaluate, evaluation_batch
from wfbench.tasks.task import Task

TASKS = {"fashion-resnet20": 500, "imagenet-efficientnet-lite0": 200}
"""And how many samples of the test split are scored."""


def bare(module: nn.Module, batches: Iterable[Labeled]) -> int:
    """Right answers; nothing but passes and their count."""
    right = torch.zeros((), dtype=torch.int64, device=next(module.parameters()).device)
    with torch.inference_mode():
        for part in batches:
            right += (module(part.inputs).argmax(1) == part.labels).sum()
    return int(right)


def measured(task: Task, device: torch.device, repeats: int) -> dict[str, object]:
    """One row.

    Raises:
        ValueError: the two count different answers as right.
    """
    module, data = task.dense(0).to(device).eval(), task.test_set
    read = map(data.with_labels, data.batches(evaluation_batch(device)))
    batches = [Labeled(part.inputs.to(device), part.labels.to(device)) for part in read]
    if (ours := evaluate(module, data).correct) != (theirs := bare(module, batches)):
        raise ValueError(f"{task.name}: evaluate counts {ours} right answers, a bare loop {theirs}")
    times = interleaved(repeats, device, ours=lambda: evaluate(module, data), bare=lambda: bare(module, batches))
    return {
        "task": task.name,
        "n": len(data),
        "ours s": times["ours"],
        "bare loop s": times["bare"],
        "bare loop / ours": times["bare"] / times["ours"],
    }


def rows(device: torch.device, repeats: int) -> list[dict[str, object]]:
    """Of every task that can be had here."""
    found = []
    for name, n in TASKS.items():
        try:
            task = discover().task(name).scored_on(n)
            task.dense(0)
        except WfbenchError as error:
            print(f"\n{name}: {error}")
        else:
            found.append(measured(task, device, repeats))
    return found
