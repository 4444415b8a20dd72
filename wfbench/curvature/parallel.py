"""Rows collected by several processes, say one a GPU: each computes its share of the samples, and all get all rows.

A share is whole tiles of samples, so the rows are the bits of one process alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import lcm

import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed import ProcessGroup

from wfbench.errors import WfbenchError

_groups: list[ProcessGroup] = []


@contextmanager
def in_parallel(group: ProcessGroup | None = None) -> Iterator[None]:
    """In here the rows that are asked for are collected by all processes of a group, each on its own device.

    All of them do the same: they run the same methods on the same networks, samples and kind of device, in one order,
    as under `torchrun`. One that fails leaves the others to the group's time limit, as in all of torch.distributed.

    Args:
        group: of torch.distributed; the default one where None.

    Raises:
        WfbenchError: there is no group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise WfbenchError("there is no group of processes; call torch.distributed.init_process_group first")
    found = group or dist.group.WORLD
    assert found is not None
    _groups.append(found)
    try:
        yield
    finally:
        _groups.pop()


class Shares:
    """Which tiles of n samples this process computes: all of them, or within `in_parallel` every so many'th share.

    Args:
        tile: samples a tile.
        batch: samples whose mean is one row; a share holds whole ones.
    """

    def __init__(self, n: int, tile: int, batch: int) -> None:
        self._n, self._tile, self._share = n, tile, lcm(tile, batch)
        self._group = _groups[-1] if _groups else None

    def __iter__(self) -> Iterator[int]:
        """The first sample of each tile."""
        size, rank = (1, 0) if self._group is None else (self._group.size(), self._group.rank())
        for start in range(0, self._n, self._tile):
            if start // self._share % size == rank:
                yield start

    def complete(self, rows: Float[Tensor, "k p"]) -> None:
        """Write into `rows` what the other processes have computed, and give them what this one has."""
        if self._group is None:
            return
        for at, part in enumerate(rows.split(self._share * len(rows) // self._n)):
            source = dist.get_global_rank(self._group, at % self._group.size())
            dist.broadcast(part, source, self._group)
