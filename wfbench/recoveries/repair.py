"""Recoveries in closed form, layer after layer, from the pruned network's inputs to the dense network's outputs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from wfbench.data import Unlabeled
from wfbench.layers import as_matrices, check_patches, from_matrices, in_parts
from wfbench.linalg import damped, self_product, solve_kept
from wfbench.memo import digest_of
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.recoveries.base import Recovery
from wfbench.walk import walk

CONSTANT = 1e-12
"""An input whose variance is a smaller share of its mean square counts as constant."""


@dataclass(frozen=True)
class LeastSquaresRepair(Recovery[Unlabeled]):
    """The kept weights and the bias of each layer that bring its output closest to the dense network's.

    Minimises `Σ‖y − W̃x̃ − b̃‖² + α‖W̃ − W‖²` over the kept entries of W̃ and over b̃, where x̃ is the layer's input in the
    network repaired so far, y its output in the dense network, and W the weights before the repair. Layers that share W
    count as one layer that is called more than once; biases of their own stay, and so does a weight that more than
    layers read, such as a tied embedding. Data: inputs alone.

    Args:
        damping: α as a share of the mean diagonal of `X̃ᵀX̃/m`.
    """

    name: ClassVar[str] = "repair"
    damping: float = 0.01

    def apply(self, net: Network, pruned: Pruned, data: Unlabeled) -> Pruned:
        check_patches(net, data.inputs)
        state = dict(pruned.state)
        moving = [name for name in net.weights if not net.read_elsewhere(name)]
        wanted = _kept_products(net, data.inputs, moving)
        for name, (now, *dense) in walk(net, data.inputs, moving, state, *([{}] if wanted is None else [])):
            layer, bias = net.layer_of(name), net.bias_of(name)
            current = as_matrices(layer, state[name]).double()
            before = _products(net, name, dense[0]) if wanted is None else wanted[name]
            moments = _moments(layer, now, current, before, centred=bias is not None)
            kept = as_matrices(layer, pruned.mask[name])
            moves = solve_kept(damped(moments.inner, self.damping), moments.lost, kept)
            weights = torch.where(kept, current + moves, 0)
            state[name] = from_matrices(layer, weights).to(state[name].dtype)
            if bias is not None:
                assert moments.mean is not None
                assert moments.mean_lost is not None
                shift = moments.mean_lost - (moves @ moments.mean[..., None])[..., 0]
                moved = (net.movable[bias].double() + shift.flatten()).to(state[bias].dtype)
                state[bias] = _kept(moved, pruned, bias)
        return replace(pruned, state=state)


@dataclass(frozen=True)
class Moments:
    """Of a layer's patches x̃ in the pruned network and of ỹ = Wx − Ŵx̃, what its output lacks without the bias.

    `X̃ᵀX̃/m`, `ỸᵀX̃/m`, and both means, where they are asked for; W the dense weights on their patches x, Ŵ those before
    the repair.
    """

    inner: Float[Tensor, "g d d"]
    lost: Float[Tensor, "g out d"]
    mean: Float[Tensor, "g d"] | None = None
    mean_lost: Float[Tensor, "g out"] | None = None


def _kept_products(
    net: Network, x: Shaped[Tensor, "n *input"], names: list[str]
) -> dict[str, list[Float[Tensor, "g m out"]]] | None:
    """Those of all layers in the dense network, which every repair on these samples asks for; None for too many."""
    places = net.memo.take(("places", x.shape[1:]), lambda: net.places(x[:1]))
    numbers = sum(len(x) * places[name] * net.weights[name].shape[0] for name in names)
    if torch.float64.itemsize * numbers > net.memo.most:
        return None

    def make() -> dict[str, list[Tensor]]:
        return {name: [*_products(net, name, inputs)] for name, (inputs,) in walk(net, x, names, {})}

    return net.memo.take_large(("products", digest_of(x)), make)


def _products(net: Network, name: str, inputs: list[Tensor]) -> Iterator[Float[Tensor, "g m out"]]:
    """The patches of what a layer of the dense network reads, times its weight, float64; so many samples at a time."""
    layer = net.layer_of(name)
    dense = as_matrices(layer, net.weights[name]).double()
    return (rows @ dense.mT for x in inputs for rows in in_parts(layer, x))


def _moments(
    layer: nn.Module,
    inputs: list[Tensor],
    weight: Float[Tensor, "g out d"],
    before: Iterable[Float[Tensor, "g m out"]],
    *,
    centred: bool,
) -> Moments:
    """float64; about the means where the layer has a bias, which then takes the means over.

    Args:
        inputs: what the layer reads in the pruned network, and its weight there.
        before: the products of the dense network.
    """
    ours = (rows for x in inputs for rows in in_parts(layer, x))
    totals: list[Tensor] = []
    count = 0
    for rows, wanted in zip(ours, before, strict=True):
        lost = wanted - rows @ weight.mT
        parts = [self_product(rows), lost.mT @ rows, *([rows.sum(1), lost.sum(1)] if centred else [])]
        totals = parts if not totals else [total + part for total, part in zip(totals, parts, strict=True)]
        count += rows.shape[1]
    inner, lost, *means = (total / count for total in totals)
    if means:
        mean, mean_lost = means
        size = inner.diagonal(dim1=1, dim2=2)
        varies = size - mean.square() > CONSTANT * size  # of what does not, centring leaves rounding errors
        inner = torch.where(varies[..., None] & varies[:, None], inner - mean[..., None] * mean[:, None], 0)
        lost = torch.where(varies[:, None], lost - mean_lost[..., None] * mean[:, None], 0)
    return Moments(inner, lost, *means)


def _kept(tensor: Tensor, pruned: Pruned, name: str) -> Tensor:
    """Zero where the pattern took entries of this tensor out: whole channels take norms and biases with them."""
    return torch.where(pruned.mask[name], tensor, 0) if name in pruned.mask else tensor
