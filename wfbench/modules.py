"""Torch modules: their state with each tensor under one name, and copies that no forward pass has marked."""

from collections import deque
from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wfbench.errors import WfbenchError

M = TypeVar("M", bound=nn.Module)

PRUNABLE = (nn.Linear, nn.modules.conv._ConvNd)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
OWN = frozenset(vars(nn.Module())) | {"forward"}
"""Attributes by which torch keeps a module, and the one that `calls.plain_calls` sets; others are the network's."""


def names_of(module: nn.Module) -> dict[str, str]:
    """For every name in the module's state the one name by which its tensor is known.

    A tensor with several names, such as tied weights, goes by the first that is a prunable layer's weight, else by the
    first.
    """
    layers = dict(module.named_modules(remove_duplicate=False))
    known: dict[int, list[str]] = {}
    tensors = module.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        known.setdefault(id(tensor), []).append(name)

    def chosen(names: list[str]) -> str:
        for name in names:
            owner, _, key = name.rpartition(".")
            if key == "weight" and isinstance(layers[owner], PRUNABLE):
                return name
        return names[0]

    names = {place: chosen(found) for place, found in known.items()}
    return {name: names[id(tensor)] for name, tensor in tensors.items()}


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer once, by the name by which it is known; the module's own tensors, detached."""
    tensors, found = module.state_dict(), dict[str, Tensor]()
    for name, known in names_of(module).items():
        found.setdefault(known, tensors[name].detach())
    return found


def bytes_of(tensors: Mapping[str, Tensor]) -> dict[str, memoryview]:
    """The bytes of each tensor; from a device in one copy."""
    flat = {name: tensor.detach().contiguous().reshape(-1).view(torch.uint8) for name, tensor in tensors.items()}
    if any(tensor.device.type != "cpu" for tensor in flat.values()):
        sizes = [len(part) for part in flat.values()]
        flat = dict(zip(flat, torch.cat(list(flat.values())).cpu().split(sizes), strict=True))
    return {name: part.numpy().data for name, part in flat.items()}


def counts_of(counts: Mapping[str, Tensor]) -> dict[str, int]:
    """Integers without axes, by name; from a device all at once."""
    return dict(zip(counts, torch.stack(list(counts.values())).tolist(), strict=True)) if counts else {}


def put(module: M, state: Mapping[str, Tensor]) -> M:
    """The module with a whole state written into it, each tensor under all of its names.

    Raises:
        WfbenchError: the state has two values for one tensor.
    """
    names, known = names_of(module), dict[str, Tensor]()
    for name, tensor in state.items():
        of = names.get(name, name)
        if of in known and not torch.equal(known[of], tensor):
            raise WfbenchError(f"{name} is one tensor with {of} or another name of it; the state has two values for it")
        known[of] = tensor
    module.load_state_dict({**known, **{name: known[of] for name, of in names.items() if of in known}})
    return module


def copied(module: M) -> M:
    """A deep copy; what a forward pass stored with its graph is in it without one."""
    stored: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            inner = (
                value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
            )
            graphs = [one for one in inner if isinstance(one, Tensor) and one.grad_fn is not None]
            stored |= {id(one): one.detach().clone() for one in graphs}
    return deepcopy(module, stored)


class Attributes:
    """The plain attributes of a module and its parts, to be put back after a forward pass has stored anything there."""

    def __init__(self, module: nn.Module) -> None:
        self._kept = [(part, {key: _whole(value) for key, value in _plain(part)}) for part in module.modules()]

    def put_back(self) -> None:
        for part, kept in self._kept:
            now = vars(part)
            for key in [key for key, _ in _plain(part) if key not in kept]:
                del now[key]
            for key, (value, content) in kept.items():
                now[key] = value
                if content is not None and value != content:
                    value.clear()
                    value.extend(content) if isinstance(value, (list, deque)) else value.update(content)


def _plain(part: nn.Module) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in vars(part).items() if key not in OWN]


def _whole(value: Any) -> tuple[Any, Any]:
    """A value, and what it contains, where a forward pass could put more into it."""
    return value, copy(value) if isinstance(value, (list, dict, set, deque)) else None


def anatomy(module: nn.Module) -> dict[str, Any]:
    """All of a module but the values of its tensors and its plain attributes: what two looks at it must agree on.

    Parts, tensors and hooks with their identity, modes, and what stands in the place of a method, each by its name.
    """
    found: dict[str, Any] = {}
    for place, part in module.named_modules(remove_duplicate=False):
        name = place or type(part).__name__
        found[f"type of {name}"] = type(part)
        found[f"mode of {name}"] = part.training
        found[f"forward of {name}"] = vars(part).get("forward")
        for key, value in vars(part).items():
            if key.endswith("_hooks") and isinstance(value, dict):
                found.setdefault(f"hooks of {name}", []).extend(value.values())
        found[f"parts of {name}"] = list(part.named_children())
        for key, tensor in (*part._parameters.items(), *part._buffers.items()):  # a pass may put a new buffer there
            which = id(tensor) if isinstance(tensor, nn.Parameter) else None
            said = None if tensor is None else (which, tensor.dtype, tensor.requires_grad, tensor.grad is None)
            found[f"{key} of {name}"] = said
    return found
