"""`wfbench recommend`: which method to use on a task with so many samples, found inside them."""

import argparse
import shlex
from copy import deepcopy
from dataclasses import replace
from typing import get_args

from tqdm import tqdm

from wfbench.commands import Commands
from wfbench.commands.base import add_device, add_json, add_plugin_paths, print_json, registry_of
from wfbench.deploy import advice
from wfbench.draws import draw
from wfbench.network import Network
from wfbench.recoveries.statistics import statistics_off
from wfbench.sparsity import Unit


def add(commands: Commands) -> None:
    """The command of this module."""
    parser = commands.add("recommend", _recommend)
    add_plugin_paths(parser)
    parser.add_argument("task", metavar="TASK", help="any task of `wfbench list`")
    about = f"how many samples there are, at least {2 * advice.FOLDS}"
    parser.add_argument("--budget", type=int, required=True, metavar="N", help=about)
    about = "the fraction removed, in [0, 1) (default: 0.9 of weights, 0.5 for whole channels)"
    parser.add_argument("--sparsity", type=float, metavar="S", help=about)
    about = "what the sparsity counts; all but weights take out whole channels (default: weights)"
    parser.add_argument("--of", choices=get_args(Unit), default="weights", help=about)
    parser.add_argument("--seed", type=int, default=0, metavar="D", help="which draw of the samples (default: 0)")
    about = "which dense checkpoint of the task (default: 0)"
    parser.add_argument("--replicate", type=int, default=0, metavar="R", help=about)
    add_device(parser)
    add_json(parser)


def _recommend(options: argparse.Namespace) -> int:
    registry = registry_of(options)
    task = registry.task(options.task)
    data = draw(task.train_set, options.budget, options.seed)
    module = deepcopy(task.dense(options.replicate)).to(options.device)
    single = options.of == "weights"
    sparsity = (0.9 if single else 0.5) if options.sparsity is None else options.sparsity
    candidates = advice.CANDIDATES["weights" if single else "channels"]
    with tqdm(total=len(candidates) * advice.FOLDS, unit="fold", leave=False, disable=None) as bar:

        def tell(name: str) -> None:
            bar.set_description(name)
            bar.update()

        found = advice.tried(module, data, sparsity, options.of, registry, tell)

    def command(best: advice.Candidate) -> str:
        words = ["wfbench", "prune", options.task, "--method", best.method, "--recovery", best.recovery]
        words += ["--sparsity", f"{sparsity:g}", "--of", options.of, "--budget", str(options.budget)]
        for name in ("seed", "replicate"):
            words += [f"--{name}", str(getattr(options, name))] if getattr(options, name) else []
        words += ["--device", options.device] if options.device != "cpu" else []
        words += [word for path in options.task_path for word in ("--task-path", path)]
        return shlex.join([*words, "--out", "pruned.safetensors"])

    ranked = advice.ranked(found, options.budget, sparsity, options.of, command)
    said = replace(ranked, warning=statistics_off(Network(module), data.inputs))
    if options.json:
        print_json(said.as_json())
    else:
        print(said)
    return 0
