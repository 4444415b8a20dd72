"""Gram matrices in fixed tiles."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

WIDE_COLUMNS = 1024
"""Columns widened to float64 at a time in the full-matrix form. Fixed, so that Gram matrices are the same bits."""
TILE_ROWS = 128
"""Rows a tile of the Gram matrix. Fixed, so that a smaller budget's Gram is the leading part of a larger one's."""


def gram(rows: Float[Tensor, "k p"], kept: Bool[Tensor, " p"] | None = None) -> Float[Tensor, "k k"]:
    """`RRᵀ` over the kept columns, float64, in fixed tiles: `gram(rows)[:m, :m]` is `gram(rows[:m])` bit for bit."""
    k, p = rows.shape
    tiles = -(-k // TILE_ROWS)
    out = rows.new_zeros((tiles, tiles, TILE_ROWS, TILE_ROWS), dtype=torch.float64)
    padded = rows.new_zeros((tiles * TILE_ROWS, min(WIDE_COLUMNS, p)), dtype=torch.float64)
    which = torch.arange(p, device=rows.device) if kept is None else kept.nonzero()[:, 0]
    for columns in which.split(WIDE_COLUMNS):
        chunk = padded[:, : len(columns)]
        chunk[:k] = rows[:, columns]
        parts = chunk.reshape(tiles, TILE_ROWS, -1)
        for i in range(tiles):
            for j in range(i + 1):
                out[i, j] += parts[i] @ parts[j].T
    for i in range(tiles):
        for j in range(i):
            out[j, i] = out[i, j].T
    return out.transpose(1, 2).reshape(tiles * TILE_ROWS, -1)[:k, :k].clone()
