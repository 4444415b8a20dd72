"""Scale and bias of every channel brought back to the dense network's mean and variance."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wfbench.data import Unlabeled
from wfbench.layers import PATCHED_SAMPLES
from wfbench.network import NORMS, Network, Params, bias_of
from wfbench.pruned import Pruned
from wfbench.recoveries.base import Recovery
from wfbench.recoveries.repair import _kept


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

    for part in x.split(PATCHED_SAMPLES):
        with torch.no_grad(), net.hooked(hook):
            net.logits(state, part)
