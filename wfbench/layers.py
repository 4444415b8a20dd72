"""A prunable layer as a linear map of its input patches: what layer-wise methods work on.

A weight is a matrix of `out` rows (output channels) and `d` columns (one input patch); a grouped convolution is
`groups` of them, each with patches of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from wfbench.calls import plain_calls
from wfbench.errors import WfbenchError
from wfbench.linalg import solve_kept
from wfbench.network import Network

KINDS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
OPERATIONS = {functional.linear, functional.conv1d, functional.conv2d, functional.conv3d}

PATCH_NUMBERS = 2**24
"""float64 numbers in the patches that are held at a time, where one sample has fewer."""


def as_matrices(layer: nn.Module, weight: Tensor) -> Shaped[Tensor, "g out d"]:
    """A weight as `groups` matrices, rows output channels, columns patch entries: a view, unless it is transposed."""
    groups = getattr(layer, "groups", 1)
    if getattr(layer, "transposed", False):
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2)
        return weight.reshape(groups, weight.shape[1], -1)
    return weight.reshape(groups, -1, weight[0].numel())


def from_matrices(layer: nn.Module, matrices: Shaped[Tensor, "g out d"]) -> Tensor:
    """The inverse of `as_matrices`: matrices in the shape of the layer's weight."""
    shape = layer.weight.shape
    assert isinstance(shape, torch.Size)
    if getattr(layer, "transposed", False):
        matrices = matrices.reshape(*matrices.shape[:2], -1, *shape[2:]).transpose(1, 2)
    return matrices.reshape(shape)


def patches(layer: nn.Module, x: Tensor) -> Float[Tensor, "g m d"]:
    """The rows that the layer multiplies its weight with: one a sample and output position, for every group.

    A layer with a forward pass of its own is run, to see what it multiplies.

    Raises:
        WfbenchError: its forward pass multiplies something else than its weight.
    """
    view = _windows(*_operand(layer, x))
    return view.reshape(len(view), -1, as_matrices(layer, _weight(layer)).shape[2])


def in_parts(layer: nn.Module, x: Tensor) -> Iterator[Float[Tensor, "g m d"]]:
    """The layer's patches in float64, so many samples at a time that memory is bounded."""
    numbers = _windows(*_operand(layer, x[:1])).numel()
    for part in x.split(max(1, PATCH_NUMBERS // max(1, numbers))):
        yield patches(layer, part.double())


def sums_of_squares(layer: nn.Module, x: Tensor) -> tuple[Float[Tensor, "g d"], int]:
    """Of each entry over all of the layer's patches, float64, and how many patches; they are views, never copied."""
    operand, how = _operand(layer, x.double())
    view = _windows(operand.square(), how)
    places = view.shape[1 : -1 if how is None else -1 - len(how.size)]
    return view.sum([*range(1, 1 + len(places))]).flatten(1), prod(places)


@dataclass(frozen=True)
class Windows:
    """How a convolution moves over its input; a linear layer has none.

    Args:
        sides: zeros before and after each axis, the last axis first.
        apart: how far apart a transposed convolution puts its inputs; its window is then read backwards.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    sides: list[int]
    apart: tuple[int, ...] | None = None


def _windows(x: Tensor, how: Windows | None) -> Float[Tensor, "g ..."]:
    """The entries of the patches in their order, a view of the (padded) inputs."""
    if how is None:
        return x[None]
    channels, axes = x.shape[1], len(how.size)
    if how.apart is not None:
        spread = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], how.apart, strict=True)))
        every = slice(None)
        spread[(every, every, *(slice(None, None, step) for step in how.apart))] = x
        x = spread
    x = functional.pad(x, how.sides)
    for axis, (size, stride, dilation) in enumerate(zip(how.size, how.stride, how.dilation, strict=True)):
        x = x.unfold(2 + axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    x = x.unflatten(1, (how.groups, channels // how.groups))
    places, window = range(3, 3 + axes), range(3 + axes, 3 + 2 * axes)
    x = x.permute(1, 0, *places, 2, *window)
    return x if how.apart is None else x.flip([*range(-axes, 0)])


def _operand(layer: nn.Module, x: Tensor) -> tuple[Tensor, Windows | None]:
    """What the layer multiplies its weight with, and how."""
    if not _declared(layer):
        return _seen(layer, x)
    if isinstance(layer, nn.Linear):
        return x, None
    assert isinstance(layer, nn.modules.conv._ConvNd)
    x, padding = explicit_padding(layer, x)
    how = (layer.stride, padding, layer.dilation, layer.groups)
    return x, _moves(layer, *how, layer.output_padding if layer.transposed else None)


def _moves(
    layer: nn.Module,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    output_padding: tuple[int, ...] | None,
) -> Windows:
    size = tuple(_weight(layer).shape[2:])
    if output_padding is None:
        return Windows(size, stride, dilation, groups, [side for width in reversed(padding) for side in (width, width)])
    sides = []
    for k, d, width, more in reversed([*zip(size, dilation, padding, output_padding, strict=True)]):
        sides += [d * (k - 1) - width, d * (k - 1) - width + more]
    return Windows(size, (1,) * len(size), dilation, groups, sides, stride)


def explicit_padding(layer: nn.modules.conv._ConvNd, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The layer's input and how many zeros a convolution puts around it: other paddings are put around it here."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return x, layer.padding
    sides = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(x, sides, mode=mode), (0,) * len(layer.kernel_size)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def _declared(layer: nn.Module) -> bool:
    """Whether the layer does what torch's own layer of its kind does."""
    own = type(layer)
    return "forward" not in vars(layer) and any(
        own.forward is kind.forward and getattr(own, "_conv_forward", None) is getattr(kind, "_conv_forward", None)
        for kind in KINDS
    )


class _Watch(TorchFunctionMode):
    """Keeps what a weight is multiplied with."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.found = weight, list[tuple[Tensor, Any, Tensor]]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in OPERATIONS:
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
            if given["weight"] is self.weight:
                self.found.append((given["input"], given, out))
        return out


def _seen(layer: nn.Module, x: Tensor) -> tuple[Tensor, Windows | None]:
    """The same of a layer with a forward pass of its own, by running it."""
    weight = _weight(layer)
    with torch.no_grad(), _Watch(weight) as watch:
        out = layer.forward(x.to(weight.dtype))
    if len(watch.found) != 1 or watch.found[0][2] is not out:
        raise WfbenchError(f"the forward pass of a {type(layer).__name__} is not one product with its weight as it is")
    read, given, _ = watch.found[0]
    read = read.to(x.dtype)
    if weight.ndim == 2:
        return read, None
    axes, padding = weight.ndim - 2, given.get("padding", 0)
    dilation = _each(given.get("dilation", 1), axes)
    if isinstance(padding, str):
        whole = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        read = functional.pad(read, [side for n in reversed(whole) for side in (n // 2, n - n // 2)])
        padding = 0
    how = (_each(given.get("stride", 1), axes), _each(padding, axes), dilation, given.get("groups", 1))
    return read, _moves(layer, *how, None)


def _each(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value) * (axes // len(value))


def check_patches(net: Network, x: Shaped[Tensor, "n *input"]) -> None:
    """Hold every layer's patches times its weight against its output, on one sample, once a network.

    Raises:
        WfbenchError: they differ, or a weight is used elsewhere than in its layer's own call; the layer's name and why.
    """
    net.memo.take("patches", lambda: _check(net, x[:1]))


def _check(net: Network, x: Shaped[Tensor, "1 *input"]) -> None:
    def keep(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if net.names.get(weight) in net.weights and (why := _unlike(layer, inputs[0], output)):
            raise WfbenchError(
                f"what layer {_layer(weight)} multiplies is not known ({why}), so no layer-wise method can prune or "
                "repair it; take a method that reads gradients"
            )

    with torch.no_grad(), net.hooked(keep) as module:
        module(x.to(net.device))
    if elsewhere := _used_elsewhere(net, x.to(net.device)):
        names, more = ", ".join(map(_layer, elsewhere[:3])), len(elsewhere[3:])
        raise WfbenchError(
            f"the weight of layer {names}{f' and {more} more' if more else ''} is used outside of the layer's own "
            "call, through a function or under another name, where no layer-wise method sees what it multiplies; call "
            "the layer as a module, or take a method that reads gradients"
        )


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]


def _unlike(layer: nn.Module, x: Tensor, output: Tensor) -> str:
    """Why the layer's output is not the product of patches and weight; empty where it is, to rounding errors."""
    try:
        rows, matrices = patches(layer, x.double()), as_matrices(layer, _weight(layer)).double()
        groups = len(matrices)
        last = output if isinstance(layer, nn.Linear) else output.movedim(1, -1)
        expected = last.double().unflatten(-1, (groups, -1)).movedim(-2, 0).reshape(groups, -1, matrices.shape[1])
        if isinstance(layer.bias, Tensor):
            expected = expected - layer.bias.double().reshape(groups, 1, -1)
        off = float((rows @ matrices.mT - expected).abs().max())
        scale = float((rows.abs() @ matrices.abs().mT).max()) + float(last.abs().max())
    except WfbenchError as error:
        return str(error)
    except (RuntimeError, ValueError, IndexError) as error:
        return f"a {type(layer).__name__} of its own kind ({str(error).splitlines()[0]})"
    if off > torch.finfo(output.dtype).eps ** 0.5 * scale:
        return f"a {type(layer).__name__} whose output is not its patches times its weight"
    return ""


def _used_elsewhere(net: Network, x: Shaped[Tensor, "1 *input"]) -> list[str]:
    """Names of the weights that reach the logits on other ways than through their layers' own calls."""
    module = net.module()
    weights = {name: module.get_parameter(name) for name in net.weights if not net.read_elsewhere(name)}

    def cut(layer: nn.Module, inputs: object) -> None:
        layer._parameters["weight"] = layer.weight.detach()  # type: ignore[assignment, operator]

    def join(layer: nn.Module, inputs: object, output: object, *, weight: nn.Parameter) -> None:
        layer._parameters["weight"] = weight

    for name, weight in weights.items():
        weight.requires_grad_()
        for layer in map(module.get_submodule, net.sharing(name)):
            layer.register_forward_pre_hook(cut)
            layer.register_forward_hook(partial(join, weight=weight))
    with torch.enable_grad(), plain_calls(module):
        logits = module(x)
    if not logits.requires_grad:
        return []
    found = torch.autograd.grad(logits.sum(), list(weights.values()), allow_unused=True)
    return [name for name, gradient in zip(weights, found, strict=True) if gradient is not None]


def least_squares(net: Network, name: str, mask: Tensor, hessians: Float[Tensor, "g d d"]) -> Tensor:
    """The kept weights of every output row that minimise `(w − ŵ) H (w − ŵ)ᵀ`; rows that lose nothing stay as they are.

    Args:
        name: of the prunable weight ŵ.
        mask: True = kept, in the weight's shape, as is the result (float64).
        hessians: positive definite, a matrix a group.
    """
    dense = as_matrices(net.layer_of(name), net.weights[name]).double()
    kept = as_matrices(net.layer_of(name), mask)
    solved = solve_kept(hessians, dense @ hessians, kept)
    return from_matrices(net.layer_of(name), torch.where(kept.all(2, keepdim=True), dense, solved))
