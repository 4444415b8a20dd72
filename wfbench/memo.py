"""What was computed once and is asked for again: by methods, budgets, sparsities and recoveries of one draw."""

import hashlib
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Kept: TypeAlias = dict[Any, tuple[Any, float]]
"""By key: what was made, and the seconds that it took or would have taken had nothing been kept."""

LARGE = 2**28
"""Bytes of what hangs on samples that are kept where nobody says how many."""


class Memo:
    """What was computed of a network, by key, and the seconds that taking it again has saved.

    Args:
        most: bytes of tensors that `take_large` keeps; what was asked for longest ago goes first. Nothing but time
            hangs on it.
    """

    def __init__(self, most: int = LARGE) -> None:
        self.most = most
        self._kept: Kept = {}
        self._large: Kept = {}
        self.saved = 0.0

    def take(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under the key, made where there is nothing."""
        return self.take_in(self._kept, key, make)

    def take_in(self, kept: Kept, key: Hashable, make: Callable[[], T]) -> T:
        """The same of what whoever asks keeps himself, so that it is gone when he is."""
        if key in kept:
            value, seconds = kept[key]
            self.saved += seconds
            return value
        began, saved = time.perf_counter(), self.saved
        made = make()
        kept[key] = made, time.perf_counter() - began + self.saved - saved
        return made

    def take_large(self, key: Hashable, make: Callable[[], T]) -> T:
        """The same of tensors that are kept as long as there is room for them; who asks gets copies of his own."""
        found = self.take_in(self._large, key, make)
        self._large[key] = self._large.pop(key)
        while self._large and sum(bytes_of(value) for value, _ in self._large.values()) > self.most:
            del self._large[next(iter(self._large))]
        return _copied(found) if key in self._large else found

    def like(self, other: "Memo", *keys: Hashable) -> None:
        """Take over what another has under these keys."""
        self._kept |= {key: other._kept[key] for key in other._kept.keys() & {*keys}}

    def get(self, key: Hashable) -> Any:
        """What is kept under the key, or None; the caller says what it saved."""
        return self._kept.get(key, (None,))[0]

    def keep(self, key: Hashable, value: object) -> None:
        """In place of what was kept under the key."""
        self._kept[key] = value, 0.0

    def clear(self) -> None:
        """Forget everything, so that memory is free."""
        self._kept.clear()
        self._large.clear()


def bytes_of(value: object) -> int:
    """Of the tensors in it."""
    if isinstance(value, Tensor):
        return value.nbytes
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(bytes_of, inner))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _copied(one) for key, one in value.items()}
    return type(value)(map(_copied, value)) if isinstance(value, (list, tuple)) else value


def digest_of(x: Tensor) -> bytes:
    """What tells tensors apart: shape, type and every bit."""
    found = hashlib.blake2b(repr((x.shape, x.dtype)).encode(), digest_size=16)
    found.update(x.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().data)
    return found.digest()
