"""Memory that a run frees stays with the process."""

import mmap
import subprocess
import sys

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
