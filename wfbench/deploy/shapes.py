"""The shapes that decide what a network costs: what every part reads, writes and multiplies for one sample."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from wfbench.calls import plain_calls
from wfbench.curvature.per_sample import TILE
from wfbench.layers import as_matrices
from wfbench.modules import PRUNABLE
from wfbench.network import Network, at_a_time, tensor_name


@dataclass(frozen=True)
class Part:
    """One call of a prunable layer, or of a module that has no others in it, on one sample.

    Args:
        weight: numbers in its weight.
        macs: multiply-accumulates.
        read, written: numbers.
        first: it reads what the network reads, whose gradient nobody needs.
        matrices: groups, rows and columns of a prunable weight as matrices that multiply patches.
        places: patches.
    """

    name: str
    prunable: bool
    linear: bool
    weight: int
    macs: int
    read: int
    written: int
    first: bool
    matrices: tuple[int, int, int] = (0, 0, 0)
    places: int = 0


@dataclass(frozen=True)
class Shapes:
    """A network's parts in the order of their calls, and its numbers of prunable weights p and of outputs."""

    parts: tuple[Part, ...]
    p: int
    outputs: int

    @cached_property
    def macs(self) -> int:
        return sum(part.macs for part in self.parts)

    @cached_property
    def activations(self) -> int:
        """Numbers that one sample's pass reads and writes."""
        return sum(part.read + part.written for part in self.parts)

    @cached_property
    def kept(self) -> int:
        """Numbers of one sample that a pass keeps for its way back."""
        return sum(part.read for part in self.parts)

    @cached_property
    def weights(self) -> int:
        return sum(part.weight for part in self.parts)

    @property
    def tile(self) -> int:
        """Samples a pass for rows."""
        return at_a_time(TILE, (self.outputs,))


def shapes_of(net: Network, x: Shaped[Tensor, "1 *input"]) -> Shapes:
    """By one pass of one sample."""
    module, parts = net.module(), list[Part]()

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not inputs or not isinstance(output, Tensor) or isinstance(layer, (nn.Identity, nn.Flatten, nn.Dropout)):
            return
        weight = tensor_name(name, "weight")
        known = net.names.get(weight, "")
        size = sum(tensor.numel() for tensor in layer.parameters(recurse=False))
        read, written = inputs[0].numel(), output.numel()
        prunable = known in net.weights and isinstance(layer, PRUNABLE)
        if not prunable:
            parts.append(Part(name, False, False, size, 0, read, written, not parts))
            return
        groups, rows, d = as_matrices(layer, net.weights[known]).shape
        through = read if getattr(layer, "transposed", False) else written
        places = through // net.weights[known].shape[0]
        macs = places * net.weights[known].numel()
        linear, matrices = isinstance(layer, nn.Linear), (groups, rows, d)
        parts.append(Part(name, True, linear, size, macs, read, written, not parts, matrices, places))

    for name, layer in module.named_modules():
        if isinstance(layer, PRUNABLE) or not any(layer.children()):
            layer.register_forward_hook(lambda layer, inputs, output, name=name: note(name, layer, inputs, output))
    with torch.no_grad(), plain_calls(module):
        (outputs,) = module(x.to(net.device))
    return Shapes(tuple(parts), sum(tensor.numel() for tensor in net.weights.values()), outputs.numel())
