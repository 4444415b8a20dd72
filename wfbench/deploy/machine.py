"""What a machine does a second: measured here in a second or two, or read from a file for any card."""

import json
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from wfbench.channels.pattern import Filter
from wfbench.curvature.by_layer import by_layer
from wfbench.curvature.memory import free, room
from wfbench.curvature.per_sample import columns_of
from wfbench.errors import WfbenchError
from wfbench.layers import check_patches
from wfbench.network import Network
from wfbench.operations.work import Work
from wfbench.tiles import Tiles, tiles
from wfbench.walk import second_moments

SECONDS = 0.2
"""For each measurement, at least."""
SIDE = 512
"""Of the square matrices that are multiplied."""
clock = time.perf_counter
COPIED = 2**24
"""float32 numbers that are widened to float64."""

FIELDS = {
    "memory_bytes": 1.0,
    "memory_gb_per_s": 1e9,
    "tflops_float32": 1e12,
    "tflops_float64": 1e12,
    "launch_us": 1e-6,
}
"""Of a file, and what one of each is in bytes, FLOPs and seconds."""


@dataclass(frozen=True)
class Machine:
    """Args:
    memory: bytes.
    bandwidth: bytes read and written a second.
    flops32, flops64: a second.
    launch: seconds that an operation takes, however small.
    kind: of device, as torch calls it.
    """

    name: str
    memory: float
    bandwidth: float
    flops32: float
    flops64: float
    launch: float
    kind: str = "cpu"

    @property
    def sizes(self) -> Tiles:
        """Of what is computed at a time there."""
        return tiles(torch.device(self.kind))

    def floor(self, work: Work) -> float:
        """Seconds, if moving hides computing or the reverse, and starting an operation costs nothing."""
        return max(work.moved / self.bandwidth, self.computing(work))

    def seconds(self, work: Work) -> float:
        """Seconds, if nothing hides anything."""
        return work.moved / self.bandwidth + self.computing(work) + work.launches * self.launch

    def computing(self, work: Work) -> float:
        return work.flops32 / self.flops32 + work.flops64 / self.flops64


def read_machine(path: Path) -> Machine:
    """A JSON or TOML file of numbers, the `FIELDS`, and perhaps a `name` and the `kind` of device, cuda unless said.

    Raises:
        WfbenchError: it is not one, or a number is missing or not above 0, or torch has no such device.
    """
    try:
        text = path.read_text()
        found: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise WfbenchError(f"{path}: {error.strerror}; give a file that says what the card does") from error
    except ValueError as error:
        raise WfbenchError(f"{path} is neither TOML nor JSON (.json): {error}") from error
    if not isinstance(found, dict) or (unknown := found.keys() - FIELDS.keys() - {"name", "kind"}):
        raise WfbenchError(f"{path}: {sorted(unknown) if isinstance(found, dict) else found} is none of {_fields()}")
    for name in FIELDS:
        if not isinstance(found.get(name), (int, float)) or not found[name] > 0:
            raise WfbenchError(f"{path}: {name} is {found.get(name)}; give a number above 0; it has {_fields()}")
    kind = str(found.get("kind", "cuda"))
    try:
        torch.device(kind)
    except RuntimeError as error:
        raise WfbenchError(f'{path}: kind "{kind}" is no device of torch; give cuda, or cpu for a processor') from error
    numbers = (found[name] * unit for name, unit in FIELDS.items())
    return replace(Machine(str(found.get("name", path.stem)), *numbers), kind=kind)


def _fields() -> str:
    return ", ".join(FIELDS)


def measured() -> Machine:
    """This machine, with as many threads as torch has here."""

    def product(dtype: torch.dtype) -> float:
        a, out = torch.ones((SIDE, SIDE), dtype=dtype), torch.empty((SIDE, SIDE), dtype=dtype)
        return 2 * SIDE**3 / usual(lambda: torch.mm(a, a, out=out))

    source = torch.ones(COPIED)
    to, small = torch.empty_like(source, dtype=torch.float64), torch.ones(1)
    bandwidth = (source.nbytes + to.nbytes) / usual(lambda: to.copy_(source))  # as rows are widened
    launch = usual(lambda: small.add_(1))
    return Machine("this machine", float(free()), bandwidth, product(torch.float32), product(torch.float64), launch)


def usual(action: Callable[[], object]) -> float:
    """Seconds of the middle one of several runs, after a first one."""
    action()
    found, end = list[float](), clock() + SECONDS
    while not found or clock() < end:
        began = clock()
        action()
        found.append(clock() - began)
    return median(found)


def pass_seconds(net: Network, x: Shaped[Tensor, "n *input"]) -> tuple[float, float]:
    """Seconds a sample of a forward pass, and of the way back with every layer's rows for one cotangent."""
    out = room((len(x), 1, sum(tensor.numel() for tensor in net.weights.values())), net.dtype, net.device)

    def forward() -> None:
        with torch.no_grad():
            net.logits({}, x)

    there = usual(forward)
    whole = usual(
        lambda: by_layer(net, x.clone(), lambda logits: torch.ones_like(logits)[None], columns_of(net.weights), out)
    )
    return there / len(x), max(0.0, whole - there) / len(x)


def moment_seconds(net: Network, x: Shaped[Tensor, "n *input"]) -> float:
    """Seconds of every layer's second moments of these samples, without the pass."""
    known = Network(net.module())
    known.memo.most = 0  # computed anew each time
    check_patches(known, x)
    with torch.no_grad():
        there = usual(lambda: known.logits({}, x))
    return max(0.0, usual(lambda: second_moments(known, x)) - there)


def channel_seconds(net: Network, pattern: Filter) -> float:
    """Seconds until it is known what goes with a channel, and what it costs."""
    import wfbench.channels.graph  # noqa: F401, whose library takes seconds to import

    known = Network(net.module())
    began = clock()
    pattern.groups(known), pattern.costs(known)
    return clock() - began
