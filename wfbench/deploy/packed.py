"""Tensors full of zeros, stored small: one bit an entry, and the values that are not zero.

In a safetensors file `NAME` becomes `NAME.kept`, bytes of eight entries each (the first in the highest bit, row-major,
1 = not zero), and `NAME.values`, the entries that are not zero, in their order and type. The shapes stand in the
metadata. A tensor that would not get smaller is stored as it is.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from wfbench.errors import WfbenchError
from wfbench.network import Params
from wfbench.writing import check_file, whole

KEY = "wfbench"
"""The one metadata key; its value is a JSON object. Several keys would be written in an order that changes."""

SHAPES = "packed"
"""Within that object, the shapes of the packed tensors by name."""


def pack(state: Mapping[str, Tensor]) -> tuple[Params, dict[str, list[int]]]:
    """The tensors to store, and the shapes of those that are packed."""
    found: Params = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in state.items():
        kept = tensor.flatten() != 0
        bits = torch.from_numpy(np.packbits(kept.numpy()))
        values = tensor.flatten()[kept]
        if bits.nbytes + values.nbytes < tensor.nbytes:
            found |= {f"{name}.kept": bits, f"{name}.values": values}
            shapes[name] = list(tensor.shape)
        else:
            found[name] = tensor
    return found, shapes


def unpack(stored: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> Params:
    """The inverse of `pack`; an entry of -0.0 comes back as 0.0."""
    found = {name: tensor for name, tensor in stored.items() if name.rpartition(".")[0] not in shapes}
    for name, shape in shapes.items():
        values, size = stored[f"{name}.values"], torch.Size(shape).numel()
        kept = np.unpackbits(stored[f"{name}.kept"].numpy(), count=size).astype(bool)
        flat = torch.zeros(size, dtype=values.dtype)
        flat[torch.from_numpy(kept)] = values
        found[name] = flat.reshape(shape)
    return found


def file_bytes(state: Mapping[str, Tensor], about: Mapping[str, Any], sparse: bool = False) -> bytes:
    """A safetensors file of a state and what is said about it; the same from the same."""
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    if sparse:
        own, shapes = pack(own)
        about = {**about, SHAPES: shapes}
    return as_bytes(own, {KEY: json.dumps(dict(about), sort_keys=True)})


def write(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any], sparse: bool = False) -> None:
    """Write such a file.

    Raises:
        WfbenchError: it cannot be written.
    """
    check_file(path)
    with whole(path) as part:
        part.write_bytes(file_bytes(state, about, sparse))


def read(path: Path) -> tuple[dict[str, Any] | None, Params]:
    """What is said about a state, None where that is nothing of ours, and the state, unpacked.

    Raises:
        WfbenchError: no such file, or none of safetensors.
    """
    if not path.is_file():
        raise WfbenchError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (OSError, SafetensorError) as error:
        raise WfbenchError(f"{path} is no safetensors file, or is damaged: {error}") from error
    try:
        about = json.loads(text or "")
    except ValueError:
        about = None
    if not isinstance(about, dict):
        return None, stored
    return about, unpack(stored, about.get(SHAPES, {}))


def save_sparse(path: str | Path, module: nn.Module) -> None:
    """Write the state of a module whose weights are mostly zeros; at 90 % zeros it takes a seventh of the space."""
    write(Path(path), module.state_dict(), {}, sparse=True)


def load_sparse(path: str | Path) -> Params:
    """The state that `save_sparse` or `wfbench prune --sparse` wrote, for `module.load_state_dict`.

    Raises:
        WfbenchError: no such file, or none of safetensors.
    """
    return read(Path(path))[1]
