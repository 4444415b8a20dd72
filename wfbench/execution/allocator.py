"""What the C library does with freed memory: by default it goes back to the system, and taking it again costs a page
fault for every page. A network's activations, of megabytes each, come and go with every batch."""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""`M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` of `mallopt`, see its manual page."""
LARGE = 2**30
"""Bytes; blocks from this size on still go back as soon as they are freed, so rows of many samples hold no memory."""


def keep_freed_memory() -> bool:
    """Have this process take freed blocks below 1 GiB again instead of asking the system for new ones.

    It holds until the process ends. Returns whether that could be had: under glibc alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, LARGE) for option in (MMAP_THRESHOLD, TRIM_THRESHOLD))
