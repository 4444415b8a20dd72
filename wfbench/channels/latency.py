"""How long a smaller network takes beside the dense one: both timed in turn, in one process."""

import hashlib
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from timeit import Timer
from typing import TypeAlias

import torch
from torch import Tensor, nn

from wfbench.execution.clock import now

Timing: TypeAlias = dict[str, int | float]
"""Of one batch size: `batch`; `median`, `low`, `high` of dense over small; `latency`, `dense_latency` [s], medians."""

BATCHES = (1, 16)
REPETITIONS = 15
SECONDS = 0.02
"""Least time of a repetition."""
CALLS = 2
"""Least number of forward passes of each network in a repetition."""


def architecture(module: nn.Module) -> str:
    """The first 12 digits of the SHA-256 of the names and shapes of parameters and buffers."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:12]


def latencies(dense: nn.Module, small: nn.Module, x: Tensor) -> list[Timing]:
    """For each batch size how many times as fast as the dense network the small one is, on torch's threads.

    A repetition calls the two in turn and takes the least time of each: what else the machine does only adds to it.
    Each has fresh copies, for where tensors lie in memory is what another run has otherwise. The ratio of the two is
    one value; the range is from the least to the greatest, so that it holds the median of another run, and is wide
    where the machine disturbed a repetition.

    Args:
        x: one input `[1, *input]`, which is repeated.
    """
    inputs = {batch: x.repeat(batch, *[1] * (x.ndim - 1)) for batch in BATCHES}
    pairs: dict[int, list[list[float]]] = {batch: [] for batch in BATCHES}
    with torch.inference_mode():
        for repetition in range(REPETITIONS + 1):
            for batch, values in inputs.items():
                least = _least(deepcopy(dense).eval(), deepcopy(small).eval(), values.clone())
                if repetition:  # the first one warms up
                    pairs[batch].append(least)
    return [_summary(batch, torch.tensor(found, dtype=torch.float64)) for batch, found in pairs.items()]


def _least(dense: nn.Module, small: nn.Module, x: Tensor) -> list[float]:
    """Least seconds of a call of each network, called in turn, each as often the first."""
    timers = [_timer(partial(module, x), x.device) for module in (dense, small)]
    least, began, calls = [float("inf")] * 2, time.perf_counter(), 0
    while calls < CALLS or time.perf_counter() - began < SECONDS:
        for which in (0, 1) if calls % 2 else (1, 0):
            least[which] = min(least[which], timers[which]())
        calls += 1
    return least


def _timer(call: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """What makes the call and says how many seconds it took, with the device idle before and after."""
    if device.type == "cuda":
        return partial(_between_events, call, device)
    return partial(Timer(call, timer=_clock(device)).timeit, 1)


def _between_events(call: Callable[[], object], device: torch.device) -> float:
    """By the device's own clock: the host's would count the waiting for it too."""
    began, ended = (torch.Event(device, enable_timing=True) for _ in range(2))
    torch.accelerator.synchronize(device)
    began.record()
    call()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1000


def _clock(device: torch.device) -> Callable[[], float]:
    """One thread's own time on the processor, in which other processes have no part; else the wall clock's."""
    if device.type == "cpu":
        return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    return partial(now, device)


def _summary(batch: int, pairs: Tensor) -> Timing:
    ratios = pairs[:, 0] / pairs[:, 1]
    dense, small = pairs.quantile(0.5, dim=0).tolist()
    ends = {"low": float(ratios.min()), "high": float(ratios.max())}
    return {"batch": batch, "median": float(ratios.quantile(0.5)), **ends, "latency": small, "dense_latency": dense}
