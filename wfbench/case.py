"""A case, the record of its outcome, and the key that says whether a stored record may be used again."""

import ast
import hashlib
import json
import sys
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from wfbench.errors import WfbenchError
from wfbench.evaluate import BATCH
from wfbench.pruner import Pruner, Track
from wfbench.recovery import Recovery
from wfbench.sparsity import Target
from wfbench.tasks.task import Task

ORDER: dict[Track, int] = {"data-free": 0, "unlabeled": 1, "labeled": 2}
NOT_SCIENCE = ("wfbench.plugins", "wfbench.store", "wfbench.errors")


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
    """

    task: Task
    budget: int
    seed: int
    replicate: int
    target: Target
    method: Pruner[Any]
    recovery: Recovery

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise WfbenchError(f"budget {self.budget} is not a number of samples; give an integer of at least 1")

    @property
    def track(self) -> Track:
        """The strongest licence among pruner and recovery."""
        return max(self.method.track, self.recovery.track, key=lambda track: ORDER[track])

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
            "recovery": self.recovery.name,
        }

    def label(self) -> str:
        """The identity in one line."""
        where = f"{self.task.name}-n{self.budget}-s{self.seed}-{self.method.name}"
        return f"{where}-{self.target.scope}-{self.target.sparsity:g}-{self.recovery.name}"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of a case: one line of `results/<suite>.jsonl`.

    Accuracies and sparsities are fractions, losses nats, times seconds. A failed case has `reason`, its counts, and
    null measurements.
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
    recovery: str
    n_inputs: int
    n_labels: int
    accuracy: float | None = None
    dense_accuracy: float | None = None
    loss: float | None = None
    dense_loss: float | None = None
    magnitude_overlap: float | None = None
    mean_leverage: float | None = None
    status: str
    reason: str | None
    seconds: float | None = None
    options: dict[str, Any]
    environment: dict[str, Any]
    key: str

    def as_json(self) -> str:
        """One line of JSON, fields in order; NaN is never written."""
        return json.dumps({field.name: getattr(self, field.name) for field in fields(self)}, allow_nan=False)


def options(component: object) -> dict[str, Any]:
    """The hyper-parameters of a frozen dataclass, as JSON values."""
    if not is_dataclass(component):
        return {}
    return {field.name: _plain(getattr(component, field.name)) for field in fields(component)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {"is": type(value).__name__, **options(value)}
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on besides the case: versions, device, threads, evaluation batch."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "torch": numerics(),
        "device": device.type,
        "machine": where,
        "threads": torch.get_num_threads(),
        "evaluation_batch": BATCH,
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


def reuse_key(case: Case, module: nn.Module, checkpoint: str, device: torch.device, harness: ModuleType) -> str:
    """SHA-256 over code, configuration, data, checkpoint and numerics version: equal keys, equal science fields."""
    classes = {type(part).__module__ for part in module.modules()}
    own = {name for name in classes if not name.startswith("torch.")}
    roots = {harness.__name__} | _modules(case.method) | _modules(case.recovery) | own
    content = {
        "identity": case.identity(),
        "method": options(case.method),
        "recovery": options(case.recovery),
        "code": sorted(_source(name) for name in _closure(frozenset(roots))),
        "train": case.task.train_set.fingerprint,
        "test": case.task.test_set.fingerprint,
        "checkpoint": checkpoint,
        "numerics": [numerics(), device.type, BATCH],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _modules(component: object) -> set[str]:
    """Where the class of a component is written, and those of the components it is made of."""
    parts = [getattr(component, field.name) for field in fields(component)] if is_dataclass(component) else []
    return {type(component).__module__}.union(*(_modules(part) for part in parts if is_dataclass(part)))


def checkpoint_digest(module: nn.Module) -> str:
    """SHA-256 of the architecture and of every parameter and buffer."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@cache
def _closure(roots: frozenset[str]) -> frozenset[str]:
    """The modules that the roots take objects from, within wfbench and the plugin's own file."""
    found, queue = set[str](), list(roots)
    while queue:
        name = queue.pop()
        if name in found or name in NOT_SCIENCE or name not in sys.modules:
            continue
        found.add(name)
        for value in vars(sys.modules[name]).values():
            origin = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(origin, str) and origin.startswith("wfbench."):
                queue.append(origin)
    return frozenset(found)


@cache
def _source(name: str) -> str:
    """Digest of a module's code without comments, docstrings and layout."""
    file = sys.modules[name].__file__
    if file is None:
        return ""
    with open(file) as text:
        tree = ast.parse(text.read())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
