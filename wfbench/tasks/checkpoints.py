"""The dense checkpoints: safetensors files beside this module, verified by SHA-256, with their recipes."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import nn

from wfbench.errors import WfbenchError
from wfbench.modules import put, state_of
from wfbench.tasks.cache import content
from wfbench.writing import whole

FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Checkpoint:
    """One dense checkpoint as registered: file, SHA-256, training seed, test accuracy in [0, 1], recipe.

    The accuracy is None where the weights are another's and were never scored here on the data they are for; the recipe
    then names their source.
    """

    file: str
    sha256: str
    seed: int
    accuracy: float | None
    recipe: dict[str, Any]
    torch: str


def registry(folder: Path = FOLDER) -> dict[str, list[Checkpoint]]:
    """Registered checkpoints of every task, by task name, in order of training seed."""
    path = folder / "registry.json"
    if not path.exists():
        return {}
    entries = json.loads(content(path, "train the checkpoints again with `wfbench train`"))
    return {task: [Checkpoint(**entry) for entry in found] for task, found in entries.items()}


def load(build: Callable[[], nn.Module], checkpoint: Checkpoint, folder: Path = FOLDER) -> nn.Module:
    """The network of a verified checkpoint, in eval mode.

    Raises:
        WfbenchError: if the file is missing, damaged or changed, or does not fit the network.
    """
    path = folder / checkpoint.file
    read = content(path, "reinstall wfbench, or train it with `wfbench train`")
    found = hashlib.sha256(read).hexdigest()
    if found != checkpoint.sha256:
        raise WfbenchError(
            f"checkpoint {path} is damaged or was changed: its SHA-256 is {found[:12]}…, registered is "
            f"{checkpoint.sha256[:12]}…; reinstall wfbench, or train it again with `wfbench train`"
        )
    module = build()
    try:
        put(module, load_tensors(read))
    except (SafetensorError, RuntimeError) as error:
        raise WfbenchError(f"checkpoint {path} does not fit its network: {error}") from error
    return module.eval()


def save(task: str, module: nn.Module, folder: Path, seed: int, accuracy: float, recipe: dict[str, Any]) -> Path:
    """Write a checkpoint and enter it into the folder's registry."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task}-{seed}.safetensors"
    with whole(path) as part:
        save_file({name: tensor.cpu().contiguous() for name, tensor in state_of(module).items()}, part)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = Checkpoint(path.name, digest, seed, accuracy, recipe, torch.__version__)
    entries = registry(folder)
    kept = [other for other in entries.get(task, []) if other.seed != seed]
    entries[task] = sorted([*kept, entry], key=lambda checkpoint: checkpoint.seed)
    text = json.dumps({name: [asdict(c) for c in entries[name]] for name in sorted(entries)}, indent=1)
    with whole(folder / "registry.json") as part:
        part.write_text(text + "\n")
    return path


def shipped(task: str, build: Callable[[], nn.Module]) -> tuple[Callable[[], nn.Module], ...]:
    """Functions that make the task's shipped dense networks."""
    return tuple(partial(load, build, checkpoint) for checkpoint in registry().get(task, []))


def accuracies(task: str) -> tuple[float, ...]:
    """The registered test accuracies of the task's shipped checkpoints; empty where they were never measured."""
    found = [checkpoint.accuracy for checkpoint in registry().get(task, [])]
    return tuple(accuracy for accuracy in found if accuracy is not None)
