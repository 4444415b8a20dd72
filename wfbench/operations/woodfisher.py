"""The steps of WoodFisher, on single weights."""

from wfbench.composed.staged import shares
from wfbench.curvature.rows import MAX_ROWS, probes_for
from wfbench.errors import WfbenchError
from wfbench.operations.asked import Asked, Cost, Steps, added
from wfbench.operations.recoveries import batchnorm, products_fit, repair
from wfbench.operations.shapes import Shapes
from wfbench.operations.work import (
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
from wfbench.woodfisher.restored import WoodFisherStaged
from wfbench.woodfisher.surgeon import STAGES, layer_blocks
from wfbench.woodfisher.variants import WoodFisher, WoodFisherUnlabeled


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


def woodfisher(method: WoodFisher | WoodFisherUnlabeled, asked: Asked) -> Cost:
    """Rows, Gram matrix, inverse; and the removal of a share of the weights."""
    shapes, n, sizes = asked.shapes, asked.n, asked.sizes
    (k, each), p = rows_of(method, shapes, n), shapes.p
    widths = layer_blocks(asked.net, method.block_size) or [p]
    dense = Inverse(k, widths, sizes=sizes)
    known = method.block_size is None and k <= p
    found = passes(shapes, n, each, asked.limit)
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

    def removed(at: Asked) -> Steps:
        removal = [Work(0, 0, RETURNED * p, 10 * len(at.net.weights))]
        for stage in range(1, stages + 1):
            last, joint = stage == stages, method.update == "joint"
            removal.append(Work(0, 0, (RANKED + (MOVED if joint else SUMMED)) * p, 20 + 2 * len(at.net.weights)))
            if not joint:
                removal.append(dense.rescored(diagonals=False, solves=True))
            if joint or not last:
                left, gone = Inverse(k, widths, 1 - at.sparsity * stage / stages, sizes), at.sparsity * p / stages
                removal += [left.factor(known=known), removed_gram(k, gone, p, sizes) if known else Work()]
                removal.append(left.rescored(diagonals=not last, moves=joint))
        return {"removal and update": total(removal), "predicted change": product(k, p, sizes)}

    return Cost(found, removed)


def staged(method: WoodFisherStaged, asked: Asked) -> Steps:
    """Repair and norms in every stage, then joint updates."""
    many = shares(method.stages, asked.sparsity) if asked.sparsity else []
    stages = [restored(asked.by_magnitude(share), first=share == many[0]) for share in many]
    return added(*stages, *([joint_updates(method, asked)] if asked.sparsity else []))


def restored(asked: Asked, *, first: bool) -> Steps:
    """Repair and norms after a stage, the first one or another."""
    return {**repair(asked, known=not first and products_fit(asked)), "norms": batchnorm(asked.shapes, asked.n)}


def joint_updates(method: WoodFisherStaged, asked: Asked) -> Steps:
    """Rows of every logit, or of probes, over the kept weights; a step and its halvings, of which one is counted."""
    shapes, n, sizes = asked.shapes, asked.n, asked.sizes
    each = probes_for(n, shapes.outputs, shapes.p) or shapes.outputs
    k, left = n * each, (1 - asked.sparsity) * shapes.p
    found = {f"update: {name}": work * method.steps for name, work in passes(shapes, n, each, asked.limit).items()}
    once = (
        gram(k, left, sizes) + cholesky(k) + eigenvalues(k) + product(k, left, sizes) + Work(0, 0, 12.0 * k * shapes.p)
    )
    found["update: Gram and step"] = once * method.steps
    found["update: logits"] = forward(shapes, n) * (4 * method.steps)
    return found
