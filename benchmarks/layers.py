"""Layer-wise methods in one pass a network, against passes of their own for every layer, as they were before."""

import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks import surgeons
from wfbench.channels.pattern import Filter
from wfbench.channels.readers import Order, Read, ReadPruner, reads_of
from wfbench.data import Unlabeled
from wfbench.harness.plugins import discover
from wfbench.layers import as_matrices, patches
from wfbench.linalg import cholesky, damped
from wfbench.network import Network, Params, bias_of
from wfbench.pruned import Pruned
from wfbench.recoveries.repair import LeastSquaresRepair
from wfbench.sparsity import Target, keep_largest
from wfbench.walk import Change, call_order, one_by_one, second_moments

SAMPLES, NUMBERS, ROWS = 32, 2**21, 16


def by_magnitude(net: Network, sparsity: float) -> Pruned:
    """The smallest weights gone."""
    mask = keep_largest({name: weight.abs() for name, weight in net.weights.items()}, Target(sparsity))
    return Pruned.of(net, net.weights, mask)


def kept(name: str, matrices: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """The change of a layer that changes nothing: what is timed is how layers are reached."""
    return matrices, torch.ones_like(matrices, dtype=torch.bool)


def passes(net: Network, state: Params, name: str, x: Tensor) -> Iterator[Tensor]:
    """A layer's patches `[g m d]`, float64, of all the network for every 32 samples."""
    found: list[Tensor] = []

    def keep(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if weight == name:
            found.append(patches(layer, inputs[0]).double())

    for part in x.split(SAMPLES):
        with torch.no_grad(), net.hooked(keep):
            net.logits(state, part)
        yield from found
        found.clear()


def one_by_one_before(net: Network, x: Tensor, change: Change) -> tuple[Params, Params]:
    """`one_by_one`, a pass of the whole network for every layer."""
    weights, masks = dict(net.weights), {}
    for name in call_order(net, x[:1]):
        rows = list(passes(net, weights, name, x))
        moment = torch.stack([one.mT @ one for one in rows]).sum(0) / sum(one.shape[1] for one in rows)
        new, mask = change(name, as_matrices(net.layer_of(name), net.weights[name]).double(), moment)
        masks[name] = mask.reshape(net.weights[name].shape)
        weights[name] = torch.where(masks[name], new.reshape(masks[name].shape), 0).to(net.dtype)
    return weights, masks


def solved(system: Tensor, right: Tensor, kept: Tensor) -> Tensor:
    """`A_KK z_K = r_K` for every row, each system at full size."""
    found, size = torch.zeros_like(right), max(1, NUMBERS // system.numel())
    for start in range(0, len(right), size):
        part, mask = right[start : start + size], kept[start : start + size]
        systems = torch.where(mask[:, :, None] & mask[:, None], system, 0) + torch.diag_embed((~mask).double())
        found[start : start + size] = torch.cholesky_solve(torch.where(mask, part, 0)[..., None], cholesky(systems))[
            ..., 0
        ]
    return found


def repaired_before(net: Network, pruned: Pruned, x: Tensor, damping: float) -> Params:
    """`repair`: two passes for every layer, the square products of both, each row's system at full size."""
    state = dict(pruned.state)
    for name in call_order(net, x[:1]):
        totals, count = [torch.zeros((), dtype=torch.float64)] * 4, 0
        for now, then in zip(passes(net, state, name, x), passes(net, {}, name, x), strict=True):
            totals = [
                a + b for a, b in zip(totals, (now.mT @ now, now.mT @ then, now.sum(1), then.sum(1)), strict=True)
            ]
            count += now.shape[1]
        inner, cross, mean, mean_then = (total / count for total in totals)
        if (bias := bias_of(name)) in state:
            size = inner.diagonal(dim1=1, dim2=2)
            varies = size - mean.square() > 1e-12 * size
            inner = torch.where(varies[..., None] & varies[:, None], inner - mean[..., None] * mean[:, None], 0)
            cross = torch.where(varies[..., None], cross - mean[..., None] * mean_then[:, None], 0)
        dense, current = (as_matrices(net.layer_of(name), of[name]).double() for of in (net.weights, state))
        left, right = pruned.mask[name].reshape(current.shape), dense @ cross.mT - current @ inner
        moves = [solved(*group) for group in zip(damped(inner, damping), right, left, strict=True)]
        weights = torch.where(left, current + torch.stack(moves), 0)
        state[name] = weights.reshape(state[name].shape).to(net.dtype)
        if bias in state:
            shift = (dense @ mean_then[..., None] - weights @ mean[..., None]).flatten()
            state[bias] = (net.movable[bias].double() + shift).to(net.dtype)
    return state


def traces(net: Network, hessians: Params, how: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Params:
    """The order in which obc takes the weights of the first rows of every layer."""
    matrices = {name: as_matrices(net.layer_of(name), w)[:, :ROWS].double() for name, w in net.weights.items()}
    return {name: how(matrices[name], hessians[name])[0] for name in net.weights}


def orders(reads: dict[str, list[Read]], how: Callable[[list[Read]], Order]) -> Params:
    """The order in which obs-filter takes the channels of every group."""
    return {name: torch.tensor(how(of)[0]) for name, of in reads.items()}


def actions(net: Network, x: Tensor, sparsity: float) -> dict[str, tuple[Callable[[], Params], Callable[[], Params]]]:
    """What is timed, before and now, both giving the network's tensors, or orders of removal."""
    registry = discover()
    pruned, repair, target = by_magnitude(net, sparsity), LeastSquaresRepair(), Target(sparsity, scope="layer")
    data, sparsegpt, surgeon = Unlabeled(x), registry.pruner("sparsegpt"), registry.pruner("obs-filter")
    assert isinstance(surgeon, ReadPruner)
    gpt, obc = (sys.modules[type(of).__module__] for of in (sparsegpt, registry.pruner("obc")))
    reads = reads_of(net, Filter(tuple(x.shape[1:])).groups(net), x, surgeon.damping)
    hessians = {name: damped(moment, 0.01) for name, moment in second_moments(net, x).items()}

    def by_sparsegpt() -> Params:
        state = sparsegpt.fit(net, data).prune(target).state
        return {name: state[name] for name in net.weights}

    def swept(name: str, matrices: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        blocks = torch.arange(matrices.shape[2]).split(128)
        return gpt.sweep(matrices, damped(moment, 0.01), blocks, gpt.quotas(matrices, target))

    return {
        "layer after layer": (
            lambda: one_by_one_before(net, x, kept)[0],
            lambda: one_by_one(net, x, kept)[0],
        ),
        "sparsegpt": (
            lambda: one_by_one_before(net, x, swept)[0],
            by_sparsegpt,
        ),
        "repair": (
            lambda: repaired_before(net, pruned, x, repair.damping),
            lambda: dict(repair.apply(net, pruned, data).state),
        ),
        f"obc, the order of {ROWS} rows a layer": (
            lambda: traces(net, hessians, surgeons.trace),
            lambda: traces(net, hessians, obc.trace),
        ),
        "obs-filter, the order of all channels": (
            lambda: orders(reads, surgeons.order),
            lambda: orders(reads, surgeon.order),
        ),
    }
