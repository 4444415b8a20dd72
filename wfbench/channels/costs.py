"""What channels cost, and which go first: prices in filters, parameters or multiply-accumulates."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from wfbench.channels.coupled import Coupled, shrunk, taking_out
from wfbench.channels.footprint import footprint
from wfbench.errors import WfbenchError
from wfbench.network import Network
from wfbench.sparsity import Target, Unit


def _allowed(target: Target, whole: int) -> float:
    """How much may be left; 1 of 10 at sparsity 0.9, although 1 - 0.9 is below 0.1."""
    return (1 - target.sparsity + 1e-9) * whole


class Costs:
    """Filters, parameters and multiply-accumulates of the network with some channels gone.

    From the shapes of the parameters: a channel takes as many entries from a tensor as every other of its group.
    What torch's counter finds besides, in products without a weight (attention's), is what one channel of each group
    takes of it times the channels. `Filter.measured` holds all of this against the smaller network.

    Args:
        whole: why channels of further layers stay, for the error where a target cannot be met.
    """

    amounts: Mapping[str, int] | None = None
    """How many channels go of every group, where that is given; else as many as the target asks for."""

    def __init__(
        self, net: Network, groups: list[Coupled], x: Shaped[Tensor, "1 *input"], whole: Sequence[str] = ()
    ) -> None:
        self.whole = list(whole)
        module = net.module()
        self.groups = {group.name: group.size for group in groups}
        self._shapes = {net.names[name]: list(tensor.shape) for name, tensor in module.named_parameters()}
        self._widths: dict[str, list[tuple[int, str, int]]] = {name: [] for name in self._shapes}
        for group in groups:
            for part in (*group.charged, *group.deleted):
                if part.name in self._widths:
                    self._widths[part.name].append((part.axis, group.name, part.index.shape[1]))
        self._places = net.places(x)
        self._filters = [name for name in net.weights if any(axis == 0 for axis, *_ in self._widths[name])]
        self._touching = {
            group: [name for name, widths in self._widths.items() if any(of == group for _, of, _ in widths)]
            for group in self.groups
        }
        self._besides, self._each = 0, dict.fromkeys(self.groups, 0)
        self._besides = self._counted(net, x, {})
        if self._besides:
            self._each = {name: self._besides - self._counted(net, x, {name: [0]}) for name in self.groups}

    def given(self, amounts: Mapping[str, int]) -> "Costs":
        """The same, where so many channels go of each group."""
        found = copy(self)
        found.amounts = dict(amounts)
        return found

    def _counted(self, net: Network, x: Shaped[Tensor, "1 *input"], gone: dict[str, list[int]]) -> int:
        """Multiply-accumulates that torch's counter finds besides those of weights."""
        with taking_out(gone):
            found = footprint(shrunk(net, net.state(), x, gone) if gone else net.module(), x)["macs"]
        return found - self.total({name: len(channels) for name, channels in gone.items()}, "macs", self._shapes)

    def total(self, gone: Mapping[str, int], of: Unit, only: Iterable[str] | None = None) -> int:
        """What is left with so many channels gone of each group.

        Args:
            only: the parameters to count, by name; all by default, and what is besides them.
        """
        found = 0
        if only is None and of == "macs":
            found = self._besides - sum(self._each[name] * count for name, count in gone.items())
        for name in self._shapes if only is None else only:
            shape = list(self._shapes[name])
            for axis, group, width in self._widths[name]:
                shape[axis] -= width * gone.get(group, 0)
            if of == "filters":
                found += shape[0] if name in self._filters else 0
            else:
                size = 1
                for length in shape:
                    size *= length
                found += size if of == "params" else size * self._places.get(name, 0)
        return found

    def saving(self, gone: Mapping[str, int], group: str, of: Unit) -> int:
        """What one more channel of the group takes away."""
        names, more = self._touching[group], {**gone, group: gone.get(group, 0) + 1}
        besides = self._each[group] if of == "macs" else 0
        return self.total(gone, of, names) - self.total(more, of, names) + besides


class Removal:
    """Channels taken out one by one until a target is met; every group keeps at least one.

    Under `scope="global"` any group may lose the next one; under `"layer"` one that has lost the smallest share so far.
    Where the costs say how many go of each group, these go, and nothing is asked of the target.
    """

    def __init__(self, costs: Costs, target: Target) -> None:
        self.costs, self.target = costs, target
        self.gone: dict[str, list[int]] = {name: [] for name in costs.groups}
        self._left = self._whole = costs.total({}, target.of)

    @property
    def counts(self) -> dict[str, int]:
        return {name: len(channels) for name, channels in self.gone.items()}

    @property
    def met(self) -> bool:
        if self.costs.amounts is not None:
            return all(len(self.gone[name]) >= count for name, count in self.costs.amounts.items())
        return self._left <= _allowed(self.target, self._whole)

    @property
    def share(self) -> float:
        """What is gone of what the target counts."""
        return 1 - self._left / self._whole

    def open(self) -> list[str]:
        """The groups that may lose a channel next.

        Raises:
            WfbenchError: there are none, and the target is not met.
        """
        sizes = self.costs.groups
        most = {name: size - 1 for name, size in sizes.items()} if self.costs.amounts is None else self.costs.amounts
        found = [name for name, channels in self.gone.items() if len(channels) < most.get(name, 0)]
        if not found and not self.met:
            raise WfbenchError(
                f"sparsity {self.target.sparsity} of {self.target.of} cannot be met: with one channel of every group "
                f"left it is {self.share:.3f}{''.join(f'; {why}' for why in self.costs.whole[:1])}"
            )
        if self.target.scope == "layer" and found:
            least = min(len(self.gone[name]) / sizes[name] for name in found)
            found = [name for name in found if len(self.gone[name]) / sizes[name] == least]
        return found

    def take(self, group: str, channel: int) -> None:
        self._left -= self.costs.saving(self.counts, group, self.target.of)
        self.gone[group].append(channel)

    def run(self, best: Callable[[str], tuple[float, int]], per: Unit | None = None) -> Iterator[tuple[str, int]]:
        """Take out the channel with the least score for what it saves, until the target is met; each as it goes.

        Args:
            best: of a group that may lose a channel, the score of the next one and its number.
            per: what scores are divided by; nothing by default.
        """
        while not self.met:
            found = {name: best(name) for name in self.open()}
            group = min(found, key=lambda name: found[name][0] / self.price(name, per))
            self.take(group, found[group][1])
            yield group, found[group][1]

    def price(self, group: str, per: Unit | None) -> float:
        """What a channel's saliency is divided by: what the next one of its group saves; 1 for None."""
        return 1.0 if per is None else float(max(1, self.costs.saving(self.counts, group, per)))


def remove_lowest(
    scores: Mapping[str, Float[Tensor, " channels"]], costs: Costs, target: Target, per: Unit | None = None
) -> dict[str, list[int]]:
    """The channels with the lowest scores (per what they save) that meet the target; ties go by group and channel."""
    for name, values in scores.items():
        if torch.isnan(values).any():
            raise WfbenchError(f"the scores of {name} contain NaN")
    removal = Removal(costs, target)
    known = {name: values.double().cpu() for name, values in scores.items()}  # each step looks at one number a group
    queues = {name: values.argsort(stable=True).tolist() for name, values in known.items()}
    for group, _ in removal.run(lambda name: (float(known[name][queues[name][0]]), queues[name][0]), per):
        queues[group].pop(0)
    return removal.gone
