"""Gram matrices in fixed tiles."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wfbench.curvature.memory import by_columns, kept_columns

WIDE_COLUMNS = 1024
"""Columns widened to float64 at a time in the full-matrix form. Fixed, so that Gram matrices are the same bits."""
TILE_ROWS = 128
"""Rows a tile of the Gram matrix, but for the first ones, of 16, 16, 32 and 64: few rows are not filled up to many."""


def gram(rows: Float[Tensor, "k p"], kept: Bool[Tensor, " p"] | None = None) -> Float[Tensor, "k k"]:
    """`RRᵀ` over the kept columns, float64, in fixed tiles: `gram(rows)[:m, :m]` is `gram(rows[:m])` bit for bit.

    The tile of an entry hangs on its place alone, never on the number of rows.
    """
    k, p = rows.shape
    edges = row_edges(k)
    out = rows.new_zeros((edges[-1], edges[-1]), dtype=torch.float64)
    padded = rows.new_zeros((edges[-1], min(WIDE_COLUMNS, p)), dtype=torch.float64)
    products = [
        (slice(start, stop), slice(left, min(left + TILE_ROWS, stop)))
        for start, stop in pairwise(edges)
        for left in range(0, stop, TILE_ROWS)
    ]
    every = (part for _, part in by_columns(rows, WIDE_COLUMNS))
    for part in every if kept is None else kept_columns(rows, kept, WIDE_COLUMNS):
        chunk = padded[:, : part.shape[1]]
        chunk[:k] = part
        for tile, panel in products:
            out[tile, panel] += chunk[tile] @ chunk[panel].T
    lower = out[:k, :k].tril()
    return lower + lower.tril(-1).T


def row_edges(k: int) -> Sequence[int]:
    """Where the tiles of k rows or a few more begin and end."""
    edges = [0, 16, 32, 64, *range(TILE_ROWS, k + TILE_ROWS, TILE_ROWS)]
    return edges[: bisect_left(edges, k) + 1]
