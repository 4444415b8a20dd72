"""The commands of the program `wfbench`: a module is imported where one of its commands is called.

Importing torch takes seconds, which `wfbench --help` need not.
"""

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

ABOUT = {
    "methods": {
        "list": "List methods and tasks.",
        "check": "Run the conformance kit on methods: what every plugin must keep.",
    },
    "tasks": {
        "fetch": "Prepare the data and weights of tasks, and say where they are.",
        "train": "Train a dense checkpoint by a task's recorded recipe, as a task TASK-SEED.",
    },
    "plan": {
        "plan": "Count what a method will cost on a task before anything runs: passes, FLOPs, bytes, memory and time.",
    },
    "prune": {
        "prune": "Prune a task with a method, score it on the test split, and save the network; whole channels are "
        "taken out.",
    },
    "recommend": {
        "recommend": "Try methods inside the samples of a task, cheap ones first (calibrated on some, scored on those "
        "held out), and say which to use; the test split is not read.",
    },
    "results": {
        "tables": "Regenerate the tables of every record file.",
        "report": "Write report/index.html: every case in one page that opens from disk.",
        "compare": "Compare two result folders, paired by case; exit 1 if the second is significantly worse.",
    },
    "upkeep": {
        "requalify": "Show by cases run again that changed code gives the bits of stored records.",
        "doctor": "Check versions, data, checkpoints, dense accuracies and record files.",
    },
}
"""By the module of this room that has it, each command and what it does."""


class Commands:
    """The program's commands; each module of this room gives its own their options.

    Args:
        called: the one whose options are read; the others are there for the help alone.
    """

    def __init__(self, parser: argparse.ArgumentParser, called: str | None) -> None:
        added = parser.add_subparsers(required=True, metavar="COMMAND")
        self.parsers = {
            name: added.add_parser(name, help=about, description=about)
            for of in ABOUT.values()
            for name, about in of.items()
        }
        for module, names in ABOUT.items():
            if called in names:
                import_module(f"{__name__}.{module}").add(self)

    def add(self, name: str, run: Callable[[Any], int]) -> argparse.ArgumentParser:
        """The parser of a command that calls `run` with its options; what that returns is the exit status."""
        self.parsers[name].set_defaults(run=run)
        return self.parsers[name]
