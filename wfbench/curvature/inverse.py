"""The inverse of `F + λI`, F = RᵀR, through the Woodbury identity; never a p×p matrix where k rows are fewer.

Dual form (k ≤ width): `A⁻¹ = (I − VᵀV)/λ` with `S = λI + RRᵀ = LLᵀ`, `V = L⁻¹R`. Primal form (k > width): the block
itself by Cholesky. Everything is float64; rows may be stored in float32 and are widened a chunk of columns at a time.
After Singh & Alistarh 2020, without their rank-one recursion.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.linalg import solve_triangular

from wfbench.curvature.gram import gram
from wfbench.curvature.memory import Ahead, by_columns, check_finite, touched
from wfbench.errors import WfbenchError
from wfbench.linalg import ForwardSubstitution, cholesky
from wfbench.tiles import HOST, Tiles, tiles

WIDE_NUMBERS = 2**24
"""float64 numbers of a block beyond which its columns are widened chunk by chunk, as those of the full matrix are."""


class WoodburyInverse:
    """`A⁻¹` for `A = RᵀR + λI`, or for its block-diagonal part.

    With `kept`, the columns of R outside it are taken as zero: A⁻¹ on the kept coordinates is then the inverse of
    `A_KK`, the curvature left after the other weights were removed, and λ⁻¹ on the diagonal elsewhere.

    Args:
        rows: curvature rows R, scaled so that the curvature is RᵀR [nats/weight²].
        damping: λ > 0 [nats/weight²].
        block_size: None (full matrix), a width, or widths that sum to p.
        kept: True where a coordinate is still there.
        gram: `gram(rows, kept)` where it is already known; used by the full-matrix dual form alone.

    Raises:
        WfbenchError: λ not positive and finite, NaN or infinite rows, blocks that do not fit, or `A` not positive
            definite in float64 (λ below about 1e-16 times the largest eigenvalue of RᵀR).
    """

    def __init__(
        self,
        rows: Float[Tensor, "k p"],
        damping: float,
        block_size: int | Sequence[int] | None = None,
        *,
        kept: Bool[Tensor, " p"] | None = None,
        gram: Float[Tensor, "k k"] | None = None,
    ) -> None:
        if not 0 < damping < float("inf"):
            raise WfbenchError(f"damping {damping} must be positive and finite")
        check_finite(rows, "the curvature rows")
        self.rows, self.damping, self.kept = rows, float(damping), kept
        self._widths = block_widths(rows.shape[1], block_size)
        self._streamed = None
        if len(self._widths) == 1 and rows.shape[0] <= rows.shape[1]:
            self._streamed = _Streamed(rows, self.damping, kept, gram)

    def diagonal(self) -> Float[Tensor, " p"]:
        """`diag(A⁻¹)`, float64 [weight²/nats]."""
        out = self._empty()
        for columns, part in self._parts():
            out[columns] = part.diagonal()
        return out

    def solve(self, v: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """`A⁻¹v`, float64. Accurate also where v lies in the row space of R and λ is tiny."""
        out = self._empty()
        for columns, part in self._parts():
            out[columns] = part.solve(v[columns].double())
        return out

    def compensate(self, w: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        """`A_KK⁻¹ A_KQ w_Q` on the kept coordinates and 0 on the removed ones, float64.

        The change of the kept weights that is optimal when `w_Q` goes to zero (`w` is read on Q alone).
        """
        if self.kept is None:
            return torch.zeros_like(w, dtype=torch.float64)
        removed, moved = torch.where(self.kept, 0, w.double()), self._empty()
        for columns, part in self._parts():
            moved[columns] = part.compensate(removed[columns])
        return torch.where(self.kept, moved, 0)

    def compensate_and_rescore(self, w: Float[Tensor, " p"]) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
        """`(compensate(w), diagonal())` from one factorisation: what a stage of removal needs."""
        kept = torch.ones_like(w, dtype=torch.bool) if self.kept is None else self.kept
        removed = torch.where(kept, 0, w.double())
        moved, diagonal = self._empty(), self._empty()
        for columns, part in self._parts():
            moved[columns], diagonal[columns] = part.compensate(removed[columns]), part.diagonal()
        return torch.where(kept, moved, 0), diagonal

    def _empty(self) -> Float[Tensor, " p"]:
        # filled piece by piece: a list of small results between large chunks would fragment the heap
        return self.rows.new_empty(self.rows.shape[1], dtype=torch.float64)

    def _parts(self) -> Iterator[tuple[slice, "_Streamed | _Blocks"]]:
        if self._streamed is not None:
            yield slice(None), self._streamed
            return
        k, start, ahead = self.rows.shape[0], 0, Ahead(self.rows)
        for width, run in groupby(self._widths):
            blocks = len(list(run))
            batch = blocks_at_a_time(k, width, tiles(self.rows.device))
            for first in range(0, blocks, batch):
                stop = start + min(batch, blocks - first) * width
                ahead.until(stop)
                yield slice(start, stop), self._part(slice(start, stop), width)
                touched(self.rows, k * (stop - start) * self.rows.itemsize)
                start = stop

    def _part(self, where: slice, width: int) -> "_Streamed | _Blocks":
        if self.rows.shape[0] <= width and self.rows.shape[0] * width > WIDE_NUMBERS:
            kept = None if self.kept is None else self.kept[where]
            return _Streamed(self.rows[:, where], self.damping, kept, None)
        return _Blocks.of(self.rows, where, width, self.damping, self.kept)


class _Streamed:
    """The full matrix in dual form: only k×k numbers are kept, columns are widened chunk by chunk."""

    def __init__(
        self,
        rows: Float[Tensor, "k p"],
        damping: float,
        kept: Bool[Tensor, " p"] | None,
        known: Float[Tensor, "k k"] | None,
    ) -> None:
        self.rows, self.damping, self.kept = rows, damping, kept
        self.lower = cholesky(gram(rows, kept) if known is None else known, damping)

    def _chunks(self, *, masked: bool = True) -> Iterator[tuple[slice, Float[Tensor, "k c"]]]:
        kept = self.kept if masked else None
        for where, part in by_columns(self.rows, tiles(self.rows.device).columns):
            yield where, part.double() if kept is None else part.double() * kept[where]

    def _times(self, v: Float[Tensor, " p"], *, masked: bool = True) -> Float[Tensor, " k"]:
        out = v.new_zeros(self.rows.shape[0])
        for columns, chunk in self._chunks(masked=masked):
            out += chunk @ v[columns]
        return out

    def _transposed(self, u: Float[Tensor, " k"]) -> Float[Tensor, " p"]:
        out = u.new_empty(self.rows.shape[1])
        for columns, chunk in self._chunks():
            out[columns] = u @ chunk
        return out

    def _small(self, u: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        return torch.cholesky_solve(u[:, None], self.lower)[:, 0]

    def diagonal(self) -> Float[Tensor, " p"]:
        out = self.rows.new_empty(self.rows.shape[1], dtype=torch.float64)
        forward = ForwardSubstitution(self.lower)
        for columns, chunk in self._chunks():
            out[columns] = _dual_diagonal(forward, chunk, self.damping)
        return out

    def solve(self, v: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        first = self._small(self._times(v))
        rest = v - self._transposed(first)
        rest = _signal(rest - self._transposed(self._small(self._times(rest))), v, len(self.lower))
        return self._transposed(self._small(first)) + rest / self.damping

    def compensate(self, removed: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
        return self._transposed(self._small(self._times(removed, masked=False)))


@dataclass(frozen=True)
class _Blocks:
    """A batch of diagonal blocks of one width, dual or primal by `min(k, width)`.

    The dual form holds only the columns `index` that are kept (a batch is as wide as its fullest block).
    """

    rows: Float[Tensor, "blocks k m"]
    index: Int[Tensor, "blocks m"] | None
    whole: Float[Tensor, "blocks k width"]
    damping: float
    lower: Float[Tensor, "blocks s s"]

    @classmethod
    def of(
        cls,
        rows: Float[Tensor, "k p"],
        columns: slice,
        width: int,
        damping: float,
        kept: Bool[Tensor, " p"] | None,
    ) -> "_Blocks":
        whole = rows[:, columns].double().unflatten(1, (-1, width)).transpose(0, 1)
        dual, index, wide = rows.shape[0] <= width, None, whole
        if kept is not None:
            mask = kept[columns].reshape(-1, width)
            if dual:
                index = (~mask).byte().argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
                wide = whole.gather(2, index[:, None].expand(-1, rows.shape[0], -1))
                mask = mask.gather(1, index)
            wide = wide * mask[:, None] if index is None else wide.mul_(mask[:, None])
        small = wide @ wide.mT if dual else wide.mT @ wide
        return cls(wide, index, whole, damping, cholesky(small, damping))

    @property
    def _dual(self) -> bool:
        return self.whole.shape[1] <= self.whole.shape[2]

    def _small(self, u: Float[Tensor, "blocks s"]) -> Float[Tensor, "blocks s"]:
        return torch.cholesky_solve(u[..., None], self.lower)[..., 0]

    def _times(self, v: Float[Tensor, "blocks width"]) -> Float[Tensor, "blocks k"]:
        v = v if self.index is None else v.gather(1, self.index)
        return (self.rows @ v[..., None])[..., 0]

    def _transposed(self, u: Float[Tensor, "blocks k"]) -> Float[Tensor, "blocks width"]:
        return self._spread((u[:, None, :] @ self.rows)[:, 0], 0.0)

    def _spread(self, v: Float[Tensor, "blocks m"], elsewhere: float) -> Float[Tensor, "blocks width"]:
        if self.index is None:
            return v
        out = torch.full_like(self.whole[:, 0], elsewhere)
        return out.scatter_(1, self.index, v)

    def diagonal(self) -> Float[Tensor, " columns"]:
        if self._dual:
            found = _dual_diagonal(ForwardSubstitution(self.lower), self.rows, self.damping)
            return self._spread(found, 1 / self.damping).flatten()
        eye = torch.eye(self.lower.shape[-1], dtype=torch.float64, device=self.lower.device)
        return solve_triangular(self.lower, eye.expand_as(self.lower), upper=False).square().sum(-2).flatten()

    def solve(self, v: Float[Tensor, " columns"]) -> Float[Tensor, " columns"]:
        v = v.reshape(len(self.whole), -1)
        if self._dual:
            first = self._small(self._times(v))
            rest = v - self._transposed(first)
            rest = _signal(rest - self._transposed(self._small(self._times(rest))), v, self.whole.shape[1])
            out = self._transposed(self._small(first)) + rest / self.damping
        else:
            out = self._small(v)
            out = out + self._small(v - self._transposed(self._times(out)) - self.damping * out)
        return out.flatten()

    def compensate(self, removed: Float[Tensor, " columns"]) -> Float[Tensor, " columns"]:
        u = (self.whole @ removed.reshape(len(self.whole), -1, 1))[..., 0]
        out = self._transposed(self._small(u)) if self._dual else self._small(self._transposed(u))
        return out.flatten()


def block_widths(p: int, block_size: int | Sequence[int] | None) -> list[int]:
    """The widths of the diagonal blocks: one of p, equal ones with a narrower last, or the given ones."""
    if block_size is None:
        return [p]
    if isinstance(block_size, int):
        if block_size < 1:
            raise WfbenchError(f"block_size {block_size} is not a width; give at least 1, or None for the full matrix")
        whole, rest = divmod(p, block_size)
        return [block_size] * whole + [rest] * (rest > 0)
    widths = list(block_size)
    if min(widths, default=0) < 1 or sum(widths) != p:
        raise WfbenchError(f"block widths {widths} must be at least 1 each and sum to the {p} columns of the rows")
    return widths


def blocks_at_a_time(k: int, width: int, size: Tiles = HOST) -> int:
    """Blocks of one batch."""
    return max(1, size.numbers // (k * width + min(k, width) ** 2))


def _signal(rest: Float[Tensor, "*b c"], v: Float[Tensor, "*b c"], k: int) -> Float[Tensor, "*b c"]:
    """What is left of v outside the row space, or 0 where that is only the rounding of k terms (λ⁻¹ amplifies it)."""
    noise = k * torch.finfo(torch.float64).eps * v.norm(dim=-1, keepdim=True)
    return torch.where(rest.norm(dim=-1, keepdim=True) > noise, rest, 0)


def _dual_diagonal(
    forward: ForwardSubstitution, rows: Float[Tensor, "*batch k c"], damping: float
) -> Float[Tensor, "*batch c"]:
    return (1 - forward(rows).square_().sum(-2)) / damping
