"""`wfbench plan`: what a method will cost on a task, before anything runs."""

import argparse
from copy import deepcopy
from pathlib import Path
from typing import get_args

from wfbench.commands import Commands
from wfbench.commands.base import add_json, add_memory, add_plugin_paths, print_json, registry_of
from wfbench.curvature.memory import free
from wfbench.deploy.machine import measured, read_machine
from wfbench.deploy.plan import TIMED, Of, plan
from wfbench.errors import WfbenchError
from wfbench.network import Network
from wfbench.recoveries.names import recovery_of

METHOD = "woodfisher"
SPARSITY = 0.9


def add(commands: Commands) -> None:
    """The command of this module."""
    parser = commands.add("plan", _plan)
    add_plugin_paths(parser)
    parser.add_argument("task", metavar="TASK", help="any task of `wfbench list`")
    parser.add_argument("--budget", type=int, required=True, metavar="N", help="how many calibration samples")
    parser.add_argument("--method", default=METHOD, metavar="M", help=f"any name of `wfbench list` (default: {METHOD})")
    parser.add_argument("--recovery", default="none", metavar="R", help="what follows (default: none)")
    about = f"the fraction removed, in [0, 1) (default: {SPARSITY})"
    parser.add_argument("--sparsity", type=float, default=SPARSITY, metavar="S", help=about)
    about = (
        "what the sparsity counts; macs asks for whole channels of a method that takes either (default: weights, or "
    )
    about += "macs for methods that take out whole channels)"
    parser.add_argument("--of", choices=get_args(Of), help=about)
    about = "which dense checkpoint of the task (default: 0)"
    parser.add_argument("--replicate", type=int, default=0, metavar="R", help=about)
    about = "TOML or JSON file of what another machine does, see docs/scale-gpu.md (default: this one, measured)"
    parser.add_argument("--device-spec", type=Path, metavar="FILE", help=about)
    add_memory(parser)
    add_json(parser)


def _plan(options: argparse.Namespace) -> int:
    if options.budget < 1 or not 0 <= options.sparsity < 1:
        raise WfbenchError(f"budget {options.budget}, sparsity {options.sparsity}: give at least 1, and one in [0, 1)")
    if options.device_spec and options.memory:
        raise WfbenchError("--memory is of this machine; the file of --device-spec says what its card has")
    registry = registry_of(options)
    task, method = registry.task(options.task), registry.pruner(options.method)
    recovery = None if options.recovery == "none" else recovery_of(options.recovery)
    limit = None if options.device_spec else options.memory or free() // 2
    machine = read_machine(options.device_spec) if options.device_spec else measured()
    net = Network(deepcopy(task.dense(options.replicate)))
    x = task.train_set.take(range(min(TIMED, len(task.train_set)))).inputs
    found = plan(task.name, net, x, method, options.budget, options.sparsity, machine, limit, recovery, options.of)
    if options.json:
        print_json(found.as_json())
    else:
        print(found)
    return 0
