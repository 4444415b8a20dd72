"""Rows that lie in a file and have left memory, read by columns: `python -m benchmarks.spilled`.

As the library reads them, which asks for what comes next, against the same reads without that, page by page, and
beside the file from its beginning to its end. Linux alone.
"""

import argparse
import mmap
import time
from collections.abc import Callable

import torch
from tabulate import tabulate

from wfbench.curvature import memory
from wfbench.tiles import HOST

PAGEOUT = 21
"""Linux's `MADV_PAGEOUT`: what is clean leaves memory, and what is not after it is written."""


def speed(rows: torch.Tensor, size: int, read: Callable[[], torch.Tensor]) -> list[str]:
    """MB a second of wall time, and seconds of the processor a GB."""
    file = memory._files[rows.untyped_storage().data_ptr()]
    rows.sum()  # what is mapped can be sent away
    file.flush()
    file.madvise(PAGEOUT)
    began = time.perf_counter(), time.process_time()
    read()
    seconds, processor = time.perf_counter() - began[0], time.process_time() - began[1]
    return [f"{size / 1e6 / seconds:.0f}", f"{processor / size * 1e9:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128, metavar="K")
    parser.add_argument("--columns", type=int, default=4_000_000, metavar="P")
    parser.add_argument("--share", type=float, default=0.05, metavar="S", help="of the columns that go page by page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with memory.within(memory.SMALL):
        rows = memory.room((options.rows, options.columns), torch.float32)
        for row in rows:
            row.fill_(1)
    few, width = rows[:, : int(options.share * options.columns)], HOST.columns

    def by_page() -> torch.Tensor:
        return sum((part.double().sum() for part in few.split(width, 1)), torch.zeros(()))

    def asked() -> torch.Tensor:
        return memory.over_columns(rows, lambda part: part.double().sum(0))

    def whole() -> torch.Tensor:
        file = memory._files[rows.untyped_storage().data_ptr()]
        file.madvise(mmap.MADV_SEQUENTIAL)
        found = sum((row.double().sum() for row in rows), torch.zeros(()))
        file.madvise(mmap.MADV_RANDOM)
        return found

    found = [
        ["page by page", *speed(rows, few.nbytes, by_page)],
        ["asked for before", *speed(rows, rows.nbytes, asked)],
        ["from beginning to end", *speed(rows, rows.nbytes, whole)],
    ]
    print(tabulate(found, headers=["columns of rows in a file", "MB/s", "processor s/GB"], disable_numparse=True))


if __name__ == "__main__":
    main()
