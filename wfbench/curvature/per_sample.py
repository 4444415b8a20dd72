"""Per-sample gradients of a network's outputs, without a Python loop over samples.

One forward pass records every layer's input; one backward pass per cotangent gives every layer's output gradient; a
grouped convolution (one group a sample) turns the two into per-sample weight gradients. Weights themselves ask for no
gradient, so the pass costs about what a plain batched one does.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wfbench.errors import WfbenchError
from wfbench.network import Network, bias_of

TILE = 32
"""Samples a pass, the last one filled up with zeros: a sample's row is the same bits in every budget."""


def per_sample_gradients(
    net: Network,
    x: Float[Tensor, "t *input"],
    cotangents: Callable[[Float[Tensor, "t c"]], Float[Tensor, "t m c"]],
    coordinates: dict[str, Tensor],
    out: Float[Tensor, "t m p"],
) -> None:
    """Write `JᵢᵀC` for every sample i and each of its m cotangents into `out`; t ≤ 32.

    Args:
        cotangents: from float64 logits `[t, c]` to the m vectors a sample that are pulled back.
        coordinates: the parameters to differentiate by, in column order.
    """
    t, m, _ = out.shape
    filled = torch.cat([x, x.new_zeros((TILE - t, *x.shape[1:]))]).to(net.device)
    sizes = {name: tensor.numel() for name, tensor in coordinates.items()}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    anchors: list[Tensor] = []
    current, written = 0, set[tuple[int, str]]()

    def slot(name: str) -> Tensor:
        return out[:, current, starts[name] : starts[name] + sizes[name]]

    def store(name: str, gradient: Tensor) -> None:
        part = gradient[:t].reshape(t, -1)
        slot(name).add_(part) if (current, name) in written else slot(name).copy_(part)
        written.add((current, name))

    def record(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        names = {"weight": weight, "bias": bias_of(weight)}
        wanted = {key: full for key, full in names.items() if full in sizes}
        if not wanted:
            return None
        layer_input, version = inputs[0].detach(), inputs[0]._version
        replaced = None
        if not output.requires_grad:
            anchors.append(output.requires_grad_())
            output = replaced = output.clone()

        def backward(gradient: Tensor) -> None:
            if inputs[0]._version != version:
                raise WfbenchError(
                    f"the input of layer {_layer(weight)} is changed in place; make that operation out-of-place"
                )
            for key, full in wanted.items():
                store(full, _layer_gradient(layer, key, _layer(weight), layer_input, gradient))

        output.register_hook(backward)
        return replaced

    with torch.enable_grad(), net.hooked(record) as module:
        logits = module(filled)
        if not anchors:
            raise WfbenchError("no prunable layer is called as a module in the forward pass")
        padded = torch.zeros((m, *logits.shape), dtype=logits.dtype, device=logits.device)
        padded[:, :t] = cotangents(logits[:t].detach().double()).transpose(0, 1).to(logits.dtype)
        for current in range(m):
            torch.autograd.grad([logits], anchors, [padded[current]], retain_graph=current < m - 1, allow_unused=True)
            for name in sizes:  # layers that the logits do not depend on
                if (current, name) not in written:
                    slot(name).zero_()


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]


def _layer_gradient(layer: nn.Module, key: str, name: str, a: Tensor, g: Tensor) -> Tensor:
    """Per-sample gradient `[t, ...]` of one layer's weight or bias from its input `a` and output gradient `g`."""
    t = len(a)
    if isinstance(layer, nn.Linear):
        a, g = a.reshape(t, -1, a.shape[-1]), g.reshape(t, -1, g.shape[-1])
        return g.mT @ a if key == "weight" else g.sum(1)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return _conv_weight(layer, name, a, g) if key == "weight" else g.flatten(2).sum(2)
    normalised = _normalised(layer, name, a)
    product = g * normalised if key == "weight" else g
    if isinstance(layer, nn.LayerNorm):
        return product.reshape(t, -1, *layer.normalized_shape).sum(1)
    return product.reshape(t, product.shape[1], -1).sum(2)


def _conv_weight(layer: nn.modules.conv._ConvNd, name: str, a: Tensor, g: Tensor) -> Tensor:
    """One convolution backward with a group a sample."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or layer.transposed:
        raise WfbenchError(f"layer {name}: transposed convolutions and padding other than zeros are not supported")
    t = len(a)
    weight = layer.weight.expand(t, *layer.weight.shape).flatten(0, 1)
    found: Tensor = torch.ops.aten.convolution_backward(
        g.reshape(1, -1, *g.shape[2:]),
        a.reshape(1, -1, *a.shape[2:]),
        weight,
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        False,
        [0],
        layer.groups * t,
        [False, True, False],
    )[1]
    return found.reshape(t, -1)


def _normalised(layer: nn.Module, name: str, a: Tensor) -> Tensor:
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        if layer.running_mean is None or layer.running_var is None:
            raise WfbenchError(f"layer {name} keeps no running statistics, so samples are not independent")
        return functional.batch_norm(a, layer.running_mean, layer.running_var, eps=layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return functional.group_norm(a, layer.num_groups, eps=layer.eps)
    assert isinstance(layer, nn.LayerNorm)
    return functional.layer_norm(a, layer.normalized_shape, eps=layer.eps)
