"""`wfbench requalify` and `wfbench doctor`: whether records still hold, and whether everything is there."""

import argparse
import json
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from wfbench.commands import Commands
from wfbench.commands.base import add_device, add_json, add_plugin_paths, add_results, print_json, registry_of
from wfbench.harness.record import environment
from wfbench.harness.store import latest, read, record_files
from wfbench.network import Network
from wfbench.proofs.requalify import requalify
from wfbench.storage.lines import Damaged
from wfbench.tasks.cache import cache_folder
from wfbench.tasks.evaluate import Scores, evaluate, standard_error
from wfbench.tasks.task import Task


def add(commands: Commands) -> None:
    """The commands of this module."""
    requalifying = commands.add("requalify", _requalify)
    requalifying.add_argument("--tasks", metavar="A,B", help="tasks to look at (default: all)")
    doctor = commands.add("doctor", _doctor)
    doctor.add_argument("tasks", nargs="*", metavar="TASK", help="default: all but those on request")
    add_device(doctor)
    for parser in (requalifying, doctor):
        add_results(parser)
        add_plugin_paths(parser)
        add_json(parser)


def _requalify(options: argparse.Namespace) -> int:
    registry = registry_of(options)
    tasks = options.tasks.split(",") if options.tasks else [*registry.tasks, *_cut_tasks(options.results)]
    found = requalify(options.results, registry, tasks, (options.baseline_path, options.task_path))
    unprovable = [
        {"suite": suite, "records": count, "why": why} for (suite, why), count in sorted(found.unprovable.items())
    ]
    differing = [
        {
            **{name: getattr(kind, name) for name in ("task", "method", "recovery", "pattern", "old")},
            "records": len(kind.records),
            "other bits in": ", ".join(names),
        }
        for kind, names in found.differing
    ]
    if options.json:
        counts = {"current": found.current, "proved": found.proved}
        print_json({**counts, "differing": differing, "unprovable": unprovable})
        return 0
    for title, rows in (("other bits, so they are run again", differing), ("not provable", unprovable)):
        if rows:
            print(f"{title}:", tabulate(rows, headers="keys", maxcolwidths=60), sep="\n", end="\n\n")
    stale = sum(row["records"] for row in (*differing, *unprovable))
    print(f"{found.current} records current, {found.proved} proved to have the same bits, {stale} stale")
    return 0


def _cut_tasks(results: Path) -> list[str]:
    """Names like `TASK[2000]` in the records."""
    found = {record["task"] for file in record_files(results) for record in read(file)}
    return sorted(name for name in found if name.endswith("]"))


def _doctor(options: argparse.Namespace) -> int:
    checks: list[dict[str, Any]] = []

    def check(what: str, action: Callable[[], str]) -> None:
        try:
            checks.append({"check": what, "ok": True, "found": action()})
        except Exception as error:  # every check is reported, whatever it met
            checks.append({"check": what, "ok": False, "found": str(error) or type(error).__name__})

    check("environment", lambda: json.dumps(environment(torch.device(options.device))))
    check("cache folder", lambda: str(cache_folder()))
    registry = registry_of(options)
    for origin, reason in registry.failures.items():
        checks.append({"check": f"plugin {origin}", "ok": False, "found": reason})
    for task in registry.chosen(options.tasks):
        check(f"data of {task.name}", lambda task=task: _sizes(task))  # type: ignore[misc]
        for replicate in range(task.replicates) if task.test is not None and task.test_set.labelled else ():
            check(
                f"dense accuracy of {task.name}, checkpoint {replicate}",
                lambda task=task, r=replicate: _dense_accuracy(task, r, options.device),  # type: ignore[misc]
            )
    for path in record_files(options.results):
        check(f"records in {path}", lambda path=path: f"{len(latest(_whole(path)))} cases")  # type: ignore[misc]
    if options.json:
        print_json(checks)
    else:
        for entry in checks:
            print(f"{'ok  ' if entry['ok'] else 'FAIL'} {entry['check']}: {entry['found']}")
    return 0 if all(entry["ok"] for entry in checks) else 1


def _whole(path: Path) -> list[dict[str, Any]]:
    """The records of a file without a damaged line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Damaged)
        return read(path)


def _sizes(task: Task) -> str:
    splits = {"train": task.train_set, **({} if task.test is None else {"test": task.test_set})}
    return ", ".join(
        f"{name} {len(found)}{'' if found.labelled else ' without labels'}" for name, found in splits.items()
    )


def _dense_accuracy(task: Task, replicate: int, device: str) -> str:
    scores = evaluate(deepcopy(task.dense(replicate)).to(device), task.test_set)  # the task's own stays where it is
    task.check_registered(replicate, scores)
    error = f"{standard_error(scores):.4f}"
    found = f"{scores.accuracy:.4f} ({scores.correct} of {scores.total}, standard error {error})"
    left_out = Network(task.dense(replicate)).describe_left_out()
    return "; ".join(part for part in (found, _perplexity(scores), left_out) if part)


def _perplexity(scores: Scores) -> str:
    """Where a sample has several places; its standard error is that of the mean loss, times itself."""
    if scores.errors is None:
        return ""
    return f"perplexity {scores.perplexity:.4f}, standard error {scores.perplexity * scores.errors[1]:.4f}"
