"""The steps of recoveries."""

from math import ceil
from typing import Any

from wfbench.linalg import LARGE, panels
from wfbench.operations.asked import Asked, Steps
from wfbench.operations.shapes import Part, Shapes
from wfbench.operations.work import Work, forward, total
from wfbench.recoveries.base import BatchNormReestimation, Recovery
from wfbench.recoveries.descent import BriefDistillation, FeatureDistillation, LogitDistillation
from wfbench.recoveries.repair import LeastSquaresRepair
from wfbench.tiles import HOST

ADAM = 26
"""float32 numbers of each weight that a step of Adam under a mask reads and writes; counted."""


def kept_solutions(counts: list[int], d: int, groups: int = 1) -> Work:
    """A system for the kept weights of every row of all groups, or of many that keep most for the removed ones.

    Args:
        counts: kept weights of every row.
    """
    most = d > LARGE and 2 * sum(counts) > d * len(counts)
    order = sorted((d - count if most else count for count in counts), reverse=True)
    found, at = Work(0, 0, 40.0 * d * len(counts), 12), 0
    if most:
        found += Work(0, 1.0 * groups * d**3 + 4.0 * len(counts) * d**2, 88.0 * groups * d**2, 9)
    while at < len(order) and order[at]:
        k, together = order[at], max(1, HOST.numbers // order[at] ** 2)
        rows = min(together, len(order) - at)
        found += Work(0, rows * (k**3 / 3 + 2.0 * k**2), SYSTEM * rows * k**2, 16)
        at += rows
    return found


def all_solutions(asked: Asked) -> Work:
    """Those of every layer."""
    found = dict[Part, list[int]]()
    for part, counts in asked.kept():
        found[part] = found.get(part, []) + counts
    return total([kept_solutions(counts, part.matrices[2], part.matrices[0]) for part, counts in found.items()])


SYSTEM = 98.0
"""Bytes for every number of such a system: it is gathered, masked, given a diagonal, factorised and solved."""


def batchnorm(shapes: Shapes, n: int) -> Work:
    """One pass of all samples; a copy of the weights."""
    return forward(shapes, n) + Work(0, 0, 16.0 * shapes.weights)


def repair(asked: Asked, *, known: bool = False) -> Steps:
    """Two networks side by side, moments of what each layer reads in both, and a system for every row.

    Args:
        known: what the dense network multiplies is kept from an earlier repair on these samples.
    """
    read = []
    for part in asked.shapes.parts:
        if not part.prunable:
            continue
        groups, rows, d = part.matrices
        m = float(asked.n * part.places)
        area = sum((stop - start) * stop for start, stop in panels(d))
        copies = 2.0 if part.linear else 4.0
        flops = 2 * m * ((3.0 - known) * rows * d + area) * groups
        each = (copies + 6) * d + 7 * rows - known * ((copies - 1) * d + 1.5 * rows)
        numbers = groups * (m * each + 14.0 * (d**2 + rows * d)) + (3.0 - known) * asked.n * part.read
        read.append(Work(0, flops, 8 * numbers, 90 - 40 * known))
    return {
        "forward": forward(asked.shapes, asked.n) * (2 - known),
        "moments": total(read),
        "least squares": all_solutions(asked),
    }


def products_fit(asked: Asked) -> bool:
    """Whether what the dense network multiplies is kept from repair to repair."""
    parts = (part for part in asked.shapes.parts if part.prunable)
    return 8 * asked.n * sum(part.places * part.matrices[0] * part.matrices[1] for part in parts) <= asked.net.memo.most


def distillation(shapes: Shapes, movable: int, n: int, steps: int, batch: int, *, features: bool) -> Steps:
    """Steps of Adam on at most `batch` samples each, towards every layer's outputs or the logits."""
    b = n / ceil(n / batch)
    first = sum(part.macs for part in shapes.parts if part.first)
    seen = sum(part.written for part in shapes.parts if part.weight) if features else shapes.outputs
    moved = 4 * (b * (1.4 * shapes.activations + 13.0 * seen) + 3.0 * shapes.weights + ADAM * movable)
    back = Work(2.0 * b * (2 * shapes.macs - first), 0, moved, 6 * len(shapes.parts) + 30)
    once = forward(shapes, 1) * b
    return {"dense outputs": forward(shapes, n), "steps": (once + back) * steps}


def recovery_steps(recovery: Recovery[Any], asked: Asked) -> Steps | None:
    """What a recovery does after a method on the same samples; None where it is not counted."""
    shapes, n = asked.shapes, asked.n
    if type(recovery) is BatchNormReestimation:
        return {"norms": batchnorm(shapes, n)}
    if type(recovery) is LeastSquaresRepair:
        return repair(asked.by_magnitude(asked.sparsity))
    if isinstance(recovery, FeatureDistillation | LogitDistillation):
        movable = sum(tensor.numel() for tensor in asked.net.movable.values())
        features, times = isinstance(recovery, FeatureDistillation), 1 + isinstance(recovery, BriefDistillation)
        norms = {"norms": batchnorm(shapes, n) * times}
        return norms | distillation(shapes, movable, n, recovery.steps, recovery.batch, features=features)
    return {} if recovery.licence is None else None
