"""The textbook: the inverse empirical Fisher by one rank-one update a row (Singh & Alistarh 2020), or without a matrix
(Frantar, Kurtic & Alistarh 2021, M-FAC).
"""

import torch
from torch import Tensor


def recursion(rows: Tensor, damping: float) -> Tensor:
    """`(RᵀR + λI)⁻¹ [b, b]` by k Sherman-Morrison updates, in the dtype of `rows [k, b]`."""
    inverse = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device) / damping
    for row in rows:
        pulled = inverse @ row
        inverse.addr_(pulled, pulled, alpha=-1 / float(1 + row @ pulled))
    return inverse


def batched_recursion(rows: Tensor, damping: float, width: int) -> Tensor:
    """The same for all diagonal blocks of one width at once: `[p / width, width, width]`."""
    k, p = rows.shape
    inverse = torch.eye(width, dtype=rows.dtype, device=rows.device).repeat(p // width, 1, 1) / damping
    for row in rows.reshape(k, p // width, width):
        pulled = (inverse @ row[..., None])[..., 0]
        scale = 1 + (row * pulled).sum(1)
        inverse.baddbmm_(pulled[..., None], (pulled / scale[:, None])[:, None, :], alpha=-1)
    return inverse


def matrix_free_diagonal(rows: Tensor, damping: float) -> Tensor:
    """The diagonal of `(RᵀR + λI)⁻¹` of the full matrix, M-FAC's static algorithm in the dtype of `rows [k, p]`.

    Row i of V is `A_{i−1}⁻¹gᵢ` by the updates before it, and `A⁻¹ = I/λ − Σ vᵢvᵢᵀ/(1 + gᵢᵀvᵢ)`.
    """
    pulled, scales = torch.empty_like(rows), rows.new_empty(len(rows))
    diagonal = torch.full_like(rows[0], 1 / damping)
    for i, row in enumerate(rows):
        before = pulled[:i]
        pulled[i] = row / damping - ((before @ row) / scales[:i]) @ before
        scales[i] = 1 + row @ pulled[i]
        diagonal -= pulled[i].square() / scales[i]
    return diagonal
