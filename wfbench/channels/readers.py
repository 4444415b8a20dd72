"""What methods on whole channels share: factors on the charged coordinates, and the weights that read the channels."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from wfbench.channels.costs import Removal
from wfbench.channels.coupled import Coupled
from wfbench.channels.pattern import Filter, pruned_of
from wfbench.channels.pruner import Gone, filters_of, reading
from wfbench.curvature.damping import check_damping
from wfbench.curvature.rows import fisher_rows
from wfbench.data import Labeled, Unlabeled
from wfbench.linalg import cholesky, damped
from wfbench.network import Network, Params
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner
from wfbench.sparsity import Target
from wfbench.walk import second_moments


def over_charged(
    net: Network, group: Coupled, values: Callable[[str], Float[Tensor, "n *shape"]]
) -> Float[Tensor, "n channels"]:
    """Sums over the charged movable coordinates of each channel.

    Args:
        values: of a parameter's entries, n of each, by the parameter's name.
    """
    parts = []
    for part in group.charged:
        if part.name not in net.movable:
            continue
        found = values(part.name).movedim(part.axis + 1, 1)
        entries = found.reshape(*found.shape[:2], -1).sum(2)
        parts.append(entries[:, part.index.to(found.device)].sum(2))
    return torch.stack(parts).sum(0)


def gate_rows(net: Network, groups: list[Coupled], data: Labeled) -> dict[str, Float[Tensor, "n channels"]]:
    """Derivative of `log p(yᵢ|xᵢ)/√n` by a factor on each channel's charged coordinates, at 1; float64, nats.

    It is `gᵀw` over those coordinates: the loss of the channel to first order, up to the sign.
    """
    rows = fisher_rows(net, data, over="movable")
    columns = dict(zip(net.movable, rows.split([w.numel() for w in net.movable.values()], dim=1), strict=True))

    def products(name: str) -> Tensor:
        weight = net.movable[name].double()
        return columns[name].double().reshape(-1, *weight.shape) * weight

    return {group.name: over_charged(net, group, products) for group in groups}


@dataclass(frozen=True)
class Read:
    """A weight that reads a group's channels, float64.

    Args:
        columns: of the weight's matrix, a row a channel.
        moment: `XᵀX/m` of the m input patches in the dense network.
        hessian: the same, damped.
    """

    name: str
    weight: Float[Tensor, "out d"]
    columns: Int[Tensor, "channels k"]
    moment: Float[Tensor, "d d"]
    hessian: Float[Tensor, "d d"]

    @property
    def energy(self) -> float:
        """Half the mean squared output, without bias: `½ tr(W XᵀX/m Wᵀ)`."""
        return float(((self.weight @ self.moment) * self.weight).sum() / 2)


def columns_of(net: Network, group: Coupled, consumer: str) -> Int[Tensor, "channels k"]:
    """The columns of a consumer's matrix that each of the group's channels takes up."""
    positions, kernel = reading(group, consumer).to(net.device), net.weights[consumer][0, 0].numel()
    places = torch.arange(kernel, device=net.device)
    return (positions[:, :, None] * kernel + places).flatten(1)


def reads_of(
    net: Network, groups: list[Coupled], x: Shaped[Tensor, "n *input"], damping: float
) -> dict[str, list[Read]]:
    """Who reads each group's channels, by the group's name.

    Args:
        damping: added to the diagonal of `XᵀX/m`, as a share of its mean.
    """
    moments = second_moments(net, x, {name for group in groups for name in group.consumers})
    hessians = {name: damped(moment, damping) for name, moment in moments.items()}

    def read(group: Coupled, name: str) -> Read:
        weight = net.weights[name].double().flatten(1)
        return Read(name, weight, columns_of(net, group, name), moments[name][0], hessians[name][0])

    return {group.name: [read(group, name) for name in group.consumers] for group in groups}


def reconstructed(net: Network, groups: list[Coupled], gone: Gone, reads: Mapping[str, list[Read]]) -> Params:
    """Every weight that reads a removed channel, by least squares: `W_K = (W H)_K H_KK⁻¹`, zero where channels went."""
    found: Params = {}
    lost: dict[str, list[Tensor]] = {}
    for group in groups:
        for read in reads[group.name] if gone[group.name] else ():
            lost.setdefault(read.name, []).append(read.columns[gone[group.name]].flatten())
    whole = {read.name: read for of in reads.values() for read in of}
    for name, columns in lost.items():
        weight, hessian = whole[name].weight, whole[name].hessian
        kept = torch.ones(len(hessian), dtype=torch.bool, device=hessian.device)
        kept[torch.cat(columns)] = False
        lower = cholesky(hessian[kept][:, kept])
        found[name] = torch.zeros_like(weight)
        found[name][:, kept] = torch.cholesky_solve((weight @ hessian)[:, kept].mT, lower).mT
    return {name: weight.reshape(net.weights[name].shape) for name, weight in found.items()}


Order: TypeAlias = tuple[list[int], list[float]]


@dataclass(frozen=True)
class ReadFitted:
    """Every group's channels in the order of removal, with what each adds to the loss, as a share of the energy."""

    net: Network
    method: str
    reads: dict[str, list[Read]]
    orders: dict[str, Order]

    def prune(self, target: Target) -> Pruned:
        pattern = filters_of(target, self.method)
        groups = pattern.groups(self.net)
        removal = Removal(pattern.costs(self.net), target)

        def next_of(name: str) -> tuple[float, int]:
            (order, losses), taken = self.orders[name], len(removal.gone[name])
            return losses[taken], order[taken]

        for _ in removal.run(next_of):
            pass
        return pruned_of(self.net, groups, removal.gone, reconstructed(self.net, groups, removal.gone, self.reads))


@dataclass(frozen=True)
class ReadPruner(Pruner[Unlabeled]):
    """Channels removed group by group for the outputs of what reads them, which then take up the loss.

    Each group has one order of removal. Groups are merged by the next channel's loss as a share of half the mean
    squared outputs of the group's readers in the dense network.

    Args:
        damping: added to the diagonal of `XᵀX/m`, as a share of its mean.
    """

    patterns: ClassVar[tuple[str, ...]] = ("filter",)
    damping: float = 0.01

    def __post_init__(self) -> None:
        check_damping(self.damping)

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        groups = Filter.of(data.inputs).groups(net)
        reads, orders = reads_of(net, groups, data.inputs, self.damping), {}
        for name, of in reads.items():
            order, losses = self.order(of)
            energy = sum(read.energy for read in of)
            orders[name] = order, [loss / energy if energy > 0 else loss for loss in losses]
        return ReadFitted(net, self.name, reads, orders)

    @abstractmethod
    def order(self, reads: list[Read]) -> Order:
        """The channels of a group, all but one, in the order of removal, and what each adds to the loss."""
