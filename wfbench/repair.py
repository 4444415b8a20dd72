"""Recoveries in closed form, layer after layer, from the pruned network's inputs to the dense network's outputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wfbench.data import Unlabeled
from wfbench.layers import SAMPLES, as_matrices, call_order, damped, patches, solve_kept
from wfbench.network import NORMS, Network, Params, bias_of
from wfbench.pruned import Pruned
from wfbench.recovery import Recovery

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
    damping: float = 0.01

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

    for part in x.split(SAMPLES):
        with torch.no_grad(), net.hooked(keep):
            net.logits(state, part)
        yield from found
        found.clear()


@dataclass(frozen=True)
class ScaleAndBias(Recovery[Unlabeled]):
    """Each output channel scaled and shifted so that its mean and variance are the dense network's.

    For every layer with a bias (norm layers, and convolution or linear layers that no norm follows), in the order of
    their calls, on what the corrected layers before it give. Only scales and biases change. Data: inputs alone.
    """

    name: ClassVar[str] = "correction"

    def apply(self, net: Network, pruned: Pruned, data: Unlabeled) -> Pruned:
        state = dict(pruned.state)
        for weight, layer in _called(net, data.inputs[:1]):
            bias = bias_of(weight)
            if bias not in state or weight not in state:
                continue
            mean, deviation = _statistics(net, state, weight, data.inputs)
            wanted_mean, wanted_deviation = _statistics(net, {}, weight, data.inputs)
            scale = torch.where(deviation > 1e-6 * wanted_deviation, wanted_deviation / deviation, 1.0)
            old, shift = state[weight], state[bias]
            columns = scale if isinstance(layer, NORMS) else scale.reshape(-1, *[1] * (old.ndim - 1))
            state[weight] = _kept((old.double() * columns).to(old.dtype), pruned, weight)
            state[bias] = _kept(((shift.double() - mean) * scale + wanted_mean).to(shift.dtype), pruned, bias)
        return replace(pruned, state=state)


def _kept(tensor: Tensor, pruned: Pruned, name: str) -> Tensor:
    """Zero where the pattern took entries of this tensor out: whole channels take norms and biases with them."""
    return torch.where(pruned.mask[name], tensor, 0) if name in pruned.mask else tensor


def _called(net: Network, x: Tensor) -> list[tuple[str, nn.Module]]:
    """Prunable and norm layers in the order of their first calls."""
    order: dict[str, nn.Module] = {}
    _watch(net, {}, x, lambda name, layer, output: order.setdefault(name, layer))
    return list(order.items())


def _statistics(net: Network, state: Params, name: str, x: Tensor) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and standard deviation of the layer's output by channel, over samples and places, float64."""
    outputs: list[Tensor] = []

    def keep(at: str, layer: nn.Module, output: Tensor) -> None:
        if at == name:
            last = isinstance(layer, (nn.Linear, nn.LayerNorm))
            outputs.append((output if last else output.movedim(1, -1)).reshape(-1, output.shape[-1 if last else 1]))

    _watch(net, state, x, keep)
    found = torch.cat(outputs).double()
    return found.mean(0), found.std(0, correction=0)


def _watch(net: Network, state: Params, x: Tensor, see: Callable[[str, nn.Module, Tensor], object]) -> None:
    def hook(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        see(name, layer, output.detach())

    for part in x.split(SAMPLES):
        with torch.no_grad(), net.hooked(hook):
            net.logits(state, part)
