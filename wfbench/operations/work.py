"""What the steps of a method cost, counted from shapes: the only place with these formulas.

FLOPs are those of products, factorisations and triangular systems, a multiply-add being two. Bytes are what operations
read and write, each tensor once an operation, as if nothing stayed in a cache. Launches are operations. Chunks and
tiles are those of `wfbench.curvature`, of the sizes of a kind of device.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby, pairwise
from math import ceil
from typing import TypeAlias

from wfbench.curvature.gram import row_edges
from wfbench.curvature.inverse import WIDE_NUMBERS, blocks_at_a_time
from wfbench.curvature.memory import PASS
from wfbench.curvature.per_sample import CHECKED
from wfbench.operations.shapes import Shapes
from wfbench.tiles import HOST, Tiles

Number: TypeAlias = float | int

COMPARED = 156
"""Bytes a weight of the check of the rows: copies of the weights, leaves, their gradients, the distance of the two."""
RANKED = 178
"""Bytes a weight from a diagonal to a mask: saliencies and their price, NaN sought, the threshold, ties."""
SUMMED = 82
"""Bytes a weight of the independent update, without its solution."""
MOVED = 92
"""Bytes a weight of a joint one: what is removed, what moves, and the weights after it."""
RETURNED = 92
"""Bytes a weight of a result: the change, the state, and the check of what is outside the mask."""
LEVERAGE = 60
"""Bytes a weight from a diagonal to the mean leverage, with the dense weights that removal starts from."""


@dataclass(frozen=True)
class Work:
    """Args:
    flops32, flops64: in the network's type, taken for float32, and in float64.
    moved: bytes read and written.
    launches: operations.
    """

    flops32: Number = 0.0
    flops64: Number = 0.0
    moved: Number = 0.0
    launches: Number = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(Work)))

    def __mul__(self, times: Number) -> "Work":
        return Work(*(times * getattr(self, one.name) for one in fields(Work)))


def total(parts: Sequence[Work]) -> Work:
    return sum(parts, Work())


def forward(shapes: Shapes, n: int, size: int = 4) -> Work:
    """One pass of n samples in numbers of so many bytes."""
    flops = 2.0 * n * shapes.macs
    moved = size * (n * shapes.activations + shapes.weights)
    return Work(*_typed(flops, size), moved, len(shapes.parts))


def backward(shapes: Shapes, n: int, size: int = 4) -> Work:
    """The gradients of what every layer reads, for one cotangent a sample."""
    parts = [part for part in shapes.parts if not part.first]
    flops = 2.0 * n * sum(part.macs for part in parts)
    moved = size * sum(n * (part.written + (1 if part.linear else 2) * part.read) + part.weight for part in parts)
    return Work(*_typed(flops, size), moved, len(parts))


def per_sample(shapes: Shapes, n: int, size: int = 4) -> Work:
    """Every layer's weight gradient for every sample, one cotangent each, written into the rows."""
    parts = [part for part in shapes.parts if part.prunable]
    flops = 2.0 * n * sum(part.macs for part in parts)
    copies = sum(part.weight * (3 if part.linear else 4) for part in parts)
    moved = size * n * (copies + sum(part.read + part.written for part in parts))
    return Work(*_typed(flops, size), moved, 3 * len(parts))


def checked(shapes: Shapes) -> Work:
    """Hooks against autograd on three samples, float64, and one sample alone, before the first rows."""
    rows = per_sample(shapes, CHECKED, 8)
    again = Work(0, rows.flops64, 8 * sum(part.weight for part in shapes.parts), rows.launches)
    passes = [forward(shapes, CHECKED, 8) * 2, forward(shapes, 1, 8), backward(shapes, CHECKED, 8) * 2]
    of_rows = Work(0, 2 * CHECKED * shapes.p, (16 * CHECKED + COMPARED) * shapes.p, 10 * len(shapes.parts))
    return total([*passes, rows, again, of_rows])


def in_files(shapes: Shapes, limit: Number) -> float:
    """Bytes, of what a pass keeps for its way back, that are beyond their share of a bound."""
    return max(0.0, 4.0 * shapes.tile * shapes.kept - PASS * limit)


def passes(shapes: Shapes, n: int, cotangents: int, limit: Number) -> dict[str, Work]:
    """What the rows of n samples take within a bound of memory: whole tiles, the last one filled up."""
    tiles = ceil(n / shapes.tile)
    files = Work(0, 0, in_files(shapes, limit) * tiles * (2 + 2 * cotangents))
    unwritten = Work(0, 0, -8.0 * (tiles * shapes.tile - n) * cotangents * shapes.p)
    return {
        "check of the rows": checked(shapes),
        "forward": forward(shapes, shapes.tile) * tiles,
        **({"files": files} if files.moved else {}),
        "backward": backward(shapes, shapes.tile) * (tiles * cotangents),
        "rows": per_sample(shapes, shapes.tile) * (tiles * cotangents) + unwritten + finite(n * cotangents, shapes.p),
    }


def finite(k: int, p: int) -> Work:
    """One look at every row."""
    return Work(0, 0, 4.0 * k * p, max(1, k * p / 2**22))


def gram(k: int, p: Number, sizes: Tiles = HOST) -> Work:
    """`RRᵀ` over p columns, in its tiles."""
    edges, chunks = row_edges(k, sizes), ceil(p / sizes.columns)
    tiles = [
        (stop - start, min(left + sizes.height, stop) - left)
        for start, stop in pairwise(edges)
        for left in range(0, stop, sizes.height)
    ]
    entries, sides = sum(a * b for a, b in tiles), sum(a + b for a, b in tiles)
    made = 8.0 * edges[-1] * (edges[-1] + min(p, sizes.columns))
    moved = made + 12.0 * k * p + 8.0 * sides * p + chunks * 32.0 * entries
    return Work(0, 2.0 * entries * p, moved, chunks * (1 + 2 * len(tiles)))


def cholesky(k: int) -> Work:
    return Work(0, k**3 / 3, 64.0 * k**2, 4)


def eigenvalues(k: int) -> Work:
    return Work(0, 4 / 3 * k**3, 16.0 * k**2, 1)


def triangles(k: int, sizes: Tiles) -> Work:
    """What `ForwardSubstitution` inverts, once a factor."""
    sides = [stop - start for start, stop in _blocks_of_rows(k, sizes)]
    return Work(0, sum(side**3 for side in sides), sum(32.0 * side**2 for side in sides), 2 * len(sides))


def triangular(k: int, columns: Number, sizes: Tiles = HOST) -> Work:
    """`V = L⁻¹R`, its squares, and their sums: a chunk's part of the diagonal of the inverse."""
    blocks = _blocks_of_rows(k, sizes)
    entries = sum((stop - start) * stop for start, stop in blocks)  # of L that are multiplied with columns
    numbers = entries + columns * (sum(start for start, _ in blocks) + 4 * (k - min(k, sizes.unknowns)) + 2 * k + 3 * k)
    return Work(0, 2.0 * columns * entries, 8.0 * numbers + 48.0 * columns, 3 * len(blocks) + 2)


def _blocks_of_rows(k: int, sizes: Tiles) -> list[tuple[int, int]]:
    return [(start, min(start + sizes.unknowns, k)) for start in range(0, k, sizes.unknowns)]


def product(k: int, p: Number, sizes: Tiles = HOST, *, masked: bool = False) -> Work:
    """`Rv` or `Rᵀu`, the rows widened chunk by chunk."""
    return Work(0, 2.0 * k * p, (20.0 + 16.0 * masked) * k * p + 24.0 * p, 4 * ceil(p / sizes.columns))


def diagonal(k: int, p: int, sizes: Tiles = HOST, *, masked: bool = False) -> Work:
    """Of the inverse of the full matrix, from its factor."""
    chunks, columns = ceil(p / sizes.columns), min(p, sizes.columns)
    each = triangular(k, columns, sizes) * (p / columns)
    return triangles(k, sizes) + each + Work(0, 0, (12.0 + 16.0 * masked) * k * p, (1 + masked) * chunks)


def removed_gram(k: int, q: Number, p: int, sizes: Tiles = HOST) -> Work:
    """`R_Q R_Qᵀ` over q of p columns, which are sought and copied."""
    return gram(k, q, sizes) + Work(0, 0, 8.0 * k * q + 16.0 * q + p, 1 + ceil(q / sizes.columns))


def solve(k: int, p: int, sizes: Tiles = HOST) -> Work:
    return product(k, p, sizes) * 5 + Work(0, 6.0 * k**2, 24.0 * k**2 + 104.0 * p, 12)


class Inverse:
    """What an inverse of k rows with blocks of these widths asks for; one width is the full matrix.

    Args:
        kept: the share of the columns that is there; below 1 the others are taken out of the rows.
    """

    def __init__(self, k: int, widths: Sequence[int], kept: Number = 1.0, sizes: Tiles = HOST) -> None:
        self.k, self.kept, self.p, self.sizes = k, kept, sum(widths), sizes
        self.full = len(widths) == 1 and k <= self.p
        self.runs = Counter((width, len(list(run))) for width, run in groupby(widths))

    def factor(self, known: bool = False) -> Work:
        """Of the full matrix, once; blocks have theirs within each use.

        Args:
            known: its Gram matrix is there.
        """
        found = finite(self.k, self.p)
        if self.full:
            found += cholesky(self.k) + (Work() if known else gram(self.k, self.p * self.kept, self.sizes))
        return found

    def rescored(self, *, diagonals: bool = True, solves: bool = False, moves: bool = False) -> Work:
        """Its diagonal, a solution, or what kept weights make up for removed ones, with one factor of blocks."""
        if self.full:
            masked, of = self.kept < 1, (self.k, self.p, self.sizes)
            found = Work()
            found += diagonal(*of, masked=masked) if diagonals else Work()
            found += solve(*of) if solves else Work()
            found += Work(0, 0, 16.0 * self.p * (diagonals + solves + moves))  # each goes where the caller wants it
            return found + (product(*of) + product(*of, masked=masked)) * moves
        return total([self._blocks(*of, diagonals, solves, moves) * times for of, times in self.runs.items()])

    def _blocks(self, width: int, count: int, diagonals: bool, solves: bool, moves: bool) -> Work:
        k, dual, masked = self.k, self.k <= width, self.kept < 1
        if dual and k * width > WIDE_NUMBERS:
            alone = Inverse(k, [width], self.kept, self.sizes)
            return (alone.factor() + alone.rescored(diagonals=diagonals, solves=solves, moves=moves)) * count
        m = width * (self.kept if dual else 1.0)
        side = k if dual else width
        numbers = 2.0 * k * m + side**2  # of a product of the rows with themselves
        moved = 12.0 * k * width + 8 * numbers + masked * (16.0 * k * m * (1 + dual) + 32.0 * width * dual)
        spread = (24.0 * width + 16.0 * m) * masked * dual  # to where the kept columns were
        work = Work(0, 2.0 * side * k * m + side**3 / 3, moved + 48.0 * side**2)
        if diagonals:
            each = Work(0, width**3, 40.0 * width**2)
            if dual:
                each = triangles(k, self.sizes) + triangular(k, m, self.sizes)
            work += each + Work(0, 0, 16.0 * width + spread)
        if solves:
            products = 5 if dual else 2
            vectors = 8.0 * products + 136  # what they read or write, and what is left over of the right side
            work += Work(0, 2.0 * products * k * m + 4.0 * side**2, 8.0 * products * k * m + vectors * width)
        if moves:
            work += Work(0, 2.0 * k * (width + m) + 2.0 * side**2, 8.0 * k * (width + m) + 32.0 * width + spread)
        substituted = 5 * len(_blocks_of_rows(k, self.sizes)) if dual else 2
        launches = 10 + 8 * masked + (6 + substituted) * diagonals + 12 * solves + 4 * moves
        batches = ceil(count / blocks_at_a_time(k, width, self.sizes))
        return Work(0, count * work.flops64, count * work.moved, launches * batches)


def _typed(flops: Number, size: int) -> tuple[Number, Number]:
    return (flops, 0.0) if size < 8 else (0.0, flops)
