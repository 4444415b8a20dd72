"""Where large tensors are: in memory within a bound, beyond it in a file without a name that ends with its tensors.

The bound never decides what is computed, or in which pieces, only where it lies: results are the same bits under any.
A tensor in a file is an ordinary one whose pages come in as they are read. `touched` says which were, and gives them
back to the file when they are many. On devices other than the CPU everything stays there.
"""

import mmap
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from weakref import WeakValueDictionary, finalize

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wfbench.errors import WfbenchError
from wfbench.execution.allocator import give_freed_memory_back
from wfbench.tiles import tiles

ROWS, PASS, PAGES = 1 / 2, 1 / 4, 1 / 8
"""Shares of the bound: rows in memory; what a pass keeps for its way back; pages of files. The rest is for vectors."""
BOUND = "most that curvature rows, their Grams and factors take on the CPU, beyond which they lie in files"
SMALL = 2**20
"""Bytes below which nothing goes to a file."""
LOOKS = 8
"""How often one looks at what is in memory while a share of the bound is read."""
PIECE = 2**14
"""Columns at a time where no bit hangs on how many."""
AHEAD = 2**25
"""Bytes that are asked for before they are read."""
ASKED = 2**17
"""Bytes that Linux reads when it is asked for so many or more, where nothing else is set."""

_bound: list[int] = []
_held = [0]
_others = [0.0]
_files: WeakValueDictionary[int, "_File"] = WeakValueDictionary()


def free() -> int:
    """Bytes that this process could have: what the machine has available, or its control group, if that is less."""
    try:
        text = Path("/proc/meminfo").read_text()
        found = int(re.findall(r"^MemAvailable:\s+(\d+) kB$", text, re.M)[0]) * 1024
    except (OSError, IndexError):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = Path("/sys/fs/cgroup")
    try:
        most, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        reclaimable = re.findall(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.M)
    except OSError:  # the machine's own, which has no bound
        return found
    return found if most == "max" else min(found, int(most) - int(used) + int(reclaimable[0]))


def bound() -> int:
    """Bytes for rows, Grams and factors; half of what was free when it was first asked, where none was set."""
    if not _bound:
        limit_to(None)
    return _bound[-1]


def limit_to(size: int | None) -> None:
    """The bound of this process and of those that it forks, bytes; None is half of what is free now."""
    _bound[:] = [size or free() // 2]


@contextmanager
def within(size: int) -> Iterator[None]:
    """Another bound, until it ends."""
    _bound.append(size)
    try:
        yield
    finally:
        _bound.pop()


def bytes_of(text: str) -> int:
    """`4GiB`, `500 MB` or a number of bytes.

    Raises:
        WfbenchError: it is none of these, or less than 1 MiB.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kMGT]?)(i?)B?", text.strip())
    size = 0 if found is None else int(float(found[1]) * (1024 if found[3] else 1000) ** " kMGT".index(found[2] or " "))
    if size < SMALL:
        raise WfbenchError(f'memory "{text}": give an amount such as 4GiB or 500MB, at least 1MiB')
    return size


class _File(mmap.mmap):
    """A file in the temporary folder that has no name: it is gone with the last tensor that lies in it, or a crash."""

    seen = 0


def room(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu", *, zeros: bool = False
) -> Tensor:
    """A tensor to be filled, or one of zeros; in a file where all made here would be beyond their share of the bound.

    Raises:
        WfbenchError: the temporary folder is full.
    """
    size = prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or fits(_held[0] + size, bound()) or size < SMALL:
        make = torch.zeros if zeros else torch.empty
        found = make(tuple(shape), dtype=dtype, device=device)
        if found.device.type == "cpu":
            _hold(size)
            finalize(found.untyped_storage(), _hold, -size).atexit = False
        return found
    return _in_file(tuple(shape), dtype)


def fits(size: int, limit: int) -> bool:
    """Whether rows of so many bytes are in memory under a bound."""
    return size <= ROWS * limit


def stored(tensor: Tensor) -> Tensor:
    """A copy in a file, none of whose pages are in memory."""
    found = _in_file(tensor.shape, tensor.dtype)
    for to, part in zip(found.flatten().split(2**22), tensor.flatten().split(2**22), strict=True):
        to.copy_(part)
        touched(found, part.nbytes)
    release(found)
    return found


def _in_file(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = prod(shape) * dtype.itemsize
    give_freed_memory_back()
    if not _files:
        _others[0] = _resident()
    try:
        with tempfile.TemporaryFile(prefix="wfbench-") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, not a signal later
            mapped = _File(file.fileno(), size)
            mapped.madvise(mmap.MADV_RANDOM)  # else it reads ahead, by megabytes for every row of a few columns
    except OSError as error:
        raise WfbenchError(
            f"{size / 2**30:.1f} GiB are beyond the bound of memory and do not fit into {tempfile.gettempdir()} "
            f"({error.strerror}); set TMPDIR to a folder with room, or give more memory"
        ) from error
    found = torch.frombuffer(mapped, dtype=dtype).view(shape)
    _files[found.untyped_storage().data_ptr()] = mapped
    return found


def _hold(size: int) -> None:
    _held[0] += size


def touched(tensor: Tensor, size: int) -> None:
    """So many bytes of what may lie in a file were read or written; they stay in memory as long as they are few."""
    file = _files.get(tensor.untyped_storage().data_ptr())
    if file is None:
        return
    file.seen += size
    if file.seen <= PAGES * bound() / LOOKS:
        return
    file.seen = 0
    if _resident() - _others[0] > PAGES * bound():
        release(tensor)


def release(tensor: Tensor) -> None:
    """The pages of what lies in a file leave memory until they are read again."""
    if file := _files.get(tensor.untyped_storage().data_ptr()):
        file.madvise(mmap.MADV_DONTNEED)
        file.seen, _others[0] = 0, min(_others[0], _resident())  # other files may have pages there, which are no others


def _resident() -> float:
    """Bytes of files that are in this process's memory, which the system brings in by more than is read at once."""
    try:
        return float(Path("/proc/self/statm").read_bytes().split()[2]) * mmap.PAGESIZE
    except OSError:  # not Linux, where the system alone decides what leaves
        return 0.0


class Ahead:
    """Columns that are read one after another, of what may lie in a file: asked for before, all rows side by side.

    A few columns are a page of every row, and page by page a disk gives a tenth (`benchmarks.spilled`).
    """

    def __init__(self, rows: Float[Tensor, "k p"]) -> None:
        self._rows, self._file = rows, _files.get(rows.untyped_storage().data_ptr())
        self._asked, self._step = 0, max(1, AHEAD // (len(rows) * rows.itemsize))

    def until(self, stop: int) -> None:
        """What is before this column, and some after it, is on its way."""
        while self._file is not None and self._asked < min(stop + self._step, self._rows.shape[1]):
            for row in self._rows[:, self._asked : self._asked + self._step]:
                first = row.storage_offset() * row.itemsize
                end = first + row.nbytes
                for at in range(first // mmap.PAGESIZE * mmap.PAGESIZE, end, ASKED):
                    self._file.madvise(mmap.MADV_WILLNEED, at, min(ASKED, end - at))
            self._asked += self._step


def by_columns(rows: Float[Tensor, "k p"], width: int) -> Iterator[tuple[slice, Float[Tensor, "k c"]]]:
    """So many columns at a time: where they are, and they."""
    (k, p), ahead = rows.shape, Ahead(rows)
    for start in range(0, p, width):
        part = slice(start, min(start + width, p))
        ahead.until(part.stop)
        yield part, rows[:, part]
        touched(rows, k * (part.stop - part.start) * rows.itemsize)


def over_columns(
    rows: Float[Tensor, "k p"], of: Callable[[Float[Tensor, "k c"]], Float[Tensor, " c"]]
) -> Float[Tensor, " p"]:
    """What `of` makes of each column, a tile at a time."""
    return torch.cat([of(part) for _, part in by_columns(rows, tiles(rows.device).columns)])


def kept_columns(rows: Float[Tensor, "k p"], kept: Bool[Tensor, " p"], width: int) -> Iterator[Float[Tensor, "k c"]]:
    """So many of the kept columns at a time, copied."""
    ahead = Ahead(rows)
    for index in kept.nonzero()[:, 0].split(width):
        if len(index) and rows.untyped_storage().data_ptr() in _files:
            ahead.until(int(index[-1]) + 1)
        yield rows[:, index]
        if len(index) and rows.untyped_storage().data_ptr() in _files:
            touched(rows, len(rows) * int(index[-1] - index[0] + 1) * rows.itemsize)


def packed(rows: Float[Tensor, "k p"], kept: Bool[Tensor, " p"]) -> Float[Tensor, "k q"]:
    """The kept columns, in the place of the first ones: for a copy there may be no room, and nobody reads the rest."""
    index = kept.nonzero()[:, 0]
    count = len(index)
    for row in rows:
        Ahead(row[None]).until(len(row))
        row[:count] = row[index]
        touched(rows, row.nbytes)
    return rows[:, :count]


def check_finite(rows: Float[Tensor, "k p"], what: str) -> None:
    """Raise WfbenchError if there are NaN or infinite values in what is named."""
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for part in rows.split(max(1, 2**22 // max(1, rows.shape[1]))):
        Ahead(part).until(part.shape[1])
        total += part.sum()
        touched(rows, part.nbytes)
    if not torch.isfinite(total):
        raise WfbenchError(f"{what} contain NaN or infinite values; check the weights and inputs")
