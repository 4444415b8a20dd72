"""Gram matrices in fixed tiles."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wfbench.curvature.memory import by_columns, kept_columns
from wfbench.tiles import HOST, Tiles, tiles


def gram(rows: Float[Tensor, "k p"], kept: Bool[Tensor, " p"] | None = None) -> Float[Tensor, "k k"]:
    """`RRᵀ` over the kept columns, float64, in fixed tiles: `gram(rows)[:m, :m]` is `gram(rows[:m])` bit for bit.

    The tile of an entry hangs on its place alone, never on the number of rows.
    """
    k, p = rows.shape
    size = tiles(rows.device)
    edges = row_edges(k, size)
    out = rows.new_zeros((edges[-1], edges[-1]), dtype=torch.float64)
    padded = rows.new_zeros((edges[-1], min(size.columns, p)), dtype=torch.float64)
    tiles_of = [
        (slice(start, stop), slice(left, min(left + size.height, stop)))
        for start, stop in pairwise(edges)
        for left in range(0, stop, size.height)
    ]
    products = list[tuple[Tensor, Tensor, Tensor]]()
    every = (part for _, part in by_columns(rows, size.columns))
    for part in every if kept is None else kept_columns(rows, kept, size.columns):
        chunk = padded[:, : part.shape[1]]
        if not products or products[0][1].shape[1] != chunk.shape[1]:
            products = [(out[tile, panel], chunk[tile], chunk[panel].T) for tile, panel in tiles_of]
        chunk[:k] = part
        for total, left, right in products:
            total += left @ right
    lower = out[:k, :k].tril()
    return lower + lower.tril(-1).T


def row_edges(k: int, size: Tiles = HOST) -> Sequence[int]:
    """Where the tiles of k rows or a few more begin and end."""
    edges = [0, *size.rows, *range(size.height, k + size.height, size.height)]
    return edges[: bisect_left(edges, k) + 1]
