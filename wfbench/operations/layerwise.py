"""The steps of methods that go layer by layer, and of Kronecker factors."""

from collections.abc import Callable, Sequence
from math import ceil

from wfbench.layers import PATCH_NUMBERS
from wfbench.linalg import panels
from wfbench.operations.asked import Asked, Cost, Steps
from wfbench.operations.recoveries import all_solutions
from wfbench.operations.shapes import Part, Shapes
from wfbench.operations.work import Work, backward, cholesky, forward, total
from wfbench.tiles import Tiles
from wfbench.walk import SAMPLES

LOOKED_AT = 60
"""Bytes a weight of the check of the layers: a copy, a wider one, its size, and two products."""
MASKED = 190
"""Bytes a weight of Wanda from matrices to a result: scores, their order in every row, and copies into the network."""


def _check(shapes: Shapes) -> Work:
    """Of one sample: what every layer multiplies is known."""
    parts = [part for part in shapes.parts if part.prunable]
    checked = sum(6 * part.places * part.matrices[0] * part.matrices[2] + 8 * part.written for part in parts)
    moved = 8.0 * checked + LOOKED_AT * shapes.p
    return forward(shapes, 1) * 3 + Work(0, 4.0 * sum(part.macs for part in parts), moved, 20 * len(parts))


def moments(shapes: Shapes, n: int, at_a_time: int, among: Sequence[Part] | None = None) -> Steps:
    """`XᵀX` of the patches of all layers, or of some, in one pass of so many samples a time, after a check of all."""
    found = []
    for part in (part for part in shapes.parts if part.prunable) if among is None else among:
        groups, _, d = part.matrices
        patches = float(n * part.places * groups * d)
        fits = max(1, PATCH_NUMBERS // max(1, part.places * groups * d))
        pairs = panels(d)
        area = sum((stop - start) * stop for start, stop in pairs)
        read = 2 * patches + patches / d * sum(2 * stop - start for start, stop in pairs)
        sums = (4 if len(pairs) == 1 else 7) * ceil(n / min(at_a_time, fits)) + 2
        numbers = 1.5 * n * part.read + read + groups * d**2 * sums
        found.append(Work(0, 2.0 * patches / d * area, 8 * numbers, 4 + 2 * len(pairs)))
    return {"check of the layers": _check(shapes), "forward": forward(shapes, n), "second moments": total(found)}


def squares(shapes: Shapes, n: int) -> Steps:
    """The diagonals of these alone: what a layer reads, widened, squared, and summed where it is."""
    read = sum(part.read for part in shapes.parts if part.prunable)
    summed = Work(0, 0, 36.0 * n * read, 6 * len(shapes.parts))
    return {"check of the layers": _check(shapes), "forward": forward(shapes, n), "mean squares": summed}


def _each(shapes: Shapes, cost: Callable[[int, int], Work]) -> Work:
    """The sum over all matrices of a function of their rows and columns."""
    parts = [part.matrices for part in shapes.parts if part.prunable]
    return total([cost(rows, d) * groups for groups, rows, d in parts])


def inverses(shapes: Shapes) -> Work:
    return _each(shapes, lambda rows, d: Work(0, 1.0 * d**3, 88.0 * d**2, 9))


def wanda(asked: Asked) -> Cost:
    shapes = asked.shapes
    masks = {"masks": Work(0, 0, MASKED * shapes.p, 15 * len(shapes.parts))}
    return Cost({}, lambda at: {**squares(shapes, at.n), **masks})


def lobs(asked: Asked) -> Cost:
    fit = {**moments(asked.shapes, asked.n, SAMPLES), "inverses": inverses(asked.shapes)}
    return Cost(fit, lambda at: {"removal and update": total([in_turn(*one, at.sizes) for one in _gone(at)])})


def _gone(asked: Asked) -> list[tuple[list[int], int]]:
    """How many weights every row of every matrix loses, and its columns."""
    return [([part.matrices[2] - count for count in counts], part.matrices[2]) for part, counts in asked.kept()]


def in_turn(counts: list[int], d: int, sizes: Tiles) -> Work:
    """A triangular system a row, rows that lose about as many together."""
    order, at, found = sorted(counts, reverse=True), 0, Work()
    while at < len(order) and order[at]:
        k = order[at]
        rows = min(max(1, sizes.numbers // k**2), len(order) - at)
        found += Work(0, rows * (1.0 * k**2 + 2.0 * d**2), 24.0 * rows * k**2 + 8.0 * d**2, 8)
        at += rows
    return found


def obc(asked: Asked) -> Cost:
    def of_rows(rows: int, d: int) -> Work:
        return traced(rows, d, asked.sizes)

    fit = {**moments(asked.shapes, asked.n, SAMPLES), "inverses": inverses(asked.shapes)}
    return Cost({**fit, "greedy order": _each(asked.shapes, of_rows)}, lambda at: {"least squares": all_solutions(at)})


def traced(rows: int, d: int, sizes: Tiles, lazy: int = 32, least: int = 2**24) -> Work:
    """Every row's removals one by one, whole inverses brought up to date after so many."""
    flops, moved = 0.0, 16.0 * rows * d**2
    for start in range(0, d, lazy):
        side, steps = d - start, min(lazy, d - start)
        left = side - steps
        flops += rows * (steps**2 * side + 2.0 * steps * left**2)
        copied = 2.0 * left * side + 4 * left**2
        moved += 8.0 * rows * (steps**2 * side / 2 + 30 * steps * side + 6 * steps * left + copied)
    parts = ceil(rows / max(1, max(least, sizes.numbers) // d**2))
    return Work(0, flops, moved, 24.0 * d * parts)


def sparsegpt(asked: Asked, block: int = 128) -> Cost:
    def sweep(rows: int, d: int) -> Work:
        return Work(0, 1.0 * rows * d**2, 24.0 * rows * d * min(d, block) / 2 + 24.0 * rows * d**2 / block, 4.0 * d)

    shapes = asked.shapes
    factors = inverses(shapes) + _each(shapes, lambda rows, d: cholesky(d))
    work = {"inverses": factors, "column sweep": _each(shapes, sweep)}
    return Cost({}, lambda at: {**moments(shapes, at.n, at.n), **work})


LAYERWISE: dict[str, Callable[[Asked], Cost]] = {
    "lobs": lobs,
    "lobs-global": lobs,
    "obc": obc,
    "sparsegpt": sparsegpt,
    "wanda": wanda,
}
KFAC = ("kfac", "kfac-sampled", "kfac-exact")


def kfac(asked: Asked, each: int) -> Cost:
    """Passes in float64, two factors a layer, their inverses and spectra, and one update of all weights.

    Args:
        each: cotangents a sample.
    """
    shapes, n = asked.shapes, asked.n
    factors, inverted, removed = [], [], []
    for part in shapes.parts:
        if not part.prunable:
            continue
        groups, rows, d = part.matrices
        m, out = float(n * part.places), groups * rows
        copies = 0.0 if part.linear else 4.0 * groups
        numbers = m * ((copies + 3) * d + 3.0 * out * each)
        factors.append(Work(0, 2 * m * (d**2 + each * out**2), 8 * numbers + 40.0 * (d**2 + each * out**2), 12))
        inverted.append(Work(0, 1.0 * d**3 + 1.0 * out**3, 88.0 * (d**2 + out**2), 18))
        spectra = 2 + 4 / 3
        products = 4.0 * (out**2 * d + out * d**2)
        removed.append(
            Work(0, spectra * (1.0 * d**3 + 1.0 * out**3) + products, 68.0 * (d**2 + out**2) + 260.0 * out * d, 40)
        )
    weights = Work(0, 2.0 * n * shapes.macs, 8.0 * (n * shapes.activations / 2 + shapes.weights))
    fit = {
        "forward": forward(shapes, n, 8) + forward(shapes, 1) * 4,
        "backward": (backward(shapes, n, 8) + weights) * each,
        "factors": total(factors),
        "inverses": total(inverted),
    }
    return Cost(fit, lambda at: {"removal and update": total(removed)})
