"""The shapes that decide what a network costs: what every part reads, writes and multiplies for one sample."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
    """A network's parts in the order of their calls, and its numbers of prunable weights p and of outputs.

    Args:
        between: numbers of one sample that operations outside of these parts read and write, such as sums of branches.
        input: the shape of one sample.
        tokens: samples are whole numbers.
    """

    parts: tuple[Part, ...]
    p: int
    outputs: int
    between: int = 0
    input: tuple[int, ...] = ()
    tokens: bool = False

    @cached_property
    def macs(self) -> int:
        return sum(part.macs for part in self.parts)

    @cached_property
    def activations(self) -> int:
        """Numbers that one sample's pass reads and writes."""
        return self.between + sum(part.read + part.written for part in self.parts)

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


class _Between(TorchDispatchMode):
    """Counts what is read and written while no part runs."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = self.inside = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.inside and not func.is_view:
            self.numbers += sum(one.numel() for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor))
        return out


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

    between = _Between()

    def enter(layer: nn.Module, inputs: Any) -> None:
        between.inside += 1

    def leave(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        between.inside -= 1
        note(name, layer, inputs, output)

    for name, layer in module.named_modules():
        if isinstance(layer, PRUNABLE) or not any(layer.children()):
            layer.register_forward_pre_hook(enter)
            layer.register_forward_hook(partial(leave, name))
    x = x.to(net.device)
    with torch.no_grad(), plain_calls(module), between:
        (outputs,) = module(x)
    p = sum(tensor.numel() for tensor in net.weights.values())
    return Shapes(tuple(parts), p, outputs.numel(), between.numbers, tuple(x.shape[1:]), not x.is_floating_point())
