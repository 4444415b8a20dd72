"""`wfbench prune`: one task, one method, one network in a file."""

import argparse
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from wfbench.commands import Commands
from wfbench.commands.base import add_device, add_json, add_memory, add_plugin_paths, print_json, registry_of
from wfbench.curvature.memory import limit_to
from wfbench.deploy import direct
from wfbench.deploy.comparison import NOT_FASTER, costs_of, table
from wfbench.errors import WfbenchError
from wfbench.export import check_onnx, export_onnx, export_program, pruned_network, save
from wfbench.harness.case import Case
from wfbench.harness.record import Record
from wfbench.network import Network
from wfbench.recoveries.names import RECOVERIES
from wfbench.report.frames import MEASURED
from wfbench.sparsity import Scope, Unit
from wfbench.writing import check_file

STAGES = ("read", "prune", "recover and score", "measure", "write")
BUDGET = 100


def add(commands: Commands) -> None:
    """The command of this module."""
    parser = commands.add("prune", prune)
    add_plugin_paths(parser)
    parser.add_argument("task", metavar="TASK", help="any task of `wfbench list`")
    parser.add_argument("--method", metavar="M", help=f"any name of `wfbench list` (default: {direct.USUAL})")
    parser.add_argument("--sparsity", required=True, type=float, metavar="S", help="the fraction removed, in [0, 1)")
    parser.add_argument(
        "--of",
        choices=get_args(Unit),
        help="what the sparsity counts; filters, params and macs ask for whole channels where no method is given "
        "(default: weights, or macs for methods that take out whole channels)",
    )
    parser.add_argument("--scope", choices=get_args(Scope), help="allocation over layers (default: the method's)")
    parser.add_argument(
        "--budget", type=int, metavar="N", help=f"how many calibration samples (default: {BUDGET}, or all there are)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="D", help="which draw of the samples, from 0 on (default: 0)"
    )
    parser.add_argument(
        "--replicate",
        type=int,
        default=0,
        metavar="R",
        help="which dense checkpoint of the task, from 0 on (default: 0)",
    )
    parser.add_argument(
        "--recovery",
        choices=list(RECOVERIES),
        default="none",
        help="what follows, on the same samples (default: none)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the network as safetensors, for wfbench.load_pruned"
    )
    parser.add_argument("--sparse", action="store_true", help="store zeros as bits, so that the file is really smaller")
    parser.add_argument(
        "--program",
        type=Path,
        metavar="FILE",
        help="write it as a torch.export program as well, which plain PyTorch loads",
    )
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="write the network as ONNX as well")
    add_device(parser)
    add_memory(parser)
    add_json(parser)


def prune(options: argparse.Namespace) -> int:
    """Everything that can be refused is refused before the work."""
    files: list[Path] = [path for path in (options.out, options.onnx, options.program) if path is not None]
    for path in files:
        check_file(path)
    if len({path.resolve() for path in files}) < len(files):
        raise WfbenchError(f"{' and '.join(map(str, files))}: two of them are one file; give each a file of its own")
    if options.onnx:
        check_onnx()
    limit_to(options.memory)
    with tqdm(total=len(STAGES), unit="stage", leave=False, disable=None) as bar:
        case = case_of(options, told(bar, "read"))
        outcome = pruned_network(case, options.device, told(bar, "prune"), told(bar, "recover and score"))
        told(bar, "measure")()
        x = case.task.train_set.take([0]).inputs
        found = costs_of(deepcopy(case.task.dense(case.replicate)).cpu(), outcome.module, x, outcome.record.latencies)
        told(bar, "write")()
        save(options.out, outcome.module, outcome.about, options.sparse)
        for path, write in ((options.onnx, export_onnx), (options.program, export_program)):
            if path is not None:
                write(path, outcome.module, tuple(outcome.about["shape"]))
    found = replace(found, bytes=(found.bytes[0], options.out.stat().st_size))
    if options.json:
        more = {"files": [str(path) for path in files], "comparison": found.as_json()}
        print_json({**json.loads(outcome.record.as_json()), **more})
        return 0
    print(table([*_scores(outcome.record), *found.rows(packed=not options.sparse)]))
    print("" if found.smaller else f"{NOT_FASTER}\n")
    if left_out := Network(case.task.dense(case.replicate)).describe_left_out():
        print(f"{left_out}\n")
    print(f"{case.label()}, checkpoint {case.replicate}; {_handed(outcome.record)}", *files, sep="\n")
    return 0


def told(bar: Any, stage: str) -> Callable[[], None]:
    """What says on the bar that a stage begins."""

    def tell() -> None:
        bar.set_description(stage)
        bar.update(STAGES.index(stage) - bar.n)

    return tell


def case_of(options: argparse.Namespace, begin: Callable[[], None] = lambda: None) -> Case:
    """What the options ask for.

    Raises:
        WfbenchError: an unknown name, a number out of range, or a method that does not reach what `--of` counts.
    """
    begin()
    registry = registry_of(options)
    task = registry.task(options.task)
    budget = min(BUDGET, len(task.train_set)) if options.budget is None else options.budget
    where = {"scope": options.scope, "seed": options.seed, "replicate": options.replicate}
    asked = options.sparsity, options.method, options.recovery, options.of
    return direct.case_of(task, *asked, budget=budget, registry=registry, **where)


def _scores(record: Record) -> list[list[str]]:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.2f} %"

    rows = [["accuracy", percent(record.dense_accuracy), percent(record.accuracy)]]
    if record.measure is not None:
        kl = "" if record.kl is None else f"{record.kl:.3g}"
        rows = [[MEASURED[record.measure], "", percent(record.agreement)], ["KL(dense‖pruned) there, nats", "", kl]]
    return [*rows, [f"sparsity of {record.of}", "", percent(record.achieved_sparsity)]]


def _handed(record: Record) -> str:
    if not record.n_inputs:
        return "no samples used"
    return f"{record.n_inputs} samples used, {'with' if record.n_labels else 'without'} labels"
