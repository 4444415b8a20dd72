"""`wfbench`: list, check, fetch, train, prune, tables, report, compare, doctor."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from wfbench import pruning_cli
from wfbench.composed.transplant import KEPT
from wfbench.conformance import checks
from wfbench.errors import WfbenchError
from wfbench.harness.plugins import Registry, discover, pruners_in
from wfbench.harness.record import environment
from wfbench.harness.requalify import requalify
from wfbench.harness.store import latest, read, record_files
from wfbench.report import files as pages
from wfbench.report import html as report
from wfbench.report.compare import compare
from wfbench.report.frames import write_parquet
from wfbench.report.tables import harmless
from wfbench.tasks import checkpoints, digits, fashion
from wfbench.tasks.cache import cache_folder
from wfbench.tasks.evaluate import evaluate
from wfbench.tasks.recipes import RECIPES
from wfbench.tasks.task import Task
from wfbench.tasks.training import train


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 0 when all is well, 1 when a check failed, 2 for an error the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()  # here, where a reader that left is no error, and not at the interpreter's end
        return status
    except WfbenchError as error:
        print(f"wfbench: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "wfbench",
        description="Benchmark of pruning with little data. Suites run through pytest: pytest suites -m smoke",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], int], about: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=about, description=about)
        found.set_defaults(run=run)
        return found

    listing = command("list", _list, "List methods and tasks.")
    _plugin_paths(listing)
    listing.add_argument("--json", action="store_true", help="print JSON")
    checking = command("check", _check, "Run the conformance kit on methods: what every plugin must keep.")
    checking.add_argument(
        "targets", nargs="*", metavar="TARGET", help="a method, or a file or folder of methods; default: all methods"
    )
    checking.add_argument("--json", action="store_true", help="print JSON")
    _plugin_paths(checking)
    fetching = command("fetch", _fetch, "Prepare the data and weights of tasks, and say where they are.")
    fetching.add_argument("tasks", nargs="*", metavar="TASK", help="default: all")
    training = command("train", _train, "Train the dense checkpoint of a task by its recorded recipe.")
    training.add_argument("task", choices=sorted(RECIPES), metavar="TASK", help=", ".join(sorted(RECIPES)))
    training.add_argument("--seed", type=int, default=0, help="training seed (default 0)")
    training.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of the checkpoint and its registry.json (default: checkpoints/ in the cache folder)",
    )
    pruning = command("prune", pruning_cli.prune, pruning_cli.ABOUT)
    pruning_cli.add_arguments(pruning)
    _plugin_paths(pruning)
    tabling = command("tables", _tables, "Regenerate the tables of every record file.")
    tabling.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a table or figure is not what the records give"
    )
    tabling.add_argument("--parquet", type=Path, metavar="FILE", help="write every case to this Parquet file as well")
    tabling.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    reporting = command("report", _report, "Write report/index.html: every case in one page that opens from disk.")
    reporting.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if it is not what the records give"
    )
    reporting.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    comparing = command(
        "compare", _compare, "Compare two result folders, paired by case; exit 1 if the second is significantly worse."
    )
    comparing.add_argument("a", type=Path, metavar="A", help="results folder")
    comparing.add_argument("b", type=Path, metavar="B", help="results folder")
    comparing.add_argument("--all", action="store_true", help="show what did not change, too")
    comparing.add_argument("--json", action="store_true", help="print JSON")
    requalifying = command(
        "requalify", _requalify, "Show by cases run again that changed code gives the bits of stored records."
    )
    requalifying.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    requalifying.add_argument("--tasks", metavar="A,B", help="tasks to look at (default: all)")
    requalifying.add_argument("--json", action="store_true", help="print JSON")
    _plugin_paths(requalifying)
    doctor = command("doctor", _doctor, "Check versions, data, checkpoints, dense accuracies and record files.")
    doctor.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    doctor.add_argument("--device", default="cpu", help="default: cpu")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    _plugin_paths(doctor)
    return parser


def _plugin_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--baseline-path", action="append", default=[], metavar="PATH", help="file or folder of methods"
    )
    parser.add_argument("--task-path", action="append", default=[], metavar="PATH", help="file or folder of tasks")


def _registry(options: argparse.Namespace) -> Registry:
    return discover(options.baseline_path, options.task_path)


def _list(options: argparse.Namespace) -> int:
    registry = _registry(options)
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
        print(json.dumps({"methods": methods, "tasks": tasks, "failures": registry.failures}, indent=1))
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
        for origin, reason in registry.failures.items():
            print(f"\nleft out: {origin}: {reason}")
    return 0


def _check(options: argparse.Namespace) -> int:
    registry = _registry(options)
    outcomes: list[checks.Outcome] = []
    for target in options.targets or sorted(registry.pruners):
        if target not in registry.pruners and Path(target).exists():
            pruners, failures = pruners_in(target)
            outcomes += [checks.Outcome(origin, "loads", "failed", reason) for origin, reason in failures.items()]
        else:
            pruners = [registry.pruner(target)]
        for pruner in tqdm(pruners, desc=target, unit="method", leave=False, disable=None):
            outcomes += checks.check(pruner)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if options.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    else:
        print(tabulate([asdict(outcome) for outcome in outcomes], headers="keys", maxcolwidths=[None, None, None, 80]))
        methods = len({outcome.method for outcome in outcomes})
        print(f"\n{methods} methods, {len(outcomes)} checks, {failed} failed")
    return 1 if failed else 0


def _fetch(options: argparse.Namespace) -> int:
    registry = discover()
    for task in [registry.task(name) for name in options.tasks or registry.tasks]:
        where = fashion.fetch() if task in fashion.TASKS else "scikit-learn"
        for replicate in range(task.replicates):
            task.dense(replicate)
        print(f"{task.name}: data in {where}, {task.replicates} verified checkpoint(s) in {checkpoints.FOLDER}")
    return 0


def _train(options: argparse.Namespace) -> int:
    task = next(task for task in (*digits.TASKS, *fashion.TASKS) if task.name == options.task)
    build, recipe = RECIPES[task.name]
    out = options.out or cache_folder() / "checkpoints"
    torch.manual_seed(options.seed)
    module = train(build(), task.train_set, recipe, options.seed)
    validation, test = evaluate(module, task.validation_set), evaluate(module, task.test_set)
    path = checkpoints.save(task.name, module, out, options.seed, test.accuracy, asdict(recipe))
    print(f"{task.name}, seed {options.seed}: validation {validation.accuracy:.4f}, test {test.accuracy:.4f}, {path}")
    return 0


def _tables(options: argparse.Namespace) -> int:
    if options.check:
        found = pages.stale(options.results)
        print("\n".join([*found, "run `wfbench tables`"]) if found else "tables and figures are what the records give")
        return 1 if found else 0
    written = pages.write_all(options.results)
    if not written:
        raise WfbenchError(f"no record files (*.jsonl) in {options.results}; run a suite first, or give --results")
    if options.parquet:
        written.append(write_parquet(options.results, options.parquet))
    for path in written:
        print(path)
    return 0


def _report(options: argparse.Namespace) -> int:
    if options.check:
        problem = report.stale(options.results)
        print(f"{problem}; run `wfbench report`" if problem else "the report is what the records give")
        return 1 if problem else 0
    print(report.write(options.results))
    return 0


def _compare(options: argparse.Namespace) -> int:
    found = compare(options.a, options.b)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    changes = found.changes if options.all else found.changes[found.changes["p"] < 1]
    if options.json:
        print(changes.to_json(orient="records", indent=1))
    else:
        shown = changes.assign(**{name: 100 * changes[name] for name in ("difference", "low", "high")})
        cells = shown.map(lambda cell: f"{cell:.3g}" if isinstance(cell, float) else harmless(cell))
        text = tabulate(cells.to_dict("records"), headers="keys", disable_numparse=True) if len(cells) else ""
        alone = f"{found.only_in_a} only in A, {found.only_in_b} only in B"
        print(text, f"{found.pairs} cases in both, {found.identical} of them with the same accuracy; {alone}", sep="\n")
        print("differences are B minus A, in points of accuracy; a failed case scores 0")
    return 1 if len(found.worse) else 0


def _requalify(options: argparse.Namespace) -> int:
    registry = _registry(options)
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
        print(json.dumps({**counts, "differing": differing, "unprovable": unprovable}, indent=1))
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
    registry = _registry(options)
    for origin, reason in registry.failures.items():
        checks.append({"check": f"plugin {origin}", "ok": False, "found": reason})
    for task in registry.tasks.values():
        check(f"data of {task.name}", lambda task=task: f"train {len(task.train_set)}, test {len(task.test_set)}")  # type: ignore[misc]
        for replicate in range(task.replicates):
            check(
                f"dense accuracy of {task.name}, checkpoint {replicate}",
                lambda task=task, r=replicate: _dense_accuracy(task, r, options.device),  # type: ignore[misc]
            )
    for path in record_files(options.results):
        check(f"records in {path}", lambda path=path: f"{len(latest(read(path)))} cases")  # type: ignore[misc]
    if options.json:
        print(json.dumps(checks, indent=1))
    else:
        for entry in checks:
            print(f"{'ok  ' if entry['ok'] else 'FAIL'} {entry['check']}: {entry['found']}")
    return 0 if all(entry["ok"] for entry in checks) else 1


def _dense_accuracy(task: Task, replicate: int, device: str) -> str:
    scores = evaluate(task.dense(replicate).to(device), task.test_set)
    task.check_registered(replicate, scores)
    return f"{scores.accuracy:.4f} ({scores.correct} of {scores.total})"
