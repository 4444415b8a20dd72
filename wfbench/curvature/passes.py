"""What a pass through a network keeps for its way back: in memory up to a share of the bound, beyond it in files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias
from weakref import ref

import torch
from torch import Tensor

from wfbench.curvature.memory import PASS, SMALL, bound, release, stored
from wfbench.network import Network

Again: TypeAlias = Callable[[], Tensor]


class ChangedInPlace(RuntimeError):
    """A tensor that the way back needs is not what it was."""


@contextmanager
def kept_within_bound(net: Network) -> Iterator[Callable[[Tensor], Again]]:
    """Until it ends, what autograd saves goes where the bound lets it; so does what the function it gives is given.

    The same bits come back. What was changed in place since is an error, as it is without.
    """
    kept = _Kept({tensor.data_ptr() for tensor in net.movable.values()})
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda again: again()):
        yield kept.keep


class _Kept:
    """Args:
    elsewhere: addresses of the tensors that are in memory anyway.
    """

    def __init__(self, elsewhere: set[int]) -> None:
        self.left, self.elsewhere = PASS * bound(), elsewhere
        self.known: dict[tuple[int, int, torch.Size], tuple[ref[torch.UntypedStorage], Again]] = {}

    def keep(self, tensor: Tensor) -> Again:
        tensor, size = tensor.detach(), tensor.nbytes
        if tensor.device.type != "cpu" or size < SMALL or tensor.data_ptr() in self.elsewhere:
            return _unchanged(tensor)
        which = tensor.data_ptr(), tensor._version, tensor.shape
        if which in self.known and self.known[which][0]() is not None:  # a layer's input is saved by the layer, too
            return self.known[which][1]
        self.left -= size
        again = _unchanged(tensor) if self.left >= 0 or not tensor.is_contiguous() else _read(stored(tensor))
        self.known[which] = ref(tensor.untyped_storage()), again
        return again


def _read(tensor: Tensor) -> Again:
    def again() -> Tensor:
        found = tensor.clone()
        release(tensor)
        return found

    return again


def _unchanged(tensor: Tensor) -> Again:
    version = tensor._version

    def again() -> Tensor:
        if tensor._version != version:
            raise ChangedInPlace("a tensor that the way back needs was changed by an in-place operation")
        return tensor

    return again
