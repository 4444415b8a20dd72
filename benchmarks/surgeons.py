"""Greedy surgeons as they were: a product over whole matrices for every weight or channel that goes."""

import torch
from torch import Tensor

from wfbench.linalg import cholesky, inverse
from wfbench.toolbox import Order, Read

TRACED = 2**21


def trace(weights: Tensor, hessians: Tensor) -> tuple[Tensor, Tensor]:
    """obc's order of removal `[g rows d]` and what each removal adds, group after group."""
    found = []
    for rows, hessian in zip(weights, hessians, strict=True):
        inverted = inverse(hessian)
        found += [_traced(part, inverted) for part in rows.split(max(1, TRACED // hessian.numel()))]
    return torch.cat([order for order, _ in found]), torch.cat([losses for _, losses in found])


def _traced(weights: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    rows, d = weights.shape
    every = torch.arange(rows, device=weights.device)
    w, inverse = weights.clone(), inverse.expand(rows, d, d).clone()
    left = torch.arange(d, device=weights.device).expand(rows, d).clone()
    gone = torch.zeros_like(left, dtype=torch.bool)
    order, losses = torch.empty_like(left), torch.empty_like(weights)
    for step in range(d):
        if d - step < 0.75 * left.shape[1]:
            stay = (~gone).nonzero()[:, 1].reshape(rows, -1)
            left, w, gone = left.gather(1, stay), w.gather(1, stay), gone.gather(1, stay)
            inverse = inverse.gather(1, stay[:, :, None].expand(-1, -1, inverse.shape[2]))
            inverse = inverse.gather(2, stay[:, None, :].expand(-1, stay.shape[1], -1))
        pivots = inverse.diagonal(dim1=1, dim2=2)
        loss = (w.square() / (2 * pivots)).masked_fill(gone, torch.inf)
        losses[:, step], q = loss.min(1)
        order[:, step] = left[every, q]
        column, pivot = inverse[every, q], pivots[every, q, None]
        w -= column * (w[every, q, None] / pivot)
        inverse.baddbmm_(column[:, :, None], (-column / pivot)[:, None, :])
        gone[every, q] = True
        w[every, q] = 0
        inverse[every, q, q] = 1
    return order, losses


def order(reads: list[Read]) -> Order:
    """obs-filter's order of the channels of a group."""
    weights, inverses = [read.weight.clone() for read in reads], [inverse(read.hessian) for read in reads]
    left = list(range(len(reads[0].columns)))
    gone: list[int] = []
    losses: list[float] = []
    while len(left) > 1:
        each = zip(weights, inverses, reads, strict=True)
        found = torch.stack([_losses(w, inverted, read.columns[left]) for w, inverted, read in each]).sum(0)
        best = int(found.argsort(stable=True)[0])
        losses.append(float(found[best]))
        gone.append(left.pop(best))
        for w, inverted, read in zip(weights, inverses, reads, strict=True):
            _take_out(w, inverted, read.columns[gone[-1]])
    return gone, losses


def _losses(weight: Tensor, inverted: Tensor, columns: Tensor) -> Tensor:
    lower = cholesky(inverted[columns[:, :, None], columns[:, None, :]])
    parts = weight[:, columns].permute(1, 2, 0)
    return torch.linalg.solve_triangular(lower, parts, upper=False).square().sum((1, 2)) / 2


def _take_out(weight: Tensor, inverted: Tensor, columns: Tensor) -> None:
    rows = inverted[columns]
    pull = torch.cholesky_solve(rows, cholesky(rows[:, columns]))
    weight -= weight[:, columns] @ pull
    inverted -= rows.mT @ pull
    weight[:, columns] = 0
    inverted[:, columns] = 0
    inverted[columns] = 0
