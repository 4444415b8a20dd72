"""Methods that end, hang or fill their process, for `benchmarks.deaths`."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from wfbench import Network, Pruned, Pruner, ScorePruner, Target

LARGE = 1 << 26
"""Numbers in a tensor of 256 MiB."""
KEPT: list[torch.Tensor] = []


@dataclass(frozen=True)
class Odd(ScorePruner[None]):
    """Magnitude, and what it does besides."""

    does: Callable[[], object]
    name: str

    def scores(self, net: Network, data: None) -> dict[str, torch.Tensor]:
        self.does()
        return {name: weight.abs() for name, weight in net.weights.items()}


class Ends:
    """What ends the process when it prunes."""

    def prune(self, target: Target) -> Pruned:
        os._exit(1)


class InPrune(Pruner[None]):
    """It ends the process later."""

    name: ClassVar[str] = "odd-prune"

    def fit(self, net: Network, data: None) -> Ends:
        return Ends()


PRUNERS = [
    Odd(lambda: os._exit(0), "odd-exit"),
    Odd(lambda: sys.exit(3), "odd-quit"),
    Odd(lambda: os.kill(os.getpid(), signal.SIGSEGV), "odd-segv"),
    InPrune(),
    Odd(lambda: ctypes.PyDLL(None).sleep(600), "odd-hang"),
    Odd(lambda: KEPT.append(torch.ones(LARGE)), "odd-hoard"),
    Odd(lambda: torch.ones(LARGE).sum(), "odd-take"),
]
