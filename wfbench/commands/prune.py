"""`wfbench prune`: one task, one method, one network in a file."""

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from tabulate import tabulate

from wfbench.channels.pattern import Filter
from wfbench.commands.base import Commands, add_device, add_json, add_plugin_paths, print_json, registry_of
from wfbench.errors import WfbenchError
from wfbench.export import check_onnx, export_onnx, pruned_network, save
from wfbench.harness.case import Case
from wfbench.harness.record import Record
from wfbench.harness.suite import pattern_of
from wfbench.network import Network
from wfbench.recoveries.names import RECOVERIES
from wfbench.sparsity import Scope, Target, Unit, Unstructured
from wfbench.writing import check_file

ABOUT = "Prune a task with a method, score it on the test split, and save the network; whole channels are taken out."


RIGHT = ("left", "right", "right")


def add(commands: Commands) -> None:
    """The command of this module."""
    parser = commands.add("prune", prune, ABOUT)
    add_plugin_paths(parser)
    parser.add_argument("task", metavar="TASK", help="any task of `wfbench list`")
    parser.add_argument("--method", required=True, metavar="M", help="any name of `wfbench list`")
    parser.add_argument("--sparsity", required=True, type=float, metavar="S", help="the fraction removed, in [0, 1)")
    parser.add_argument(
        "--of",
        choices=get_args(Unit),
        help="what the sparsity counts (default: weights, or macs for methods that take out whole channels)",
    )
    parser.add_argument("--scope", choices=get_args(Scope), help="allocation over layers (default: the method's)")
    parser.add_argument(
        "--budget", type=int, default=100, metavar="N", help="how many calibration samples (default: 100)"
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
        "--recovery", choices=list(RECOVERIES), default="none", help="what follows, on the same samples (default: none)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the network as safetensors, for wfbench.load_pruned"
    )
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="write the network as ONNX as well")
    add_device(parser)
    add_json(parser)


def prune(options: argparse.Namespace) -> int:
    """Everything that can be refused is refused before the work."""
    files: list[Path] = [options.out] if options.onnx is None else [options.out, options.onnx]
    for path in files:
        check_file(path)
    if len({path.resolve() for path in files}) < len(files):
        raise WfbenchError(f"--out and --onnx both name {options.out}; give two files")
    if options.onnx:
        check_onnx()
    case = case_of(options)
    outcome = pruned_network(case, options.device)
    save(options.out, outcome.module, outcome.about)
    if options.onnx:
        export_onnx(options.onnx, outcome.module, tuple(outcome.about["shape"]))
    if options.json:
        print_json({**json.loads(outcome.record.as_json()), "files": [str(path) for path in files]})
        return 0
    print(tabulate(_rows(outcome.record), headers=["", "dense", "pruned"], disable_numparse=True, colalign=RIGHT))
    if left_out := Network(case.task.dense(case.replicate)).describe_left_out():
        print(f"\n{left_out}")
    print(f"\n{case.label()}, checkpoint {case.replicate}; {_handed(outcome.record)}", *files, sep="\n")
    return 0


def case_of(options: argparse.Namespace) -> Case:
    """What the options ask for.

    Raises:
        WfbenchError: an unknown name, a number out of range, or a method that does not reach what `--of` counts.
    """
    registry = registry_of(options)
    task, method = registry.task(options.task), registry.pruner(options.method)
    of: Unit = options.of or ("weights" if Unstructured.name in method.patterns else "macs")
    counting = [p.name for p in (Unstructured, Filter) if p.name in method.patterns and of in p.units]
    if not counting:
        kind = "single weights" if of == "weights" else "whole channels"
        reached = " and ".join(method.patterns)
        raise WfbenchError(f"--of {of} is for methods that remove {kind}; {method.name} reaches {reached}")
    target = Target(options.sparsity, pattern_of(counting[0], task, of), options.scope or method.scope, of)
    recovery = RECOVERIES[options.recovery]
    task.dense(options.replicate)
    return Case(task, options.budget, options.seed, options.replicate, target, method, recovery)


def _rows(record: Record) -> list[list[Any]]:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.2f} %"

    rows = [
        ["accuracy", percent(record.dense_accuracy), percent(record.accuracy)],
        [f"sparsity of {record.of}", "", percent(record.achieved_sparsity)],
    ]
    if record.latency is not None and record.dense_latency is not None:
        rows += [
            ["parameters", f"{record.dense_params:,}", f"{record.params:,}"],
            ["MACs", f"{record.dense_macs:,}", f"{record.macs:,}"],
            ["latency [ms], batch 1", f"{1e3 * record.dense_latency:.3f}", f"{1e3 * record.latency:.3f}"],
        ]
    return rows


def _handed(record: Record) -> str:
    if not record.n_inputs:
        return "no samples used"
    return f"{record.n_inputs} samples used, {'with' if record.n_labels else 'without'} labels"
