"""How much is computed at a time, by the kind of device: what a processor's cache holds, or what a GPU is filled by.

Sizes hang on the kind of device alone, never on how many rows or samples there are: what is computed of a smaller
budget is then the same bits as within a larger one.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tiles:
    """Sizes for one kind of device.

    Args:
        columns: of curvature rows widened to float64 at a time.
        coordinates: the same where rows are stored by coordinate.
        rows: where the tiles of a Gram matrix end at first, few rows not being filled up to many; then every `height`.
        height: rows a tile beyond those, and columns a product.
        numbers: float64 numbers in one batch of matrices.
        unknowns: of a triangular system, solved for at a time.
    """

    columns: int
    coordinates: int
    rows: tuple[int, ...]
    height: int
    numbers: int
    unknowns: int


HOST = Tiles(columns=2**10, coordinates=2**14, rows=(16, 32, 64), height=128, numbers=2**21, unknowns=64)
ACCELERATOR = Tiles(columns=2**15, coordinates=2**18, rows=(64, 256), height=1024, numbers=2**26, unknowns=256)
KINDS = {"cpu": HOST}


def tiles(device: torch.device) -> Tiles:
    """The sizes for a kind of device."""
    return KINDS.get(device.type, ACCELERATOR)
