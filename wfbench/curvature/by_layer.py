"""Per-sample gradients by the layers' hooks: what a layer reads and the gradient of its output give its rows.

One forward pass records every layer's input; one backward pass per cotangent gives every layer's output gradient; a
grouped convolution (one group a sample) turns the two into per-sample weight gradients. Weights themselves ask for no
gradient, so the pass costs about what a plain batched one does.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from wfbench.curvature.memory import touched
from wfbench.curvature.passes import ChangedInPlace, kept_within_bound
from wfbench.errors import WfbenchError
from wfbench.layers import explicit_padding
from wfbench.network import Network, bias_of


def by_layer(
    net: Network,
    x: Shaped[Tensor, "n *input"],
    cotangents: Callable[[Float[Tensor, "n c *places"]], Float[Tensor, "m n c *places"]],
    places: Mapping[str, slice],
    out: Float[Tensor, "t m p"],
) -> set[str]:
    """Write `JᵢᵀC` for the first t samples and each of their m cotangents into the named columns of `out`.

    Args:
        cotangents: from the logits to the m vectors a sample that are pulled back.
        places: the parameters to differentiate by, and their columns.

    Returns:
        the names whose layers do not read and write one entry a sample, so that nothing could be said of them.
    """
    t, m, _ = out.shape
    anchors: list[Tensor] = []
    current, written, unseen = 0, set[tuple[int, str]](), set[str]()

    def store(name: str, gradient: Tensor) -> None:
        part, slot = gradient[:t].reshape(t, -1), out[:, current, places[name]]
        slot.add_(part) if (current, name) in written else slot.copy_(part)
        written.add((current, name))
        touched(out, slot.nbytes)

    def record(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        names = {"weight": weight, "bias": bias_of(weight)}
        wanted = {key: full for key, full in names.items() if full in places}
        if not wanted:
            return None
        if {len(inputs[0]), len(output)} != {len(x)}:
            unseen.update(wanted.values())
            return None
        read = put_by(inputs[0])
        replaced = None
        if not output.requires_grad:
            anchors.append(output.requires_grad_())
            output = replaced = output.clone()
        if not output.requires_grad:  # under no_grad
            return replaced

        def backward(gradient: Tensor) -> None:
            try:
                layer_input = read()
            except ChangedInPlace as error:
                raise WfbenchError(
                    f"the input of layer {_layer(weight)} is changed in place; make that operation out-of-place"
                ) from error
            for key, full in wanted.items():
                try:
                    store(full, _layer_gradient(layer, key, _layer(weight), layer_input, gradient))
                except RuntimeError:  # of shapes: the layer is not what it declares
                    unseen.add(full)

        output.register_hook(backward)
        return replaced

    with torch.enable_grad(), kept_within_bound(net) as put_by, net.hooked(record) as module:
        logits = module(x)
        pulled = cotangents(logits)
        for current in range(m):
            if anchors and logits.requires_grad:
                keep = current < m - 1
                torch.autograd.grad([logits], anchors, [pulled[current]], retain_graph=keep, allow_unused=True)
            for name, columns in places.items():  # layers that the logits do not depend on
                if (current, name) not in written:
                    out[:, current, columns].zero_()
    return unseen


def _layer(weight: str) -> str:
    return weight.rpartition(".")[0]


def _layer_gradient(layer: nn.Module, key: str, name: str, a: Tensor, g: Tensor) -> Tensor:
    """Per-sample gradient `[t, ...]` of one layer's weight or bias from its input `a` and output gradient `g`."""
    t = len(a)
    if isinstance(layer, nn.Linear):
        a, g = a.reshape(t, -1, a.shape[-1]), g.reshape(t, -1, g.shape[-1])
        return g.mT @ a if key == "weight" else g.sum(1)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return _conv_weight(layer, a, g) if key == "weight" else g.flatten(2).sum(2)
    normalised = _normalised(layer, name, a)
    product = g * normalised if key == "weight" else g
    if isinstance(layer, nn.LayerNorm):
        return product.reshape(t, -1, *layer.normalized_shape).sum(1)
    return product.reshape(t, product.shape[1], -1).sum(2)


def _conv_weight(layer: nn.modules.conv._ConvNd, a: Tensor, g: Tensor) -> Tensor:
    """One convolution backward with a group a sample; of the weights only their shape is read."""
    t = len(a)
    a, padding = explicit_padding(layer, a)
    weight = layer.weight.new_empty((t * len(layer.weight), *layer.weight.shape[1:]))
    found: Tensor = torch.ops.aten.convolution_backward(
        g.reshape(1, -1, *g.shape[2:]),
        a.reshape(1, -1, *a.shape[2:]),
        weight,
        None,
        layer.stride,
        padding,
        layer.dilation,
        layer.transposed,
        layer.output_padding if layer.transposed else [0],
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
