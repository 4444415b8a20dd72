"""The record of a case's outcome, and what it was made with."""

import json
import subprocess
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import torch

SPARSE = (
    "effective_rank",
    "damping",
    "damping_ratio",
    "predicted_change",
    "realised_change",
    "step",
    "steps",
    "tried",
    "params",
    "dense_params",
    "macs",
    "dense_macs",
    "latency",
    "dense_latency",
    "activation_memory",
    "dense_activation_memory",
    "removed_channels",
    "recovery_options",
    "pattern_options",
)
"""Fields that a record leaves out where they are None or empty, as most are."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of a case: one line of `results/<suite>.jsonl`.

    Accuracies and sparsities are fractions, losses and changes of the loss nats, times seconds, memory bytes. A failed
    case has `reason`, its counts, and null measurements.
    """

    suite: str
    task: str
    method: str
    track: str
    budget: int
    seed: int
    replicate: int
    sparsity: float
    achieved_sparsity: float | None = None
    pattern: str
    scope: str
    of: str
    recovery: str
    draw: str
    wrong_labels: float
    n_inputs: int
    n_labels: int
    trials: int
    accuracy: float | None = None
    dense_accuracy: float | None = None
    chance: float | None = None
    loss: float | None = None
    dense_loss: float | None = None
    magnitude_overlap: float | None = None
    mean_leverage: float | None = None
    effective_rank: float | None = None
    damping: float | None = None
    damping_ratio: float | None = None
    predicted_change: float | None = None
    realised_change: float | None = None
    step: float | None = None
    steps: list[dict[str, float]] | None = None
    tried: list[dict[str, float]] | None = None
    params: int | None = None
    dense_params: int | None = None
    macs: int | None = None
    dense_macs: int | None = None
    latency: float | None = None
    dense_latency: float | None = None
    activation_memory: int | None = None
    dense_activation_memory: int | None = None
    removed_channels: int | None = None
    status: str
    reason: str | None
    seconds: float | None = None
    options: dict[str, Any]
    recovery_options: dict[str, Any]
    pattern_options: dict[str, Any]
    environment: dict[str, Any]
    code: str | None

    def as_json(self) -> str:
        """One line of JSON, fields in order; NaN is never written."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        written = {name: value for name, value in found.items() if name not in SPARSE or value not in (None, {})}
        return json.dumps(written, allow_nan=False)


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers were made with besides the case: commit, version, device, threads."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "commit": commit(),
        "torch": numerics(),
        "device": device.type,
        "machine": where,
        "threads": torch.get_num_threads(),
    }


def numerics() -> str:
    """The version of the arithmetic: torch's, without the build."""
    return torch.__version__.split("+")[0]


@cache
def cpu_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    import platform

    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


@cache
def commit() -> str:
    """The first 12 digits of the git commit that this code is of, with + where files differ from it; else empty."""
    folder = Path(__file__).parent
    ask = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        found = subprocess.run(ask, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
