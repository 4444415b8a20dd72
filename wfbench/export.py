"""A pruned network as a file: saved with what it was made with, loaded as a module, exported to ONNX."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wfbench.channels.coupled import shrunk
from wfbench.channels.pattern import Filter
from wfbench.definitions.installed import version_of
from wfbench.deploy import packed
from wfbench.errors import BrokenRule, CaseFailed, WfbenchError
from wfbench.harness.case import Case, options
from wfbench.harness.record import Record
from wfbench.harness.reuse import checkpoint_digest
from wfbench.harness.runner import Runner
from wfbench.kinds.network import as_brought
from wfbench.modules import put, state_of
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.writing import check_file, whole

FORMAT, PACKED = 1, 2
"""Of the metadata, where tensors are stored as they are, and where those full of zeros are packed."""

NEEDED = ("format", "task", "replicate", "shape", "removed_channels")
"""What the metadata must have for the network to be rebuilt."""


def nothing() -> None:
    """What is called where nobody wants to be told."""


@dataclass(frozen=True)
class Outcome:
    """What pruning one case gave.

    Args:
        record: as in a suite.
        module: the pruned network, without its removed channels; on the CPU, in eval mode.
        about: the metadata of its file.
    """

    record: Record
    module: nn.Module
    about: dict[str, Any]


class _Keeping(Runner):
    """Keeps the network that was scored last."""

    found: Pruned | None = None

    def recover(self, case: Case) -> tuple[Pruned, Pruned, float, float]:
        found = super().recover(case)
        self.found = found[1]
        return found


def pruned_network(
    case: Case, device: str = "cpu", pruning: Callable[[], None] = nothing, scoring: Callable[[], None] = nothing
) -> Outcome:
    """Run the case as a suite does, and keep the network that was scored.

    Args:
        pruning: called before the network is pruned.
        scoring: called before it is recovered and scored.

    Raises:
        WfbenchError: the case has no result, or broke a rule.
    """
    runner = _Keeping(device)
    try:
        pruning()
        with suppress(CaseFailed):  # is the record's reason below
            runner.prune(case)
        scoring()
        record = runner.run(case)
    except BrokenRule as broken:
        raise WfbenchError(f"a rule of the benchmark is broken, nothing is saved: {broken}") from broken
    if record.status != "ok" or runner.found is None:
        raise WfbenchError(f"{case.method.name} has no result: {record.reason}")
    pruned, dense = runner.found, case.task.dense(case.replicate)
    removed = {name: sorted(set(gone)) for name, gone in pruned.removed_channels.items() if gone}
    pattern = Filter.of(case.task.train_set.take([0]).inputs)
    module = smaller(Network(deepcopy(dense).cpu()), pattern, removed, pruned.state)
    about = {
        **case.identity(),
        "format": FORMAT,
        "options": options(case.method),
        "recovery_options": options(case.recovery),
        "removed_channels": removed,
        "shape": list(pattern.shape),
        **({"tokens": True} if pattern.tokens else {}),
        "checkpoint": checkpoint_digest(dense),
        "version": version_of("wfbench"),
    }
    return Outcome(record, module, about)


def smaller(net: Network, pattern: Filter, removed: Mapping[str, list[int]], state: Mapping[str, Tensor]) -> nn.Module:
    """The network of a state as large as `net`'s, without the removed channels."""
    if removed:
        return as_brought(shrunk(net, state, pattern.example(net), removed))
    return as_brought(net.module(state))


def save(path: Path, module: nn.Module, about: Mapping[str, Any], sparse: bool = False) -> None:
    """Write state and metadata to a safetensors file; the same network gives the same bytes.

    Args:
        sparse: tensors full of zeros are packed, see `deploy.packed`.

    Raises:
        WfbenchError: the file cannot be written.
    """
    check_file(path)
    packed.write(path, state_of(module), {**about, "format": PACKED} if sparse else about, sparse)


def load_pruned(path: str | Path, module: nn.Module | None = None) -> nn.Module:
    """The network that `wfbench prune` saved, in eval mode, its parameters free to be trained.

    Args:
        path: of the safetensors file.
        module: the dense network that was pruned, its weights do not matter; needed for tasks of your own.

    Raises:
        WfbenchError: no such file, none of `wfbench prune`, an unknown task, or another network than was pruned.
    """
    about, state = _read(Path(path))
    net = Network(_dense(about, Path(path)) if module is None else module)
    removed = {name: gone for name, gone in about["removed_channels"].items() if gone}
    pattern = Filter(tuple(about["shape"]), about.get("tokens", False))
    try:
        if removed:
            _check_groups(net, pattern, removed)
        found = smaller(net, pattern, removed, net.state())
        put(found, state)
    except (WfbenchError, RuntimeError) as error:
        kind = type(net.module()).__name__
        raise WfbenchError(f"{path} does not fit this {kind}; give the network that was pruned: {error}") from error
    return found.requires_grad_(True).eval()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    about, state = packed.read(path)
    if about is None or not all(name in about for name in NEEDED):
        raise WfbenchError(f"{path} was not saved by `wfbench prune`: it does not say what was pruned")
    if about["format"] not in (FORMAT, PACKED):
        raise WfbenchError(f"{path} has format {about['format']}, this wfbench reads {PACKED}; install the newer one")
    return about, state


def _dense(about: Mapping[str, Any], path: Path) -> nn.Module:
    """The dense network by the name of its task."""
    from wfbench.harness.plugins import discover

    try:
        task = discover().task(about["task"])
    except WfbenchError as error:
        raise WfbenchError(
            f'{path} is of the task "{about["task"]}", which is not known here; give module=, the dense network'
        ) from error
    return task.dense(about["replicate"])


def _check_groups(net: Network, pattern: Filter, removed: Mapping[str, list[int]]) -> None:
    sizes = {group.name: group.size for group in pattern.groups(net)}
    for name, gone in removed.items():
        if name not in sizes or len(gone) >= sizes[name] or not set(gone) <= set(range(sizes[name])):
            raise WfbenchError(f"it has no channels {gone} of {name} to take out")


def export_program(path: Path | str, module: nn.Module, shape: tuple[int, ...]) -> None:
    """Write the network as a program of torch.export, for batches of any size; `torch.export.load` needs no wfbench.

    Raises:
        WfbenchError: the network cannot be exported, or the file cannot be written.
    """
    path = Path(path)
    check_file(path)
    module = deepcopy(module).cpu().eval().requires_grad_(False)
    example = torch.zeros((2, *shape), dtype=next(module.parameters()).dtype)
    try:
        with whole(path) as part, part.open("wb") as file:
            found = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            torch.export.save(found, file)
    except Exception as error:  # the exporter may fail in any way
        raise WfbenchError(f"{type(module).__name__} cannot be exported by torch.export: {_first(error)}") from error


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def check_onnx() -> None:
    """Raises a WfbenchError where the packages that write ONNX are missing."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise WfbenchError(f'{" and ".join(missing)} missing, needed for ONNX; pip install "wfbench[onnx]"')


def export_onnx(path: Path | str, module: nn.Module, shape: tuple[int, ...]) -> None:
    """Write the network as ONNX, `input [batch, *shape]` to `logits [batch, classes]`, for batches of any size.

    Raises:
        WfbenchError: packages are missing, the network cannot be exported, or the file cannot be written.
    """
    check_onnx()
    path = Path(path)
    check_file(path)
    module = deepcopy(module).cpu().eval().requires_grad_(False)
    example = torch.zeros((2, *shape), dtype=next(module.parameters()).dtype)
    try:
        with whole(path) as part, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own parts
            torch.onnx.export(
                module,
                (example,),
                part,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["input"],
                output_names=["logits"],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter may fail in any way
        raise WfbenchError(f"{type(module).__name__} cannot be exported to ONNX: {_first(error)}") from error
