"""Convolutions that pad inside their own forward pass, made into a padding and a plain convolution."""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn


def with_explicit_padding(module: nn.Module, x: Float[Tensor, "n *input"]) -> nn.Module:
    """The network with every convolution that pads as TensorFlow's "same" does, of its own accord, replaced.

    What a layer that is declared so multiplies is known without running it, as one that pads on its own has to be for
    layer-wise methods. Where both sides get as much it becomes a plain convolution that says so, else a `ZeroPad2d` and
    one without padding. The padding is that of inputs of the size of `x`.

    Args:
        module: changed in place, in eval mode.
        x: a batch of inputs.
    """
    own = {
        name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d) and _pads_itself(layer)
    }
    if not own:
        return module
    sizes: dict[str, torch.Size] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: sizes.update({name: inputs[0].shape[2:]}))
        for name, layer in own.items()
    ]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    for name, size in sizes.items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, _explicit(own[name], size))
    return module


def _pads_itself(layer: nn.Conv2d) -> bool:
    return type(layer).__name__ in ("Conv2dStaticSamePadding", "Conv2dDynamicSamePadding", "Conv2dSame")


def _explicit(layer: nn.Conv2d, size: torch.Size) -> nn.Module:
    """The same map with the padding said: `ceil(size / stride)` places, the odd zero below and to the right."""
    sides = []
    for length, kernel, stride, dilation in zip(size, layer.kernel_size, layer.stride, layer.dilation, strict=True):
        whole = max((-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length, 0)
        sides.append((whole // 2, whole - whole // 2))
    even = all(first == last for first, last in sides)
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        tuple(layer.stride),  # type: ignore[arg-type]
        tuple(first for first, _ in sides) if even else 0,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        layer.groups,
        layer.bias is not None,
    )
    plain.load_state_dict(layer.state_dict())
    plain.train(layer.training)
    if even:
        return plain
    (top, bottom), (left, right) = sides
    return nn.Sequential(OrderedDict(pad=nn.ZeroPad2d((left, right, top, bottom)), conv=plain))
