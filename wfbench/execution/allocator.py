"""What the C library does with freed memory: by default it goes back to the system, and taking it again costs a page
fault for every page. A network's activations, of megabytes each, come and go with every batch."""

import ctypes
import platform
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""`M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` of `mallopt`, see its manual page."""
LARGE, KEPT = 2**28, 2**30
"""Bytes: blocks of `LARGE` and more still go back as soon as they are freed, and the heap's end once it is `KEPT`."""
SMALL = 2**20


def keep_freed_memory() -> bool:
    """Have this process take freed blocks below 256 MiB again instead of asking the system for new ones.

    It holds until the process ends. Returns whether that could be had: under glibc alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all([library.mallopt(MMAP_THRESHOLD, LARGE), library.mallopt(TRIM_THRESHOLD, KEPT)])


@cache
def give_back_freed_memory() -> bool:
    """Have blocks of 1 MiB and more go back as soon as they are freed, and at once what was kept: memory is bounded.

    It holds until the process ends. Returns whether that could be had: under glibc alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all([library.mallopt(MMAP_THRESHOLD, SMALL), library.malloc_trim(0) >= 0])
