"""Recoveries in closed form, layer after layer, from the pruned network's inputs to the dense network's outputs."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wfbench.data import Unlabeled
from wfbench.layers import as_matrices, check_patches, from_matrices, in_parts
from wfbench.linalg import damped, solve_kept
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
        for name, (now, before) in walk(net, data.inputs, moving, state, {}):
            layer, bias = net.layer_of(name), net.bias_of(name)
            dense = as_matrices(layer, net.weights[name]).double()
            current = as_matrices(layer, state[name]).double()
            moments = _moments(layer, (now, current), (before, dense), centred=bias is not None)
            kept = as_matrices(layer, pruned.mask[name])
            systems = damped(moments.inner, self.damping)
            moves = torch.stack([solve_kept(h, r, k) for h, r, k in zip(systems, moments.lost, kept, strict=True)])
            weights = torch.where(kept, current + moves, 0)
            state[name] = from_matrices(layer, weights).to(state[name].dtype)
            if bias is not None:
                shift = moments.mean_lost - (moves @ moments.mean[..., None])[..., 0]
                moved = (net.movable[bias].double() + shift.flatten()).to(state[bias].dtype)
                state[bias] = _kept(moved, pruned, bias)
        return replace(pruned, state=state)


@dataclass(frozen=True)
class Moments:
    """Of a layer's patches x̃ in the pruned network and of ỹ = Wx − Ŵx̃, what its output lacks without the bias.

    `X̃ᵀX̃/m`, `ỸᵀX̃/m`, and both means; W the dense weights on their patches x, Ŵ those before the repair.
    """

    inner: Float[Tensor, "g d d"]
    lost: Float[Tensor, "g out d"]
    mean: Float[Tensor, "g d"]
    mean_lost: Float[Tensor, "g out"]


def _moments(
    layer: nn.Module, now: tuple[list[Tensor], Tensor], before: tuple[list[Tensor], Tensor], *, centred: bool
) -> Moments:
    """float64; about the means where the layer has a bias, which then takes the means over.

    Args:
        now, before: what the layer reads in the pruned and in the dense network, and its matrices `[g out d]` there.
    """
    totals: list[Tensor] = []
    count = 0
    for one, other in zip(now[0], before[0], strict=True):
        for ours, dense in zip(in_parts(layer, one), in_parts(layer, other), strict=True):
            lost = dense @ before[1].mT - ours @ now[1].mT
            parts = [ours.mT @ ours, lost.mT @ ours, ours.sum(1), lost.sum(1)]
            totals = parts if not totals else [total + part for total, part in zip(totals, parts, strict=True)]
            count += ours.shape[1]
    inner, lost, mean, mean_lost = (total / count for total in totals)
    if centred:
        size = inner.diagonal(dim1=1, dim2=2)
        varies = size - mean.square() > CONSTANT * size  # of what does not, centring leaves rounding errors
        inner = torch.where(varies[..., None] & varies[:, None], inner - mean[..., None] * mean[:, None], 0)
        lost = torch.where(varies[:, None], lost - mean_lost[..., None] * mean[:, None], 0)
    return Moments(inner, lost, mean, mean_lost)


def _kept(tensor: Tensor, pruned: Pruned, name: str) -> Tensor:
    """Zero where the pattern took entries of this tensor out: whole channels take norms and biases with them."""
    return torch.where(pruned.mask[name], tensor, 0) if name in pruned.mask else tensor
