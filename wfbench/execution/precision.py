"""What a run computes with: whole float32 products, and on an accelerator the same kernels every time.

Convolutions on CUDA run in TF32, which keeps 10 bits of a float32's 23, unless told otherwise; `docs/precision.md` has
what that does to rows and updates. On the processor nothing changes where the user changed nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import backends

from wfbench.errors import WfbenchError


@runtime_checkable
class OnDevice(Protocol):
    device: torch.device


P = ParamSpec("P")
S = TypeVar("S", bound=OnDevice)
T = TypeVar("T")

ACCELERATOR = "ieee float32, deterministic kernels"
"""What records of a device other than the processor say of their precision."""
FP32: tuple[Any, ...] = (
    *(backends, backends.cudnn, backends.mkldnn, backends.cuda.matmul),
    *(getattr(backends.cudnn, operation) for operation in ("conv", "rnn")),
    *(getattr(backends.mkldnn, operation) for operation in ("matmul", "conv", "rnn")),
)
"""Where torch is told how to multiply float32, the general before the special, for which it stands in."""
WORKSPACES = {":4096:8", ":16:8"}
"""Of cuBLAS, with which its kernels are deterministic."""


def precision(device: torch.device) -> dict[str, str]:
    """Of the environment: nothing on the processor, whose records say nothing of it."""
    return {} if device.type == "cpu" else {"precision": ACCELERATOR}


@contextmanager
def precise(device: torch.device) -> Iterator[None]:
    """Products of float32 in float32 in here, and on an accelerator deterministic kernels alone, chosen by no timing.

    An operation that has none raises torch's error, which names it. `CUBLAS_WORKSPACE_CONFIG`, which is read once a
    process, stays set; all else is as before at the end. In here torch refuses to read `backends.cudnn.allow_tf32`.

    Raises:
        WfbenchError: that variable asks for a workspace with which cuBLAS is not deterministic, on an accelerator.
    """
    with _whole_float32():
        if device.type == "cpu":
            yield
        else:
            with _deterministic():
                yield


@contextmanager
def _whole_float32() -> Iterator[None]:
    told = []
    try:
        for where in FP32:
            if (before := where.fp32_precision) != "ieee":  # else it goes by the general one, and shall go on to
                told.append((where, before))
                where.fp32_precision = "ieee"
        yield
    finally:
        for where, before in reversed(told):
            where.fp32_precision = before


@contextmanager
def _deterministic() -> Iterator[None]:
    workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if workspace not in WORKSPACES:
        raise WfbenchError(
            f"CUBLAS_WORKSPACE_CONFIG is {workspace}, with which cuBLAS does not give the same bits twice; unset it, "
            "or set it to :4096:8"
        )
    filled: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), filled.fill_uninitialized_memory
    chosen = backends.cudnn.deterministic, backends.cudnn.benchmark
    try:
        torch.set_deterministic_debug_mode("error")
        filled.fill_uninitialized_memory = False
        backends.cudnn.deterministic, backends.cudnn.benchmark = True, False
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        filled.fill_uninitialized_memory = before[1]
        backends.cudnn.deterministic, backends.cudnn.benchmark = chosen


def precisely(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method of what has a `device`, done `precise` there."""

    @wraps(method)
    def done(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with precise(self.device):
            return method(self, *args, **kwargs)

    return done
