"""`wfbench list` and `wfbench check`: which methods and tasks there are, and what every method must keep."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from wfbench.commands import Commands
from wfbench.commands.base import add_device, add_json, add_plugin_paths, print_json, registry_of
from wfbench.composed.transplant import KEPT
from wfbench.conformance import checks
from wfbench.conformance.trial import Outcome
from wfbench.execution.worker import Died, Worker
from wfbench.harness.plugins import pruners_in
from wfbench.pruner import Pruner


def add(commands: Commands) -> None:
    """The commands of this module."""
    listing = commands.add("list", _list)
    checking = commands.add("check", _check)
    checking.add_argument(
        "targets", nargs="*", metavar="TARGET", help="a method, or a file or folder of methods; default: all methods"
    )
    add_device(checking)
    for parser in (listing, checking):
        add_plugin_paths(parser)
        add_json(parser)


def _list(options: argparse.Namespace) -> int:
    registry = registry_of(options)
    methods = [
        {
            "name": name,
            "licence": pruner.track,
            "patterns": list(pruner.patterns),
            "scope": pruner.scope,
            "source": pruner.source,
            "fidelity": pruner.fidelity,
            "about": (type(pruner).__doc__ or "").strip().splitlines()[0],
        }
        for name, pruner in sorted(registry.pruners.items())
    ]
    tasks = [
        {"name": task.name, "checkpoints": task.replicates, "accuracies": list(task.accuracies), "about": task.about}
        for task in registry.tasks.values()
    ]
    if options.json:
        print_json({"methods": methods, "tasks": tasks, "failures": registry.failures})
    else:
        shown = [{key: entry[key] for key in ("name", "licence", "scope", "about")} for entry in methods]
        print(tabulate(shown, headers="keys"), tabulate(tasks, headers="keys"), sep="\n\n")
        updates = ", ".join([KEPT, *(name for name, pruner in sorted(registry.pruners.items()) if pruner.updates)])
        print("\nsources, fidelity and patterns: --json. Names made on demand:")
        print(
            "  METHOD[option=value]  another hyper-parameter: woodfisher[damping=1e-3], lobs[damping=cross-validated]"
        )
        print("  gradual-METHOD  in steps on a cubic schedule, with training in between: gradual[steps=4]-magnitude")
        print("  staged-METHOD  in stages, layers repaired in between: staged[stages=4]-woodfisher[damping=1e-3]")
        print("  magnitude-as-METHOD, random-as-METHOD  controls with its layer proportions")
        print(f"  METHOD+UPDATE  its mask with the update of another: {updates}")
        print("  TASK[2000]  scored on a fixed subset of 2000 test samples")
    return 0


def _check(options: argparse.Namespace) -> int:
    registry = registry_of(options)
    failures = {} if options.targets else dict(registry.failures)
    chosen: list[Pruner[Any]] = []
    for target in options.targets or sorted(registry.pruners):
        if target not in registry.pruners and Path(target).exists():
            found, failed = pruners_in(target)
            chosen += found
            failures |= failed
        else:
            chosen.append(registry.pruner(target))
    outcomes = [Outcome(origin, "loads", "failed", reason) for origin, reason in failures.items()]
    worker = Worker(lambda index: checks.check(chosen[index], options.device))
    try:
        for index, pruner in enumerate(tqdm(chosen, unit="method", leave=False, disable=None)):
            try:
                outcomes += worker.ask(index)
            except Died as death:
                reason = f"{death}, and {len(checks.CHECKS)} checks with it; a method returns or raises"
                outcomes.append(Outcome(pruner.name, "runs", "failed", reason))
    finally:
        worker.end()
    bad = sum(outcome.status == "failed" for outcome in outcomes)
    if options.json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        print(tabulate([asdict(outcome) for outcome in outcomes], headers="keys", maxcolwidths=[None, None, None, 80]))
        print(f"\n{len(chosen)} methods, {len(outcomes)} checks, {bad} failed")
    return 1 if bad else 0
