"""`wfbench fetch` and `wfbench train`: the data and dense checkpoints of tasks."""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from wfbench.commands import Commands
from wfbench.commands.base import add_device
from wfbench.execution.devices import usable
from wfbench.harness.plugins import discover
from wfbench.network import Network
from wfbench.tasks import checkpoints
from wfbench.tasks.cache import cache_folder
from wfbench.tasks.evaluate import evaluate
from wfbench.tasks.recipes import RECIPES, task_of
from wfbench.tasks.training import train
from wfbench.writing import check_folder, whole

TASK_FILE = '''"""The checkpoints of this folder as tasks, for --task-path; written by `wfbench train`."""

from pathlib import Path

from wfbench.toolbox import trained

TASKS = trained(Path(__file__).parent)
'''


def add(commands: Commands) -> None:
    """The commands of this module."""
    fetching = commands.add("fetch", _fetch)
    fetching.add_argument(
        "tasks", nargs="*", metavar="TASK", help="a task of `wfbench list` (default: all but those on request)"
    )
    training = commands.add("train", _train)
    training.add_argument("task", choices=sorted(RECIPES), metavar="TASK", help=", ".join(sorted(RECIPES)))
    add_device(training)
    training.add_argument("--seed", type=int, default=0, help="of initial weights and order (default: 0)")
    training.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of the checkpoint, its registry.json and the trained_tasks.py that --task-path reads (default: "
        "checkpoints/ in the cache folder, see `wfbench doctor`)",
    )


def _fetch(options: argparse.Namespace) -> int:
    for task in discover().chosen(options.tasks):
        where = task.fetch() if task.fetch else "memory"
        networks = [Network(task.dense(replicate)) for replicate in range(task.replicates)]
        print(f"{task.name}: data in {where}, {task.replicates} verified checkpoint(s) in {checkpoints.FOLDER}")
        if networks and (left_out := networks[0].describe_left_out()):
            print(f"  {left_out}")
    return 0


def _train(options: argparse.Namespace) -> int:
    task = task_of(options.task)
    build, recipe = RECIPES[task.name]
    device = usable(options.device)
    out = options.out or cache_folder() / "checkpoints"
    check_folder(out)
    torch.manual_seed(options.seed)
    module = task_of(recipe.start).dense() if recipe.start else build()
    resume = out / f"{task.name}-{options.seed}.resume"
    module = train(module.to(device), task.train_set, recipe, options.seed, resume=resume)
    validation, test = evaluate(module, task.validation_set), evaluate(module, task.test_set)
    path = checkpoints.save(task.name, module, out, options.seed, test.accuracy, asdict(recipe))
    resume.unlink()
    print(f"{task.name}, seed {options.seed}: validation {validation.accuracy:.4f}, test {test.accuracy:.4f}, {path}")
    if out.resolve() != checkpoints.FOLDER:
        with whole(out / "trained_tasks.py") as part:
            part.write_text(TASK_FILE)
        print(f"as a task: {task.name}-{options.seed}, with --task-path {out / 'trained_tasks.py'}")
    return 0
