"""The steps of the methods whose cost is counted, from the formulas of `work`."""

from collections.abc import Callable
from math import ceil, inf
from typing import Any, TypeAlias

from wfbench.curvature.rows import MAX_ROWS, probes_for
from wfbench.deploy.layered import kfac, staged
from wfbench.deploy.shapes import Shapes
from wfbench.deploy.work import (
    LEVERAGE,
    MOVED,
    RANKED,
    RETURNED,
    SUMMED,
    Inverse,
    Work,
    cholesky,
    eigenvalues,
    forward,
    gram,
    passes,
    product,
    removed_gram,
    total,
)
from wfbench.errors import WfbenchError
from wfbench.layers import PATCH_NUMBERS
from wfbench.linalg import panels
from wfbench.network import Network
from wfbench.pruner import Pruner
from wfbench.tiles import HOST, Tiles
from wfbench.walk import SAMPLES
from wfbench.woodfisher.restored import WoodFisherStaged
from wfbench.woodfisher.surgeon import STAGES, layer_blocks
from wfbench.woodfisher.variants import WoodFisher, WoodFisherUnlabeled

Steps: TypeAlias = dict[str, Work]


LOOKED_AT = 60
"""Bytes a weight of the check of the layers: a copy, a wider one, its size, and two products."""
MASKED = 190
"""Bytes a weight of Wanda from matrices to a result: scores, a threshold a row, and copies into the network."""


def rows_of(method: WoodFisher | WoodFisherUnlabeled, shapes: Shapes, n: int) -> tuple[int, int]:
    """Rows, and cotangents a sample.

    Raises:
        WfbenchError: as `gradients`.
    """
    if isinstance(method, WoodFisher):
        if n % method.batch:
            raise WfbenchError(f"batch={method.batch} does not divide the {n} samples; choose a divisor")
        return n // method.batch, 1
    kinds = {
        "sampled": lambda: method.draws,
        "exact": lambda: shapes.outputs,
        "logits": lambda: probes_for(n, shapes.outputs, shapes.p) or shapes.outputs,
    }
    each = kinds[method.fisher]()
    if n * each > MAX_ROWS:
        raise WfbenchError(f"{method.name} of {n} samples has {n * each} rows, more than {MAX_ROWS}; use fewer samples")
    return n * each, each


def woodfisher(
    method: WoodFisher | WoodFisherUnlabeled,
    net: Network,
    shapes: Shapes,
    n: int,
    sparsity: float,
    limit: float = inf,
    sizes: Tiles = HOST,
) -> Steps:
    """Rows, Gram matrix, inverse, and the removal of a share of the weights."""
    (k, each), p = rows_of(method, shapes, n), shapes.p
    widths = layer_blocks(net, method.block_size) or [p]
    dense = Inverse(k, widths, sizes=sizes)
    known = method.block_size is None and k <= p
    found = passes(shapes, n, each, limit)
    if isinstance(method, WoodFisher) and method.batch > 1:
        found["rows"] += Work(0, 0, 12.0 * n * p)
    found |= {
        "Gram": gram(k, p, sizes),
        "eigenvalues": eigenvalues(k),
        "factor": dense.factor(known=known),
        "diagonal": dense.rescored() + Work(0, 0, LEVERAGE * p, 6),
    }
    if isinstance(method, WoodFisher) and method.first_order:
        found["first-order term"] = dense.rescored(diagonals=False, solves=True) + Work(0, 0, 20.0 * k * p)
    stages = method.stages or (1 if method.update == "independent" else STAGES)
    removal = [Work(0, 0, RETURNED * p, 10 * len(net.weights))]
    for stage in range(1, stages + 1):
        last, joint = stage == stages, method.update == "joint"
        removal.append(Work(0, 0, (RANKED + (MOVED if joint else SUMMED)) * p, 20 + 2 * len(net.weights)))
        if not joint:
            removal.append(dense.rescored(diagonals=False, solves=True))
        if joint or not last:
            left = Inverse(k, widths, 1 - sparsity * stage / stages, sizes)
            removal += [left.factor(known=known), removed_gram(k, sparsity * p / stages, p, sizes) if known else Work()]
            removal.append(left.rescored(diagonals=not last, moves=joint))
    found["removal and update"] = total(removal)
    found["predicted change"] = product(k, p, sizes)
    return found


def _check(shapes: Shapes) -> Work:
    """Of one sample: what every layer multiplies is known."""
    parts = [part for part in shapes.parts if part.prunable]
    checked = sum(6 * part.places * part.matrices[0] * part.matrices[2] + 8 * part.written for part in parts)
    moved = 8.0 * checked + LOOKED_AT * shapes.p
    return forward(shapes, 1) * 3 + Work(0, 4.0 * sum(part.macs for part in parts), moved, 20 * len(parts))


def moments(shapes: Shapes, n: int, at_a_time: int) -> Steps:
    """`XᵀX` of every layer's patches, in one pass of so many samples at a time, after one sample's check of these."""
    found = []
    for part in (part for part in shapes.parts if part.prunable):
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


def _wanda(shapes: Shapes, n: int, sparsity: float, sizes: Tiles) -> Steps:
    rows = sum(part.matrices[0] * part.matrices[1] for part in shapes.parts if part.prunable)
    return {**squares(shapes, n), "masks": Work(0, 0, MASKED * shapes.p, 15 * rows)}


def _lobs(shapes: Shapes, n: int, sparsity: float, sizes: Tiles) -> Steps:
    def in_turn(rows: int, d: int) -> Work:
        gone = sparsity * d
        batches = ceil(rows / max(1, sizes.numbers // max(1, round(gone) ** 2)))
        return Work(0, rows * (gone**2 + 2.0 * d**2), 24.0 * rows * gone**2 + 8.0 * batches * d**2, 8 * batches)

    return {**moments(shapes, n, SAMPLES), "inverses": inverses(shapes), "removal and update": _each(shapes, in_turn)}


def _obc(shapes: Shapes, n: int, sparsity: float, sizes: Tiles, lazy: int = 32, least: int = 2**23) -> Steps:
    def trace(rows: int, d: int) -> Work:
        flops, moved = 0.0, 16.0 * rows * d**2
        for start in range(0, d, lazy):
            side, steps = d - start, min(lazy, d - start)
            left = side - steps
            flops += rows * (steps**2 * side + 2.0 * steps * left**2)
            moved += 8.0 * rows * (steps**2 * side / 2 + 30 * steps * side + 2 * side * left + 6 * left**2)
        parts = ceil(rows / max(1, max(least, sizes.numbers) // d**2))
        return Work(0, flops, moved, 20.0 * d * parts)

    def kept(rows: int, d: int) -> Work:
        return cholesky(round((1 - sparsity) * d)) * rows

    traces, solved = _each(shapes, trace), _each(shapes, kept)
    return {
        **moments(shapes, n, SAMPLES),
        "inverses": inverses(shapes),
        "greedy order": traces,
        "least squares": solved,
    }


def _sparsegpt(shapes: Shapes, n: int, sparsity: float, sizes: Tiles, block: int = 128) -> Steps:
    def sweep(rows: int, d: int) -> Work:
        return Work(0, 1.0 * rows * d**2, 24.0 * rows * d * min(d, block) / 2 + 24.0 * rows * d**2 / block, 4.0 * d)

    factors = inverses(shapes) + _each(shapes, lambda rows, d: cholesky(d))
    return {**moments(shapes, n, n), "inverses": factors, "column sweep": _each(shapes, sweep)}


LAYERWISE = {"lobs": _lobs, "lobs-global": _lobs, "obc": _obc, "sparsegpt": _sparsegpt, "wanda": _wanda}
"""By method: its steps from shapes, samples, sparsity, and the sizes of what is computed at a time."""
KFAC = ("kfac", "kfac-sampled", "kfac-exact")


def steps_of(
    method: Pruner[Any],
    net: Network,
    shapes: Shapes,
    n: int,
    sparsity: float,
    limit: float = inf,
    sizes: Tiles = HOST,
) -> Steps | None:
    """What a method does on n samples within a bound of memory; None where it is not counted."""
    if isinstance(method, WoodFisher | WoodFisherUnlabeled):
        return woodfisher(method, net, shapes, n, sparsity, limit, sizes)
    if isinstance(method, WoodFisherStaged):
        return staged(method, net, shapes, n, sparsity, limit, sizes)
    if method.name in KFAC:
        return kfac(shapes, n, shapes.outputs if method.name == "kfac-exact" else 1)
    if method.name in LAYERWISE:
        return LAYERWISE[method.name](shapes, n, sparsity, sizes)
    return {} if method.track == "data-free" else None
