"""Cholesky factors of damped curvature, float64, with one message where there is none."""

import torch
from jaxtyping import Float
from torch import Tensor

from wfbench.errors import WfbenchError


def cholesky(matrix: Float[Tensor, "*batch m m"], damping: float = 0.0) -> Float[Tensor, "*batch m m"]:
    """Lower factor L of `M + λI = LLᵀ`.

    Raises:
        WfbenchError: a matrix that is not positive definite in float64.
    """
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    lower, info = torch.linalg.cholesky_ex(matrix + damping * eye if damping else matrix)
    if info.any():
        largest = float(matrix.diagonal(dim1=-2, dim2=-1).max())
        by = f"damping {damping:g}" if damping else "its damping"
        raise WfbenchError(
            f"a curvature matrix with diagonal entries up to {largest:g} is not positive definite in float64: {by} is "
            "too small for it, or it holds NaN; raise the damping"
        )
    return lower


def inverse(matrix: Float[Tensor, "*batch m m"], damping: float = 0.0) -> Float[Tensor, "*batch m m"]:
    """`(M + λI)⁻¹`; raises as `cholesky`."""
    return torch.cholesky_inverse(cholesky(matrix, damping))
