"""A prunable layer as a linear map of its input patches: what layer-wise methods work on.

A weight is a matrix of `out` rows (output channels) and `d` columns (one input patch); a grouped convolution is
`groups` of them, each with patches of its own.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wfbench.errors import WfbenchError
from wfbench.linalg import cholesky
from wfbench.network import Network
from wfbench.sparsity import Target

PATCH_NUMBERS = 2**24
"""float64 numbers in the patches that are held at a time, where one sample has fewer."""

SYSTEM_NUMBERS = 2**21
"""float64 numbers in the systems that are solved at a time."""


def as_matrices(layer: nn.Module, weight: Tensor) -> Float[Tensor, "g out d"]:
    """A view of a weight as `groups` matrices, rows output channels, columns patch entries."""
    return weight.reshape(getattr(layer, "groups", 1), -1, weight[0].numel())


def patches(layer: nn.Module, x: Tensor) -> Float[Tensor, "g m d"]:
    """The rows that the layer multiplies its weight with: one a sample and output position, for every group.

    Raises:
        WfbenchError: transposed convolutions, and padding other than zeros.
    """
    view, weight = _windows(layer, x), layer.weight
    assert isinstance(weight, Tensor)
    return view.reshape(len(view), -1, weight[0].numel())


def in_parts(layer: nn.Module, x: Tensor) -> Iterator[Float[Tensor, "g m d"]]:
    """The layer's patches in float64, so many samples at a time that memory is bounded."""
    numbers = _windows(layer, x[:1]).numel()
    for part in x.split(max(1, PATCH_NUMBERS // max(1, numbers))):
        yield patches(layer, part.double())


def _windows(layer: nn.Module, x: Tensor) -> Float[Tensor, "g ..."]:
    """The entries of the patches in their order, a view of the (padded) inputs."""
    if isinstance(layer, nn.Linear):
        return x[None]
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
    return x.permute(1, 0, *places, 2, *window)


def explicit_padding(layer: nn.modules.conv._ConvNd, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The layer's input and how many zeros a convolution puts around it: other paddings are put around it here."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return x, layer.padding
    sides = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(x, sides, mode=mode), (0,) * len(layer.kernel_size)


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


def solve_kept(
    system: Float[Tensor, "d d"], right: Float[Tensor, "rows d"], kept: Bool[Tensor, "rows d"]
) -> Float[Tensor, "rows d"]:
    """For every row the solution of `A_KK z_K = r_K` on its own kept entries K, zero elsewhere; A positive definite.

    Rows that keep about as many are solved together, each system as small as the most that one of them keeps.
    """
    found = torch.zeros_like(right)
    columns = (~kept).to(torch.uint8).argsort(dim=1, stable=True)  # kept ones first
    for these, at, inside in alike(columns, kept.sum(1)):
        systems = torch.where(inside[:, :, None] & inside[:, None], system[at[:, :, None], at[:, None]], 0)
        lower = cholesky(systems + torch.diag_embed((~inside).to(system.dtype)))
        solved = torch.cholesky_solve(torch.where(inside, right[these[:, None], at], 0)[..., None], lower)
        found[these[:, None], at] = solved[..., 0]
    return found


def alike(
    columns: Int[Tensor, "rows d"], counts: Int[Tensor, " rows"]
) -> Iterator[tuple[Int[Tensor, " b"], Int[Tensor, "b k"], Bool[Tensor, "b k"]]]:
    """Rows that have about as many of their first columns in a system, so many that the systems `[b k k]` fit.

    Args:
        counts: how many of each row's columns are its own; rows without any are left out.

    Yields:
        the rows, their first k columns, and which of these are the row's own.
    """
    rows = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())]
    while len(rows):
        size = int(counts[rows[0]])
        these, rows = rows.tensor_split([max(1, SYSTEM_NUMBERS // size**2)])
        yield these, columns[these, :size], torch.arange(size, device=rows.device) < counts[these, None]


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
