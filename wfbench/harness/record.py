"""The record of a case's outcome, and what it was made with."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from wfbench.channels.latency import Timing

Role: TypeAlias = Literal["identity", "licence", "result", "diagnostic", "time", "origin"]


def _of(role: Role, *, usual: Any = None, sparse: bool = False, unusual: bool = False, default: Any = MISSING) -> Any:
    """A field of the record.

    Args:
        role: `identity`, which case it is; `licence`, what the case was handed; `result`, what science reads;
            `diagnostic`, a result that the method tells of itself; `time`; `origin`, what it was made with.
        usual: what a record means that does not say; None for fields that every record has.
        sparse: left out where it is None, empty or the usual, as it mostly is.
        unusual: named in tables where it is not the usual.
    """
    metadata = {"role": role, "usual": usual, "sparse": sparse, "unusual": unusual}
    return field(metadata=metadata) if default is MISSING else field(metadata=metadata, default=default)


_measured = partial(_of, "result", default=None)
_told = partial(_of, "diagnostic", default=None)
_timed = partial(_of, "time", default=None)


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of a case: one line of `results/<suite>.jsonl`.

    Accuracies and sparsities are fractions, losses and changes of the loss nats, times seconds, memory bytes. A failed
    case has `reason`, its counts, and null measurements. Each field says what it is; whatever reads records asks that.
    """

    suite: str = _of("origin")
    task: str = _of("identity")
    method: str = _of("identity")
    track: str = _of("licence")
    budget: int = _of("identity")
    seed: int = _of("identity")
    replicate: int = _of("identity")
    sparsity: float = _of("identity")
    achieved_sparsity: float | None = _measured()
    pattern: str = _of("identity", unusual=True)
    scope: str = _of("identity")
    of: str = _of("identity", usual="weights", unusual=True)
    recovery: str = _of("identity")
    draw: str = _of("identity", usual="random", unusual=True)
    wrong_labels: float = _of("identity", usual=0.0, unusual=True)
    copies: int = _of("identity", usual=1, sparse=True, unusual=True, default=1)
    n_inputs: int = _of("licence")
    n_labels: int = _of("licence")
    trials: int = _of("licence")
    measure: str | None = _of("result", usual="accuracy", sparse=True, unusual=True, default=None)
    accuracy: float | None = _measured()
    dense_accuracy: float | None = _measured()
    chance: float | None = _measured()
    loss: float | None = _measured()
    dense_loss: float | None = _measured()
    agreement: float | None = _measured(sparse=True)
    kl: float | None = _measured(sparse=True)
    magnitude_overlap: float | None = _measured()
    mean_leverage: float | None = _told()
    effective_rank: float | None = _told(sparse=True)
    probes: float | None = _told(sparse=True)
    damping: float | None = _told(sparse=True)
    damping_ratio: float | None = _told(sparse=True)
    predicted_change: float | None = _told(sparse=True)
    realised_change: float | None = _measured(sparse=True)
    step: float | None = _told(sparse=True)
    steps: list[dict[str, float]] | None = _measured(sparse=True)
    tried: list[dict[str, float]] | None = _measured(sparse=True)
    params: int | None = _measured(sparse=True)
    dense_params: int | None = _measured(sparse=True)
    macs: int | None = _measured(sparse=True)
    dense_macs: int | None = _measured(sparse=True)
    architecture: str | None = _measured(sparse=True)
    latency: float | None = _timed(sparse=True)
    dense_latency: float | None = _timed(sparse=True)
    latencies: list[Timing] | None = _timed(sparse=True)
    activation_memory: int | None = _measured(sparse=True)
    dense_activation_memory: int | None = _measured(sparse=True)
    removed_channels: int | None = _measured(sparse=True)
    scored: int | None = _of("origin", sparse=True, default=None)
    places: int | None = _of("origin", sparse=True, default=None)
    status: str = _of("result")
    reason: str | None = _of("origin")
    seconds: float | None = _timed()
    options: dict[str, Any] = _of("origin")
    recovery_options: dict[str, Any] = _of("origin", sparse=True)
    pattern_options: dict[str, Any] = _of("origin", sparse=True)
    environment: dict[str, Any] = _of("origin")
    code: str | None = _of("origin")

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> "Record":
        """What `as_json` wrote, read back."""
        return cls(**{"recovery_options": {}, "pattern_options": {}, **said})

    def as_json(self) -> str:
        """One line of JSON, fields in order; NaN is never written."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        written = {
            name: value
            for name, value in found.items()
            if name not in SPARSE or value not in (None, {}, USUAL.get(name))
        }
        return json.dumps(written, allow_nan=False)


def fields_of(*roles: Role) -> tuple[str, ...]:
    """Names of the record's fields of these roles, in order."""
    return tuple(one.name for one in fields(Record) if one.metadata["role"] in roles)


IDENTITY = fields_of("identity")
"""Which case a record is of."""
SCIENCE = fields_of("identity", "licence", "result", "diagnostic")
"""What two runs of a case by the same code have the same bits of."""
SPARSE = frozenset(one.name for one in fields(Record) if one.metadata["sparse"])
USUAL: dict[str, Any] = {one.name: one.metadata["usual"] for one in fields(Record) if one.metadata["usual"] is not None}
UNUSUAL = tuple(one.name for one in fields(Record) if one.metadata["unusual"])
NUMBERS = tuple(one.name for one in fields(Record) if one.type in ("float", "float | None", float, float | None))
NESTED = tuple(one.name for one in fields(Record) if "[" in str(one.type))
"""Fields that hold lists or mappings."""
NUMERICS = ("torch", "device", "accelerator", "machine", "threads", "precision", "evaluation_batch")
"""Of the environment, what the last digits may hang on."""
PLACE = ("device", "accelerator", "machine", "threads", "workers", "torch")
"""Of the environment, what times hang on."""
DATA = ("checkpoint", "train", "test")
"""Of the environment, first digits of the SHA-256 of dense network and splits."""


def environment(device: torch.device, workers: int = 1) -> dict[str, Any]:
    """What the numbers were made with besides the case: commit, version, device, threads of the process.

    Args:
        workers: processes that ran cases at the same time, on which times hang; one alone is not named.
    """
    return {
        "commit": commit(),
        "torch": numerics(),
        **place_of(device),
        "machine": cpu_name(),
        "threads": torch.get_num_threads(),
        **({"workers": workers} if workers > 1 else {}),
    }


def place_of(device: torch.device) -> dict[str, str]:
    """The kind of device, and which model of accelerator, where it is here: another's kernels sum in other orders."""
    module: Any = None if device.type == "cpu" else torch.get_device_module(device)
    if module is None or not module.is_available() or not hasattr(module, "get_device_name"):
        return {"device": device.type}
    return {"device": device.type, "accelerator": module.get_device_name(device)}


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
