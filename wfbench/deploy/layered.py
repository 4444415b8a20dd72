"""The steps of recoveries, and of methods that restore the layers in turn; how many weights a row keeps is that of
global magnitude, layer by layer."""

from collections.abc import Callable
from math import ceil, inf
from typing import Any, TypeAlias

from wfbench.composed.staged import shares
from wfbench.curvature.rows import probes_for
from wfbench.deploy.shapes import Shapes
from wfbench.deploy.work import Work, backward, cholesky, eigenvalues, forward, gram, passes, product, total
from wfbench.layers import as_matrices
from wfbench.linalg import LARGE
from wfbench.network import Network, tensor_name
from wfbench.recoveries.base import BatchNormReestimation, Recovery
from wfbench.recoveries.descent import FeatureDistillation, LogitDistillation
from wfbench.recoveries.repair import LeastSquaresRepair
from wfbench.sparsity import Target, keep_largest
from wfbench.tiles import HOST, Tiles
from wfbench.woodfisher.restored import WoodFisherStaged

Steps: TypeAlias = dict[str, Work]
Counts: TypeAlias = dict[str, list[list[int]]]
ADAM = 26
"""float32 numbers of each weight that a step of Adam under a mask reads and writes; counted."""


def kept_counts(net: Network, sparsity: float) -> Counts:
    """How many weights each row keeps, of each group's matrix, by the weight's name."""
    mask = keep_largest({name: weight.abs() for name, weight in net.weights.items()}, Target(sparsity))
    return {name: as_matrices(net.layer_of(name), one).sum(2).tolist() for name, one in mask.items()}


def kept_solutions(counts: list[int], d: int) -> Work:
    """A system for the kept weights of every row, of many that keep most of theirs for the removed ones."""
    most = d > LARGE and 2 * sum(counts) > d * len(counts)
    order = sorted((d - count if most else count for count in counts), reverse=True)
    found, at = Work(0, 0, 40.0 * d * len(counts), 12), 0
    if most:
        rows = len(counts)
        found += Work(0, 1.0 * d**3 + 4.0 * rows * d**2, 88.0 * d**2, 9)
    while at < len(order) and order[at]:
        k, together = order[at], max(1, HOST.numbers // order[at] ** 2)
        rows = min(together, len(order) - at)
        found += Work(0, rows * (k**3 / 3 + 2.0 * k**2), SYSTEM * rows * k**2, 16)
        at += rows
    return found


SYSTEM = 98.0
"""Bytes for every number of such a system: it is gathered, masked, given a diagonal, factorised and solved."""


def batchnorm(shapes: Shapes, n: int) -> Work:
    """One pass of all samples; a copy of the weights."""
    return forward(shapes, n) + Work(0, 0, 16.0 * shapes.weights)


def repair(shapes: Shapes, counts: Counts, names: dict[str, str], n: int) -> Steps:
    """Two networks side by side, moments of what each layer reads in both, and a system for every row.

    Args:
        names: of the weight of each part.
    """
    read, solved = [], []
    for part in shapes.parts:
        if not part.prunable:
            continue
        groups, rows, d = part.matrices
        m = float(n * part.places)
        flops = 2 * m * d * (3.0 * rows + d) * groups
        copies = 2.0 if part.linear else 4.0
        numbers = groups * m * ((copies + 6) * d + 7 * rows) + 14.0 * groups * (d**2 + rows * d)
        read.append(Work(0, flops, 8 * numbers + 24.0 * n * part.read, 40))
        solved += [kept_solutions(of_group, d) for of_group in counts[names[part.name]]]
    return {"forward": forward(shapes, n) * 2, "moments": total(read), "least squares": total(solved)}


def distillation(shapes: Shapes, movable: int, n: int, steps: int, batch: int, *, features: bool) -> Steps:
    """Steps of Adam on at most `batch` samples each, towards every layer's outputs or the logits."""
    b = n / ceil(n / batch)
    first = sum(part.macs for part in shapes.parts if part.first)
    seen = sum(part.written for part in shapes.parts if part.weight) if features else shapes.outputs
    moved = 4 * (b * (1.4 * shapes.activations + 21.0 * seen) + 3.0 * shapes.weights + ADAM * movable)
    back = Work(2.0 * b * (2 * shapes.macs - first), 0, moved, 6 * len(shapes.parts) + 30)
    once = forward(shapes, 1) * b
    return {"dense outputs": forward(shapes, n), "steps": (once + back) * steps}


def joint_updates(
    options: WoodFisherStaged, shapes: Shapes, n: int, sparsity: float, limit: float, sizes: Tiles
) -> Steps:
    """Rows of every logit, or of probes, over the kept weights; a step and its halvings, of which one is counted."""
    each = probes_for(n, shapes.outputs, shapes.p) or shapes.outputs
    k, left = n * each, (1 - sparsity) * shapes.p
    found = {f"update: {name}": work * options.steps for name, work in passes(shapes, n, each, limit).items()}
    once = (
        gram(k, left, sizes) + cholesky(k) + eigenvalues(k) + product(k, left, sizes) + Work(0, 0, 12.0 * k * shapes.p)
    )
    found["update: Gram and step"] = once * options.steps
    found["update: logits"] = forward(shapes, n) * (4 * options.steps)
    return found


def staged(
    options: WoodFisherStaged,
    net: Network,
    shapes: Shapes,
    n: int,
    sparsity: float,
    limit: float = inf,
    sizes: Tiles = HOST,
) -> Steps:
    """Repair and norms in every stage, then joint updates."""
    parts: dict[str, list[Work]] = {}
    names = weight_names(net, shapes)
    for share in shares(options.stages, sparsity) if sparsity else ():
        stage = repair(shapes, kept_counts(net, share), names, n) | {"norms": batchnorm(shapes, n)}
        for name, work in stage.items():
            parts.setdefault(name, []).append(work)
    found = {name: total(works) for name, works in parts.items()}
    return found | (joint_updates(options, shapes, n, sparsity, limit, sizes) if sparsity else {})


def kfac(shapes: Shapes, n: int, each: int) -> Steps:
    """Passes in float64, two factors a layer, their inverses and spectra, and one update of all weights.

    Args:
        each: cotangents a sample.
    """
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
    return {
        "forward": forward(shapes, n, 8),
        "backward": (backward(shapes, n, 8) + weights) * each,
        "factors": total(factors),
        "inverses": total(inverted),
        "removal and update": total(removed),
    }


def weight_names(net: Network, shapes: Shapes) -> dict[str, str]:
    """The name of every prunable part's weight."""
    return {part.name: net.names[tensor_name(part.name, "weight")] for part in shapes.parts if part.prunable}


def recovery_steps(recovery: Recovery[Any], net: Network, shapes: Shapes, n: int, sparsity: float) -> Steps | None:
    """What a recovery does on n samples; None where it is not counted."""
    movable = sum(tensor.numel() for tensor in net.movable.values())
    made: dict[type, Callable[[], Steps]] = {
        BatchNormReestimation: lambda: {"norms": batchnorm(shapes, n)},
        LeastSquaresRepair: lambda: repair(shapes, kept_counts(net, sparsity), weight_names(net, shapes), n),
    }
    if type(recovery) in made:
        return made[type(recovery)]()
    if isinstance(recovery, FeatureDistillation | LogitDistillation):
        features = isinstance(recovery, FeatureDistillation)
        norms = {"norms": batchnorm(shapes, n)}
        return norms | distillation(shapes, movable, n, recovery.steps, recovery.batch, features=features)
    return {} if recovery.licence is None else None
