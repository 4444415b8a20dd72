"""Memory that a run frees stays with the process."""

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource
from wfbench.execution import allocator
from wfbench.execution.allocator import give_back_much, give_back_once, give_freed_memory_back, keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(12):
        bytearray(b"x") * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), keep_freed_memory(), faults(), give_freed_memory_back(), faults())

def resident():
    pages = open("/proc/self/statm").read().split()[1]
    return int(pages) * resource.getpagesize() / 2**20

keep_freed_memory()
blocks = [bytearray(b"x") * 2**22 for _ in range(100)]
full = resident()
del blocks[:-1]  # the last one holds the heap's end
kept = resident()
print(full, kept, give_back_much(), resident(), give_back_once(), resident())

blocks = [bytearray(b"x") * 2**22 for _ in range(100)]
del blocks[:-1]
allocator.KEPT = 2**28
print(resident(), give_back_much(), resident())
"""

HUGE = """
import resource
import sys
import torch
from wfbench.execution.allocator import give_freed_memory_back, keep_freed_memory

keep_freed_memory()
give_freed_memory_back()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
held = torch.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
OFFERED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not OFFERED.exists() or "[never]" in OFFERED.read_text(), reason="this kernel offers no huge pages on request"
)
def test_large_tensors_lie_in_huge_pages_unless_the_user_says_otherwise() -> None:
    """128 MiB are 64 huge pages or 32768 small ones; where memory is in pieces the kernel gives some small ones."""

    def faults(**setting: str) -> int:
        inherited = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
        shown = subprocess.run(
            [sys.executable, "-c", HUGE], env=inherited | setting, capture_output=True, text=True, check=True
        )
        return int(shown.stdout)

    pages = 2**27 // mmap.PAGESIZE
    assert faults() < 0.7 * pages < pages < faults(THP_MEM_ALLOC_ENABLE="0")


def test_a_block_that_was_freed_is_taken_again_without_page_faults() -> None:
    """64 MiB, twelve times; among small blocks that are taken in between it may have to be found anew a few times."""
    shown = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    faults, *resident = shown.splitlines()
    by_default, kept, afterwards, given, again = faults.split()
    pages = 12 * 2**26 // mmap.PAGESIZE
    assert kept == given == "True"
    assert min(int(by_default), int(again)) > 0.9 * pages
    assert int(afterwards) < 0.7 * pages
    full, kept, little, still, given, left = resident[0].split()
    assert (little, given) == ("False", "True")
    assert max(float(full) - float(kept), float(full) - float(still)) < 40
    assert float(left) < float(full) - 350  # of 396 MiB between what is in use
    full, much, left = resident[1].split()
    assert much == "True"
    assert float(left) < float(full) - 350
