"""What a call leaves behind in torch for all that comes after it: settings, and functions in the place of others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn

from wfbench.execution.precision import FP32

Get: TypeAlias = Callable[[], Any]
Set: TypeAlias = Callable[[Any], object]


def _of(owner: Any, name: str) -> tuple[Get, Set]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _precision_of(where: Any) -> tuple[Get, Set]:
    def put(value: str) -> None:
        where.fp32_precision = "none"  # so that it goes by the general one again, if that is what it did
        if where.fp32_precision != value:
            where.fp32_precision = value

    return lambda: where.fp32_precision, put


def _determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _flushes_denormals() -> bool:
    return float(torch.tensor(1e-310, dtype=torch.float64) * 1.0) == 0.0


SETTINGS: tuple[tuple[Get, Set], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (_determinism, lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1])),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    (lambda: torch.is_autocast_enabled("cpu"), lambda value: torch.set_autocast_enabled("cpu", value)),
    (_flushes_denormals, torch.set_flush_denormal),
    *(_of(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
    _of(torch.backends.mkldnn, "enabled"),
    *map(_precision_of, FP32),
)
"""How what decides every later result is asked and set."""


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    below: list[type[Any]] = kind.__subclasses__()
    for one in below:
        yield from _below(one)


_LAYERS = {one for one in _below(nn.Module) if one.__module__.startswith("torch.nn.modules")}
_SPACES: tuple[Any, ...] = (
    *(torch, nn.functional, nn.init, torch.linalg, torch.func, torch.autograd, torch.Tensor),
    *_LAYERS,
    *(one for one in _below(torch.optim.Optimizer) if one.__module__.startswith("torch.optim")),
)
"""Modules and classes whose functions everything here goes through."""
_HOOKS: list[dict[Any, Any]] = [
    value for name, value in vars(nn.modules.module).items() if name.startswith("_global_") and isinstance(value, dict)
]
"""Hooks on all modules."""


@contextmanager
def put_back() -> Iterator[None]:
    """Afterwards torch's settings, functions and global hooks are what they were."""
    settings = [get() for get, _ in SETTINGS]
    spaces = _known()
    hooks = [dict(one) for one in _HOOKS]
    try:
        yield
    finally:
        for (get, put), before in zip(SETTINGS, settings, strict=True):
            if get() != before:
                put(before)
        for space, functions in zip(_SPACES, spaces, strict=True):
            if vars(space) != functions:
                _restore(space, functions)
        for hook, content in zip(_HOOKS, hooks, strict=True):
            if hook != content:
                hook.clear()
                hook.update(content)


_KNOWN: list[dict[str, Any]] = [{} for _ in _SPACES]


def _known() -> list[dict[str, Any]]:
    """What there is in every space, which is written down anew where it has changed since."""
    for index, space in enumerate(_SPACES):
        if vars(space) != _KNOWN[index]:
            _KNOWN[index] = dict(vars(space))
    return _KNOWN[:]


def _restore(space: Any, functions: dict[str, Any]) -> None:
    """What was there is there again, and a class has no functions more; a module may have been imported into."""
    now = dict(vars(space))
    for name, before in functions.items():
        if now.get(name) is not before and (
            callable(before) or isinstance(before, (staticmethod, classmethod, property))
        ):
            setattr(space, name, before)
    if isinstance(space, type):
        for name in now.keys() - functions.keys():
            if callable(now[name]) and not name.startswith("__annot"):
                delattr(space, name)
