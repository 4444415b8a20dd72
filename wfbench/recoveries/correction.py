"""Scale and bias of every channel brought back to the dense network's mean and variance."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from wfbench.data import Unlabeled
from wfbench.errors import WfbenchError
from wfbench.layers import as_matrices, check_patches, from_matrices
from wfbench.memo import digest_of
from wfbench.network import NORMS, Network, Params
from wfbench.pruned import Pruned
from wfbench.recoveries.base import Recovery
from wfbench.recoveries.repair import _kept
from wfbench.walk import walk


@dataclass(frozen=True)
class ScaleAndBias(Recovery[Unlabeled]):
    """Each output channel scaled and shifted so that its mean and variance are the dense network's.

    For every layer with a bias (norm layers, and convolution or linear layers that no norm follows), in the order of
    their calls, on what the corrected layers before it give. Only scales and biases change. Data: inputs alone.
    """

    name: ClassVar[str] = "correction"

    def apply(self, net: Network, pruned: Pruned, data: Unlabeled) -> Pruned:
        check_patches(net, data.inputs)
        state = dict(pruned.state)
        movable = [name for name in _with_bias(net) if name in state]
        key = ("statistics", *movable, digest_of(data.inputs))
        wanted = net.memo.take_large(key, lambda: _dense(net, data.inputs, movable))
        for weight, (now,) in walk(net, data.inputs, movable, state):
            layer, bias = net.layer_of(weight), net.bias_of(weight)
            assert bias is not None
            mean, deviation = _statistics(layer, _own(net, layer, weight, state), now)
            wanted_mean, wanted_deviation = wanted[weight]
            scale = torch.where(deviation > 1e-6 * wanted_deviation, wanted_deviation / deviation, 1.0)
            old, shift = state[weight], state[bias]
            state[weight] = _kept(_scaled(layer, old.double(), scale).to(old.dtype), pruned, weight)
            state[bias] = _kept(((shift.double() - mean) * scale + wanted_mean).to(shift.dtype), pruned, bias)
        return replace(pruned, state=state)


def _with_bias(net: Network) -> list[str]:
    """Names of the weights and scales that have a bias beside them, and that nothing but layers reads."""
    return [name for name in net.movable if net.bias_of(name) and not net.read_elsewhere(name)]


def _dense(net: Network, x: Shaped[Tensor, "n *input"], names: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """The statistics of every layer of the dense network."""
    return {name: _statistics(net.layer_of(name), {}, inputs) for name, (inputs,) in walk(net, x, names, {})}


def _own(net: Network, layer: nn.Module, weight: str, state: Params) -> Params:
    """The layer's own tensors in a state of the network, buffers too, by the names that the layer has for them."""
    prefix = weight.removesuffix("weight")
    return {key: state[net.names[prefix + key]] for key in layer.state_dict()}


def _scaled(layer: nn.Module, weight: Tensor, scale: Float[Tensor, " c"]) -> Tensor:
    if isinstance(layer, NORMS):
        return weight * scale
    matrices = as_matrices(layer, weight)
    return from_matrices(layer, matrices * scale.reshape(len(matrices), -1, 1))


def _axis(layer: nn.Module, x: Tensor) -> int:
    """Where the layer's output has its channels: along this axis it is its bias, where its weight is zero."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    if bias.ndim > 1:
        raise WfbenchError(f"{type(layer).__name__} has a bias over {bias.ndim} axes; correction needs one a channel")
    marks = torch.arange(1, len(bias) + 1).to(bias)
    found = functional_call(layer, {"weight": torch.zeros_like(weight), "bias": marks}, (x,))
    for axis in reversed(range(1, found.ndim)):
        if found.shape[axis] == len(marks) and bool((found.movedim(axis, -1) == marks).all()):
            return axis
    raise WfbenchError(f"the output of {type(layer).__name__} has no axis of its {len(marks)} channels")


def _statistics(
    layer: nn.Module, tensors: Params, inputs: list[Tensor]
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and standard deviation of the layer's output by channel, over samples and places, float64.

    Args:
        tensors: of the layer, in place of the dense ones.
    """
    with torch.no_grad():
        outputs = [functional_call(layer, tensors, (x,)) for x in inputs]
        axis = _axis(layer, inputs[0][:1])
    found = torch.cat([y.movedim(axis, -1).reshape(-1, y.shape[axis]) for y in outputs]).double()
    mean = found.mean(0)
    return mean, found.sub_(mean).square_().mean(0).sqrt()  # with torch's own `std` it all takes half as long again
