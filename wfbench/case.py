"""A case, and the record of its outcome."""

import json
import subprocess
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from wfbench.data import RANDOM, Sampling
from wfbench.errors import WfbenchError
from wfbench.licence import TRACKS, Track, strongest
from wfbench.pruner import Pruner
from wfbench.recovery import Recovery
from wfbench.sparsity import Target
from wfbench.tasks.task import Task

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


@dataclass(frozen=True)
class Case:
    """One cell of a suite: task × budget × draw × checkpoint × target × pruner × recovery.

    Args:
        task: what is pruned.
        budget: calibration samples, at least 1.
        seed: of the draw.
        replicate: which of the task's dense checkpoints.
        target: how much is removed, and how.
        method: the pruner.
        recovery: what follows, with the same samples.
        sampling: how the samples are drawn.

    Raises:
        WfbenchError: a budget below 1, a pattern that the method does not reach, or a draw that looks at labels or
            changes them for a case that is not labelled.
    """

    task: Task
    budget: int
    seed: int
    replicate: int
    target: Target
    method: Pruner[Any]
    recovery: Recovery[Any]
    sampling: Sampling = RANDOM

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise WfbenchError(f"budget {self.budget} is not a number of samples; give an integer of at least 1")
        if self.target.pattern.name not in self.method.patterns:
            reached = ", ".join(self.method.patterns)
            raise WfbenchError(f"{self.method.name} reaches {reached}, not the pattern {self.target.pattern.name}")
        if self.sampling.needs_labels and self.track != "labeled":
            raise WfbenchError(
                f"{self.sampling} looks at labels, and {self.method.name} with recovery {self.recovery.name} is "
                f"{self.track}; use it with labelled methods or recoveries"
            )

    @property
    def track(self) -> Track:
        """The strongest licence among pruner and recovery."""
        _ = self.method.track, self.recovery.track  # each says what it may see
        return TRACKS[strongest((self.method.licence, self.recovery.licence))]

    def identity(self) -> dict[str, Any]:
        """The fields of the record that say which case it is of."""
        return {
            "task": self.task.name,
            "method": self.method.name,
            "track": self.track,
            "budget": self.budget,
            "seed": self.seed,
            "replicate": self.replicate,
            "sparsity": self.target.sparsity,
            "pattern": self.target.pattern.name,
            "scope": self.target.scope,
            "of": self.target.of,
            "recovery": self.recovery.name,
            "draw": self.sampling.kind,
            "wrong_labels": self.sampling.wrong_labels,
        }

    def label(self) -> str:
        """The identity in one line."""
        target, sampling = self.target, self.sampling
        unusual = [target.pattern.name] * (target.pattern.name != "unstructured")
        unusual += [target.of] * (target.of != "weights") + [sampling.kind] * (sampling.kind != "random")
        unusual += [f"wrong{sampling.wrong_labels:g}"] * (sampling.wrong_labels > 0)
        parts = [self.task.name, f"n{self.budget}", f"s{self.seed}", self.method.name, *unusual]
        return "-".join([*parts, target.scope, f"{target.sparsity:g}", self.recovery.name])


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


def options(component: object) -> dict[str, Any]:
    """The hyper-parameters of a frozen dataclass, as JSON values."""
    if not is_dataclass(component):
        return {}
    return {field.name: _plain(getattr(component, field.name)) for field in fields(component)}


def changed(component: object) -> dict[str, Any]:
    """Those of its hyper-parameters that are not its defaults; what the defaults are is said by its code."""
    if not is_dataclass(component):
        return {}
    usual = {field.name: field.default for field in fields(component)}
    return {name: value for name, value in options(component).items() if value != _plain(usual[name])}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {"is": type(value).__name__, **options(value)}
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


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
