"""What the commands share: how one is added, and the options that several have."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from wfbench.curvature.memory import BOUND, bytes_of
from wfbench.errors import WfbenchError
from wfbench.harness.plugins import Registry, discover


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_results(parser: argparse.ArgumentParser) -> None:
    about = "folder of the record files, and of what is made from them (default: results)"
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help=about)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … (default: cpu)")


def add_memory(parser: argparse.ArgumentParser) -> None:
    about = f"{BOUND}, such as 4GiB (default: half of what is free)"
    parser.add_argument("--memory", type=_bytes, metavar="BYTES", help=about)


def _bytes(text: str) -> int:
    try:
        return bytes_of(text)
    except WfbenchError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_plugin_paths(parser: argparse.ArgumentParser) -> None:
    for name, what in (("--baseline-path", "methods"), ("--task-path", "tasks")):
        about = f"file or folder of {what} of your own, besides those that ship; may be given several times"
        parser.add_argument(name, action="append", default=[], metavar="PATH", help=about)


def registry_of(options: argparse.Namespace) -> Registry:
    """All methods and tasks, those of the plugin paths too; what does not load is said on standard error."""
    registry = discover(options.baseline_path, options.task_path)
    for origin, reason in registry.failures.items():
        print(f"left out: {origin}: {reason}", file=sys.stderr)
    return registry


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))
