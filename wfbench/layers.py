"""A prunable layer as a linear map of its input patches: what layer-wise methods work on.

A weight is a matrix of `out` rows (output channels) and `d` columns (one input patch); a grouped convolution is
`groups` of them, each with patches of its own.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from wfbench.errors import WfbenchError
from wfbench.linalg import cholesky
from wfbench.network import Network, Params
from wfbench.sparsity import Target

PATCHED_SAMPLES = 32
"""Samples whose patches are held at a time."""

SYSTEM_NUMBERS = 2**21
"""float64 numbers in the systems that are solved at a time."""

Change: TypeAlias = Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]


def as_matrices(layer: nn.Module, weight: Tensor) -> Float[Tensor, "g out d"]:
    """A view of a weight as `groups` matrices, rows output channels, columns patch entries."""
    return weight.reshape(getattr(layer, "groups", 1), -1, weight[0].numel())


def patches(layer: nn.Module, x: Tensor) -> Float[Tensor, "g m d"]:
    """The rows that the layer multiplies its weight with: one a sample and output position, for every group.

    Raises:
        WfbenchError: transposed convolutions, and padding other than zeros.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    assert isinstance(layer, nn.modules.conv._ConvNd)
    if layer.transposed or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise WfbenchError("transposed convolutions and padding other than zeros have no patches here")
    channels = x.shape[1]
    x = functional.pad(x, [side for width in reversed(layer.padding) for side in (width, width)])
    for axis, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        x = x.unfold(2 + axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    axes = len(layer.kernel_size)
    x = x.unflatten(1, (layer.groups, channels // layer.groups))
    places, window = range(3, 3 + axes), range(3 + axes, 3 + 2 * axes)
    return x.permute(1, 0, *places, 2, *window).reshape(layer.groups, -1, layer.weight[0].numel())


def second_moments(
    net: Network, x: Float[Tensor, "n *input"], weights: Params | None = None, only: str | None = None
) -> dict[str, Float[Tensor, "g d d"]]:
    """`XᵀX/m` of the m input patches of every prunable layer, float64, by weight name.

    The Hessian of half the mean squared change of the layer's output. Zero for layers that are not called.

    Args:
        weights: in place of the dense ones.
        only: the one layer to look at, by its weight's name.
    """
    names = list(net.weights) if only is None else [only]
    found = {name: _zeros(net, name) for name in names}
    counts = dict.fromkeys(names, 0)

    def keep(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if weight in found:
            rows = patches(layer, inputs[0]).double()
            found[weight] += rows.mT @ rows
            counts[weight] += rows.shape[1]

    with torch.no_grad(), net.hooked(keep):
        for part in x.split(PATCHED_SAMPLES):
            net.logits(weights or {}, part)
    return {name: total / max(1, counts[name]) for name, total in found.items()}


def damped(moment: Float[Tensor, "g d d"], share: float) -> Float[Tensor, "g d d"]:
    """`H + αI` with α the given share of the group's mean diagonal; the identity for a group without any input."""
    mean = moment.diagonal(dim1=1, dim2=2).mean(1)
    alpha = torch.where(mean > 0, share * mean, 1.0)
    eye = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
    return moment + alpha[:, None, None] * eye


def only_layer_scope(method: str, target: Target) -> None:
    """Raise WfbenchError unless every layer is to reach the target by itself."""
    if target.scope != "layer":
        raise WfbenchError(f'{method} chooses within a layer; ask for a Target with scope="layer"')


def one_by_one(net: Network, x: Float[Tensor, "n *input"], change: Change) -> tuple[Params, Params]:
    """Prune layer after layer, in the order of their calls, each on what the pruned layers before it give.

    Args:
        change: `(name, W [g out d], XᵀX/m [g d d])`, both float64, to the new matrices and their mask (True = kept).

    Returns:
        weights and masks of every prunable weight, in the weights' shapes; layers that are never called see zeros.
    """
    weights: Params = dict(net.weights)
    masks: Params = {}
    for name in call_order(net, x[:1]):
        dense = net.weights[name]
        moment = second_moments(net, x, weights, only=name)[name]
        new, mask = change(name, as_matrices(net.layer_of(name), dense).double(), moment)
        masks[name] = mask.reshape(dense.shape)
        weights[name] = torch.where(masks[name], new.reshape(dense.shape), 0).to(dense.dtype)
    return weights, {name: masks[name] for name in net.weights}


def call_order(net: Network, x: Float[Tensor, "n *input"]) -> list[str]:
    """Names of the prunable weights in the order of their layers' first calls; those never called come last."""
    order: dict[str, None] = {}
    with torch.no_grad(), net.hooked(lambda weight, *_: order.setdefault(weight)) as module:
        module(x.to(net.device))
    called = [name for name in order if name in net.weights]
    return called + [name for name in net.weights if name not in order]


def solve_kept(
    system: Float[Tensor, "d d"], right: Float[Tensor, "rows d"], kept: Bool[Tensor, "rows d"]
) -> Float[Tensor, "rows d"]:
    """For every row the solution of `A_KK z_K = r_K` on its own kept entries K, zero elsewhere; A positive definite."""
    found = torch.zeros_like(right)
    size = max(1, SYSTEM_NUMBERS // system.numel())
    for start in range(0, len(right), size):
        part, mask = right[start : start + size], kept[start : start + size]
        both = mask[:, :, None] & mask[:, None, :]
        systems = torch.where(both, system, 0) + torch.diag_embed((~mask).to(system.dtype))
        lower = cholesky(systems)
        found[start : start + size] = torch.cholesky_solve(torch.where(mask, part, 0)[..., None], lower)[..., 0]
    return found


def least_squares(net: Network, name: str, mask: Tensor, hessians: Float[Tensor, "g d d"]) -> Tensor:
    """The kept weights of every output row that minimise `(w − ŵ) H (w − ŵ)ᵀ`; rows that lose nothing stay as they are.

    Args:
        name: of the prunable weight ŵ.
        mask: True = kept, in the weight's shape, as is the result (float64).
        hessians: positive definite, a matrix a group.
    """
    dense = as_matrices(net.layer_of(name), net.weights[name]).double()
    kept = mask.reshape(dense.shape)
    solved = torch.stack([solve_kept(h, w @ h, k) for h, w, k in zip(hessians, dense, kept, strict=True)])
    return torch.where(kept.all(2, keepdim=True), dense, solved).reshape(mask.shape)


def _zeros(net: Network, name: str) -> Float[Tensor, "g d d"]:
    layer, weight = net.layer_of(name), net.weights[name]
    groups, d = getattr(layer, "groups", 1), weight[0].numel()
    return torch.zeros((groups, d, d), dtype=torch.float64, device=weight.device)
