"""A stored record's case, run again by this code; an older commit's code is handed the text of this file."""

import json
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

import wfbench

try:
    from wfbench import RECOVERIES, Runner, discover
except ImportError:  # commits from before these had a door
    RECOVERIES = import_module("wfbench.recoveries").RECOVERIES
    Runner = import_module("wfbench.runner").Runner  # type: ignore[misc]
    discover = import_module("wfbench.plugins").discover


def case_of(record: Mapping[str, Any], registry: Any) -> wfbench.Case:
    """The case that a record is of, with the patterns' and recoveries' defaults.

    Raises:
        WfbenchError: a task, method or recovery that is not known.
    """
    task, name = registry.task(record["task"]), record["recovery"]
    if name not in RECOVERIES:
        raise wfbench.WfbenchError(f'there is no recovery "{name}"')
    x = task.train_set.take([0]).inputs
    pattern: Any = {"n:m": wfbench.NM, "unstructured": wfbench.Unstructured}.get(record["pattern"], lambda: None)()
    if record["pattern"] == "filter":
        pattern = wfbench.Filter.of(x)
    elif record["pattern"] == "unstructured" and record["of"] == "macs":
        pattern = wfbench.Unstructured(tuple(wfbench.Network(task.dense()).places(x).items()))
    target = wfbench.Target(record["sparsity"], pattern, record["scope"], record["of"])
    sampling = wfbench.Sampling(record["draw"], record["wrong_labels"], record.get("copies", 1))
    which = (record["budget"], record["seed"], record["replicate"])
    return wfbench.Case(task, *which, target, registry.pruner(record["method"]), RECOVERIES[name], sampling)


def main() -> None:
    """Records from standard input, a JSON line each; the records of their cases, run anew, to standard output."""
    torch.set_num_threads(1)
    registry, runner = discover(*json.loads(sys.argv[1])), Runner()
    for line in sys.stdin:
        try:
            found = runner.run(case_of(json.loads(line), registry)).as_json()
        except Exception as error:  # older code may fail in any way
            found = json.dumps({"error": f"{type(error).__name__}: {error}"})
        print(found, flush=True)


if __name__ == "__main__":
    main()
