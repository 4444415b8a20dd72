"""What the tests hold the engine against: dense, slow, and written without it."""

import itertools
from collections.abc import Sequence

import mpmath
import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.recursion import recursion
from wfbench import Labeled, Network


def blocks_of(p: int, block: int | Sequence[int] | None) -> list[slice]:
    """The column ranges of the diagonal blocks."""
    widths = (
        [p]
        if block is None
        else ([block] * (p // block) + [p % block] * (p % block > 0) if isinstance(block, int) else block)
    )
    ends = list(itertools.accumulate(widths))
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]


def curvature(rows: Tensor, damping: float, block: int | Sequence[int] | None = None) -> Tensor:
    """`RᵀR + λI` with everything outside the diagonal blocks zeroed, `[p, p]`."""
    dense = rows.double().T @ rows.double()
    kept = torch.zeros_like(dense)
    for where in blocks_of(len(dense), block):
        kept[where, where] = dense[where, where]
    return kept + damping * torch.eye(len(dense), dtype=torch.float64)


def exact_inverse(matrix: Tensor) -> Tensor:
    """The inverse with 40 digits, for matrices too badly conditioned for float64; small ones only."""
    with mpmath.workdps(40):
        return torch.tensor((mpmath.matrix(matrix.tolist()) ** -1).tolist(), dtype=torch.float64)


def exact_product(matrix: Tensor, v: Tensor, damping: float) -> Tensor:
    """`(M + λI)⁻¹v` with 40 digits."""
    with mpmath.workdps(40):
        damped = mpmath.matrix(matrix.tolist()) + mpmath.mpf(damping) * mpmath.eye(len(v))
        return torch.tensor([float(x) for x in mpmath.lu_solve(damped, mpmath.matrix(v.tolist()))], dtype=torch.float64)


def recursion_inverse(rows: Tensor, damping: float, block: int | None) -> Tensor:
    """The paper's rank-one recursion, block by block, `[p, p]`."""
    return torch.block_diag(*[recursion(rows[:, where].double(), damping) for where in blocks_of(rows.shape[1], block)])


def constrained_minimum(matrix: Tensor, w: Tensor, removed: Sequence[int]) -> tuple[float, Tensor]:
    """Minimise `½δᵀAδ` subject to `w_Q + δ_Q = 0` by its KKT system: the loss increase and the new weights."""
    p, q = len(w), len(removed)
    kkt = torch.zeros(p + q, p + q, dtype=torch.float64)
    kkt[:p, :p] = matrix
    for row, index in enumerate(removed):
        kkt[p + row, index] = kkt[index, p + row] = 1
    right = torch.cat([torch.zeros(p, dtype=torch.float64), -w[list(removed)]])
    delta = torch.linalg.solve(kkt, right)[:p]
    return float(0.5 * delta @ matrix @ delta), w + delta


def greedy(matrix: Tensor, w: Tensor, count: int) -> list[int]:
    """Remove one weight at a time, each time the one whose joint removal with the earlier ones costs least."""
    removed: list[int] = []
    for _ in range(count):
        left = [index for index in range(len(w)) if index not in removed]
        removed.append(min(left, key=lambda index: constrained_minimum(matrix, w, [*removed, index])[0]))
    return removed


def looped_rows(module: nn.Module, names: Sequence[str], x: Tensor, cotangents: Tensor) -> Tensor:
    """`JᵢᵀC` by one backward pass a sample and cotangent: `[n·m, p]`. cotangents: `[n, m, c]`."""
    known = {name: module.get_parameter(name) for name in {**dict(module.named_parameters()), **dict.fromkeys(names)}}
    own = {id(tensor): tensor.detach().clone().requires_grad_() for tensor in known.values()}
    parameters = {name: own[id(tensor)] for name, tensor in known.items()}  # a tied one once
    wanted = [parameters[name] for name in names]
    rows = []
    for sample, of_sample in zip(x, cotangents, strict=True):
        for cotangent in of_sample:
            logits = functional_call(module, parameters, (sample[None],))[0]
            found = torch.autograd.grad((logits * cotangent).sum(), wanted)
            rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


def rows_by_autograd(net: Network, data: Labeled) -> Tensor:
    """Gradients of log p of each sample's labels by the weights, one backward pass a sample: `[n, p]`."""
    rows = []
    for x, y in zip(data.inputs, data.labels, strict=True):
        weights = {name: weight.clone().requires_grad_() for name, weight in net.weights.items()}
        parts = torch.autograd.grad(-net.loss(weights, Labeled(x[None], y[None])), list(weights.values()))
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)
