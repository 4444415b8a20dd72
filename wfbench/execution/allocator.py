"""What glibc does with freed memory: by itself it gives large blocks back, and taking them again costs page faults.

A network's activations, of megabytes each, come and go with every batch; what is near a bound of memory may not stay.
"""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""`M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` of `mallopt`, see its manual page."""
LARGE, KEPT = 2**28, 2**30
"""Bytes: blocks of `LARGE` and more go back as soon as they are freed even so, the heap's end once it is `KEPT`."""
SMALL = 2**20
"""Bytes of blocks that go back where memory is short."""


def keep_freed_memory() -> bool:
    """From now on this process takes freed blocks below 256 MiB again instead of asking the system for new ones.

    Returns whether that could be had: under glibc alone.
    """
    return thresholds(LARGE, KEPT)


def give_freed_memory_back() -> bool:
    """From now on blocks of 1 MiB and more go back to the system when they are freed, and now what can."""
    return thresholds(SMALL, SMALL) and give_back_once()


def give_back_once() -> bool:
    """Now give back all that is free, also between what is in use; what is freed later stays or goes as before."""
    if platform.libc_ver()[0] != "glibc":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


class _Heap(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (*(f"before{i}" for i in range(8)), "free", "end"))


def give_back_much() -> bool:
    """The same where what is free is more than `KEPT`, so that it is not asked for page by page after every case."""
    if platform.libc_ver()[0] != "glibc" or not hasattr(library := ctypes.CDLL(None), "mallinfo2"):
        return False
    library.mallinfo2.restype = _Heap
    return library.mallinfo2().free > KEPT and give_back_once()


def thresholds(large: int, kept: int) -> bool:
    """Have blocks from `large` bytes on go back when they are freed, and the heap's end from `kept` on."""
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all([library.mallopt(MMAP_THRESHOLD, large), library.mallopt(TRIM_THRESHOLD, kept)])
