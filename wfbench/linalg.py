"""Damped curvature and systems in it, float64, with one message where there is no Cholesky factor."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wfbench.errors import WfbenchError
from wfbench.tiles import tiles

PANEL, KERNEL = 72, 24
"""Columns a product in `self_product`, and those that float64 kernels with AVX-512 take at a time: panels of whole
kernels have the bits of one product."""
LARGE = 1024
"""Rows of a system beyond which one of the removed entries is worth an inverse."""


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


class ForwardSubstitution:
    """`L⁻¹B` for many columns B: by blocks of rows, whose own triangles alone are inverted, once; all else is products.

    A library's triangular solve takes about twice as long where columns are many more than rows.
    """

    def __init__(self, lower: Float[Tensor, "*batch k k"]) -> None:
        self.lower, self.blocks = lower, list[tuple[slice, Tensor]]()
        size = tiles(lower.device).unknowns
        for start in range(0, lower.shape[-1], size):
            own = lower[..., start : start + size, start : start + size]
            eye = torch.eye(own.shape[-1], dtype=lower.dtype, device=lower.device).expand_as(own)
            inverted = torch.linalg.solve_triangular(own, eye, upper=False)
            self.blocks.append((slice(start, start + own.shape[-1]), inverted))

    def __call__(self, right: Float[Tensor, "*batch k c"]) -> Float[Tensor, "*batch k c"]:
        out = torch.empty_like(right)
        for here, inverted in self.blocks:
            rows = right[..., here, :]
            if here.start:
                rows = rows - self.lower[..., here, : here.start] @ out[..., : here.start, :]
            torch.matmul(inverted, rows, out=out[..., here, :])
        return out


def self_product(rows: Float[Tensor, "*batch m d"]) -> Float[Tensor, "*batch d d"]:
    """`XᵀX`: of many columns the lower half, a panel at a time, and the upper one from it. The bits of `X.mT @ X`."""
    d = rows.shape[-1]
    if len(parts := panels(d)) == 1:
        return rows.mT @ rows
    out = rows.new_empty(*rows.shape[:-2], d, d)
    for start, stop in parts:
        out[..., start:stop, :stop] = panel = rows[..., start:stop].mT @ rows[..., :stop]
        out[..., :start, start:stop] = panel[..., :start].mT
    return out


def panels(d: int) -> list[tuple[int, int]]:
    """Where the panels of so many columns begin and end; one where they are few, or no whole kernels."""
    if d <= PANEL or d % KERNEL:
        return [(0, d)]
    return [(start, min(start + PANEL, d)) for start in range(0, d, PANEL)]


def inverse(matrix: Float[Tensor, "*batch m m"], damping: float = 0.0) -> Float[Tensor, "*batch m m"]:
    """`(M + λI)⁻¹`; raises as `cholesky`."""
    return torch.cholesky_inverse(cholesky(matrix, damping))


def damped(moment: Float[Tensor, "g d d"], share: float) -> Float[Tensor, "g d d"]:
    """`H + αI` with α the given share of the group's mean diagonal; the identity for a group without any input."""
    mean = moment.diagonal(dim1=1, dim2=2).mean(1)
    alpha = torch.where(mean > 0, share * mean, 1.0)
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    return moment + alpha[:, None, None] * eye


def solve_kept(
    systems: Float[Tensor, "g d d"], right: Float[Tensor, "g rows d"], kept: Bool[Tensor, "g rows d"]
) -> Float[Tensor, "g rows d"]:
    """For every row the solution of `A_KK z_K = r_K` on its own kept entries K, zero elsewhere; A positive definite.

    Where more than half of many entries are kept, by systems of the others, Q: with `V = A⁻¹`, z is `Vr − V_:Q ν` whose
    ν brings its entries in Q to zero, `V_QQ ν = (Vr)_Q`.
    """
    if systems.shape[-1] > LARGE and 2 * int(kept.sum()) > kept.numel():
        inverted = inverse(systems)
        whole = right @ inverted
        return (whole - _solved(inverted, whole, ~kept) @ inverted).where(kept, 0)
    return _solved(systems, right, kept)


def _solved(
    systems: Float[Tensor, "g d d"], right: Float[Tensor, "g rows d"], kept: Bool[Tensor, "g rows d"]
) -> Float[Tensor, "g rows d"]:
    """Rows that keep about as many are solved together, each system as small as the most that one of them keeps."""
    groups, rows, d = right.shape
    flat, right, kept = systems.flatten(0, 1), right.flatten(0, 1), kept.flatten(0, 1)
    first = torch.arange(groups, device=right.device).repeat_interleave(rows) * d
    found = torch.zeros_like(right)
    columns = (~kept).to(torch.uint8).argsort(dim=1, stable=True)  # kept ones first
    for these, at, inside in alike(columns, kept.sum(1)):
        own = flat[(first[these, None] + at)[:, :, None], at[:, None]]
        own.mul_(inside[:, :, None]).mul_(inside[:, None])
        own.diagonal(dim1=1, dim2=2).add_(~inside)
        solved = torch.cholesky_solve(torch.where(inside, right[these[:, None], at], 0)[..., None], cholesky(own))
        found[these[:, None], at] = solved[..., 0]
    return found.unflatten(0, (groups, rows))


def alike(
    columns: Int[Tensor, "rows d"], counts: Int[Tensor, " rows"]
) -> Iterator[tuple[Int[Tensor, " b"], Int[Tensor, "b k"], Bool[Tensor, "b k"]]]:
    """Rows that have about as many of their first columns in a system, so many that the systems `[b k k]` fit.

    Args:
        counts: how many of each row's columns are its own; rows without any are left out.

    Yields:
        the rows, their first k columns, and which of these are the row's own.
    """
    rows = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())]
    while len(rows):
        size = int(counts[rows[0]])
        these, rows = rows.tensor_split([max(1, tiles(rows.device).numbers // size**2)])
        yield these, columns[these, :size], torch.arange(size, device=rows.device) < counts[these, None]
