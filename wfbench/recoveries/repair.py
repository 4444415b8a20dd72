"""Recoveries in closed form, layer after layer, from the pruned network's inputs to the dense network's outputs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wfbench.data import Unlabeled
from wfbench.layers import PATCHED_SAMPLES, as_matrices, call_order, damped, patches, solve_kept
from wfbench.network import Network, Params, bias_of
from wfbench.pruned import Pruned
from wfbench.recoveries.base import Recovery

CONSTANT = 1e-12
"""An input whose variance is a smaller share of its mean square counts as constant."""


@dataclass(frozen=True)
class LeastSquaresRepair(Recovery[Unlabeled]):
    """The kept weights and the bias of each layer that bring its output closest to the dense network's.

    Minimises `Σ‖y − W̃x̃ − b̃‖² + α‖W̃ − W‖²` over the kept entries of W̃ and over b̃, where x̃ is the layer's input in the
    network repaired so far, y its output in the dense network, and W the weights before the repair. Data: inputs alone.

    Args:
        damping: α as a share of the mean diagonal of `X̃ᵀX̃/m`.
    """

    name: ClassVar[str] = "repair"
    damping: float = 0.1

    def apply(self, net: Network, pruned: Pruned, data: Unlabeled) -> Pruned:
        state = dict(pruned.state)
        for name in call_order(net, data.inputs[:1]):
            layer, bias = net.layer_of(name), bias_of(name)
            moments = _moments(net, state, name, data.inputs, centred=bias in state)
            dense = as_matrices(layer, net.weights[name]).double()
            current = as_matrices(layer, state[name]).double()
            kept = pruned.mask[name].reshape(current.shape)
            systems = damped(moments.inner, self.damping)
            right = dense @ moments.cross.mT - current @ moments.inner
            moves = [solve_kept(h, r, k) for h, r, k in zip(systems, right, kept, strict=True)]
            weights = torch.where(kept, current + torch.stack(moves), 0)
            state[name] = weights.reshape(state[name].shape).to(state[name].dtype)
            if bias in state:
                shift = (dense @ moments.dense_mean[..., None] - weights @ moments.mean[..., None]).flatten()
                moved = (net.state()[bias].double() + shift).to(state[bias].dtype)
                state[bias] = _kept(moved, pruned, bias)
        return replace(pruned, state=state)


@dataclass(frozen=True)
class Moments:
    """Of a layer's patches x̃ in the pruned and x in the dense network: `X̃ᵀX̃/m`, `X̃ᵀX/m`, and both means."""

    inner: Float[Tensor, "g d d"]
    cross: Float[Tensor, "g d d"]
    mean: Float[Tensor, "g d"]
    dense_mean: Float[Tensor, "g d"]


def _moments(net: Network, state: Params, name: str, x: Tensor, *, centred: bool) -> Moments:
    """float64; about the means where the layer has a bias, which then takes the means over."""
    totals: list[Tensor] = []
    count = 0
    for now, before in zip(_inputs(net, state, name, x), _inputs(net, {}, name, x), strict=True):
        parts = [now.mT @ now, now.mT @ before, now.sum(1), before.sum(1)]
        totals = parts if not totals else [total + part for total, part in zip(totals, parts, strict=True)]
        count += now.shape[1]
    if not totals:  # a layer that is never called
        groups, _, d = as_matrices(net.layer_of(name), net.weights[name]).shape
        square = torch.zeros((groups, d, d), dtype=torch.float64, device=net.device)
        return Moments(square, square, square[:, 0], square[:, 0])
    inner, cross, mean, dense_mean = (total / count for total in totals)
    if centred:
        size = inner.diagonal(dim1=1, dim2=2)
        varies = size - mean.square() > CONSTANT * size  # of what does not, centring leaves rounding errors
        inner = torch.where(varies[..., None] & varies[:, None], inner - mean[..., None] * mean[:, None], 0)
        cross = torch.where(varies[..., None], cross - mean[..., None] * dense_mean[:, None], 0)
    return Moments(inner, cross, mean, dense_mean)


def _inputs(net: Network, state: Params, name: str, x: Tensor) -> Iterator[Float[Tensor, "g m d"]]:
    """The layer's patches, a batch and call at a time, float64."""
    found: list[Tensor] = []

    def keep(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if weight == name:
            found.append(patches(layer, inputs[0]).double())

    for part in x.split(PATCHED_SAMPLES):
        with torch.no_grad(), net.hooked(keep):
            net.logits(state, part)
        yield from found
        found.clear()


def _kept(tensor: Tensor, pruned: Pruned, name: str) -> Tensor:
    """Zero where the pattern took entries of this tensor out: whole channels take norms and biases with them."""
    return torch.where(pruned.mask[name], tensor, 0) if name in pruned.mask else tensor
