"""Reading a split: what is read sample by sample, when nobody may, and that a sample stays what it was."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from wfbench.errors import WfbenchError


@runtime_checkable
class MapStyle(Protocol):
    """A map-style dataset: `dataset[i]` is an input (tensor) and its class index, or an input alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


_SEALS: list[list[str]] = []


@contextmanager
def sealed() -> Iterator[list[str]]:
    """Until it ends no `Dataset` can be read; yields the names of those that somebody asked for."""
    asked: list[str] = []
    _SEALS.append(asked)
    try:
        yield asked
    finally:
        _SEALS.remove(asked)


def check_open(name: str) -> None:
    """Raise WfbenchError where splits are sealed, and note who asked."""
    if _SEALS:
        _SEALS[-1].append(name)
        raise WfbenchError(f"{name} is sealed while a method runs; use the samples that `fit` is handed")


class Seen:
    """What the samples of a split were when they were first read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sums: dict[int, int] = {}

    def check(self, index: int, x: Tensor, labels: Sequence[Tensor]) -> None:
        """Raise WfbenchError where a sample is not what it was, as for the fingerprint."""
        found = 0  # a checksum, since a digest of a photograph takes as long as all else that reading it again takes
        for tensor in (x, *labels):
            found = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), found)
            found = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data, found)
        if self._sums.setdefault(index, found) != found:
            raise WfbenchError(
                f"{self._name}[{index}] is not what it was when it was first read; keep its file as it is during a "
                "run, and its `transform` free of chance"
            )
