"""The steps of methods on whole channels that read gradients; which channels go is taken to be even."""

from math import prod
from typing import Any

from wfbench.channels.coupled import Coupled
from wfbench.channels.pruner import producers
from wfbench.curvature.rows import MAX_ROWS, probes_for
from wfbench.errors import WfbenchError
from wfbench.network import Network, bias_of
from wfbench.operations.asked import Asked, Cost, Steps
from wfbench.operations.channels import Channels
from wfbench.operations.layerwise import kfac
from wfbench.operations.work import Work, eigenvalues, finite, gram, passes, product, total
from wfbench.woodfisher.channel_variants import WoodFisherFilter, WoodFisherFilterUnlabeled

VECTORS = 250
"""Bytes a movable parameter of vectors: weights in float64, what is added to them, and where a group's are."""


def movable(net: Network) -> int:
    return sum(tensor.numel() for tensor in net.movable.values())


def rows_over_movable(asked: Asked, each: int) -> Steps:
    """As over the weights, and what norms and biases add."""
    shapes, more = asked.shapes, movable(asked.net) - asked.shapes.p
    found = passes(shapes, asked.n, each, asked.limit)
    norms = [part for part in shapes.parts if part.weight and not part.prunable]
    tiles = -(-asked.n // shapes.tile)
    read = sum(16.0 * part.read + 24.0 * part.written for part in norms)
    found["rows"] += Work(0, 0, tiles * shapes.tile * each * read, 12 * len(norms) * tiles * each)
    found["rows"] += finite(asked.n * each, more) + Work(0, 0, 12.0 * asked.n * each * more)
    return found


def rows_of_channels(method: WoodFisherFilter | WoodFisherFilterUnlabeled, asked: Asked) -> tuple[int, int]:
    """Rows, and cotangents a sample.

    Raises:
        WfbenchError: as `gradients`.
    """
    each = 1
    if isinstance(method, WoodFisherFilterUnlabeled):
        shapes, columns = asked.shapes, movable(asked.net)
        kinds = {
            "sampled": method.draws,
            "exact": shapes.outputs,
            "logits": probes_for(asked.n, shapes.outputs, columns) or shapes.outputs,
        }
        each = kinds[method.fisher]
    if asked.n * each > MAX_ROWS:
        raise WfbenchError(
            f"{method.name} of {asked.n} samples has {asked.n * each} rows, more than {MAX_ROWS}; use fewer samples"
        )
    return asked.n * each, each


def woodfisher_filter(method: WoodFisherFilter | WoodFisherFilterUnlabeled, asked: Asked) -> Cost | None:
    """Rows turned to their eigenvectors, of which none is taken to be left out but for the rank.

    None where the update may move all weights.
    """
    if method.moves == "all":
        return None
    channels = Channels(asked.net, asked.shapes)
    (k, each), p, sizes = rows_of_channels(method, asked), movable(asked.net), asked.sizes
    r = min(k, method.rank or k)
    turned = Work(0, 2.0 * k * r * p, (20.0 * k + 28 * r) * p, 6 * -(-p // sizes.coordinates))
    fit = {
        **rows_over_movable(asked, each),
        "Gram": gram(k, p, sizes),
        "eigenvalues": eigenvalues(k) * 2 + turned,
    }

    def prune(at: Asked) -> Steps:
        gone, sets = channels.gone(at.sparsity), Sets(channels, method.moves)
        work = [sets.placed(), *(sets.begun(group, r) for group in channels.groups)]
        stages = method.stages or 0
        for group in channels.groups:
            count = gone[group.name]
            if method.update == "independent":
                work.append((sets.updated(group, r) + Work(0, r**3 / 3, 40.0 * r**2, 6)) * count)
                continue
            work.append(sets.updated(group, r) * bool(count))
            for other in sets.touched(group):
                left = other.size - gone[other.name] / 2
                work.append(sets.dropped(group, other, r, left) * count)
                work.append(scored(left, r) * (0 if stages else count))
            work.append(scored(group.size - gone[group.name] / 2, r) * max(0, stages - 1))
        return {
            "channels": channels.traced() + channels.priced(),
            "removal and update": total(work) + channels.removal() + Work(0, 0, VECTORS * p, 40),
            "predicted change": product(k, p, sizes),
        }

    return Cost(fit, prune)


class Sets:
    """How large the sets of every group are: charged Q, deleted D, movable U."""

    def __init__(self, channels: Channels, moves: str) -> None:
        self.channels, self.net, self.moves = channels, channels.net, moves
        self._movable = movable(self.net)

    def charged(self, group: Coupled) -> int:
        """Numbers of all channels."""
        return sum(self._numbers(part) for part in group.charged)

    def _numbers(self, part: Any) -> int:
        if part.name not in self.net.movable:
            return 0
        shape = self.net.movable[part.name].shape
        return int(part.index.numel()) * prod(shape) // shape[part.axis]

    def moving(self, group: Coupled) -> int:
        if self.moves == "none":
            return 0
        names = {name for of in group.consumers for name in (of, bias_of(of))}
        return sum(tensor.numel() for name, tensor in self.net.movable.items() if name in names)

    def own(self, group: Coupled) -> int:
        """Numbers of all channels that are deleted and movable."""
        return sum(self._numbers(part) for part in group.deleted if part.axis == 1) * (self.moves == "consumers")

    def touched(self, group: Coupled) -> list[Coupled]:
        """Groups whose U has some of what goes with a channel of this one."""
        near = {*group.consumers, *producers(self.net, group)} if self.moves == "consumers" else set()
        return [one for one in self.channels.groups if one is group or near & {*one.consumers}]

    def placed(self) -> Work:
        """Every channel's coordinates, sought in tensors as large as the parameters."""
        found, launches = 0.0, 0.0
        for group in self.channels.groups:
            parts = [*group.charged, *group.charged, *group.deleted]
            sizes = [self.net.movable[part.name].numel() for part in parts if part.name in self.net.movable]
            found += 5.0 * group.size * sum(sizes) + 24.0 * self._movable
            launches += 5.0 * group.size * len(sizes)
        return Work(0, 0, found, launches)

    def begun(self, group: Coupled, r: int) -> Work:
        """S, every channel's share of it, and the first scores."""
        u, own, q = self.moving(group), self.own(group), self.charged(group)
        flops = 2.0 * r**2 * (u + own) + 2.0 * q * r
        moved = 36.0 * r * (u + own) + 56.0 * group.size * r**2 + 40.0 * q * r
        return Work(0, flops, moved, 8.0 * group.size) + scored(group.size, r)

    def dropped(self, group: Coupled, other: Coupled, r: int, left: float) -> Work:
        """What goes with a channel of one group leaves S and the shares of another."""
        if other is group:
            numbers = self.own(group) / group.size
            return Work(0, 2.0 * r**2 * numbers, 36.0 * r * numbers + 40.0 * r**2 + 10.0 * self.own(group), 12)
        numbers, shared = self._shared(group, other), 0.0
        if {*producers(self.net, group)} & {*other.consumers}:
            shared = left
        sums = 2.0 * r**2 * numbers * (1 + bool(shared))
        moved = 36.0 * r * numbers * (1 + bool(shared)) + 40.0 * r**2 * (1 + shared) + 10.0 * self.own(other)
        return Work(0, sums, moved, 12 + 9 * shared)

    def _shared(self, group: Coupled, other: Coupled) -> float:
        """Numbers of U of the other that go with a channel of this one."""
        parts = [part for part in (*group.charged, *group.deleted) if part.name in other.consumers]
        return sum(map(self._numbers, parts)) / group.size

    def updated(self, group: Coupled, r: int) -> Work:
        u = self.moving(group)
        return Work(0, 2.0 * u * r + r**3 / 3, 28.0 * u * r + 80.0 * u + 40.0 * r**2, 16)


def scored(channels: float, r: int) -> Work:
    """A factor for every channel, and one for what went so far."""
    each = Work(0, r**3 / 3 + 1.0 * r**2, 57.0 * r**2)
    return each * (channels + 1) + Work(0, 0, 60.0 * channels, 30)


def kfac_filter(asked: Asked) -> Cost:
    """Factors of the exact Fisher, and a system a layer."""
    channels, shapes = Channels(asked.net, asked.shapes), asked.shapes
    fit = kfac(asked, shapes.outputs).fit
    solved = []
    for part in shapes.parts:
        if part.prunable:
            groups, rows, d = part.matrices
            flops = groups * (2 / 3 * d**3 + 2.0 * rows * d**2)
            solved.append(Work(0, flops, groups * (24.0 * d**2 + 90.0 * rows * d), 14))
    fit = {"channels": channels.traced(), **fit, "saliencies": total(solved)}
    return Cost(fit, lambda at: {"removal": channels.removal() + channels.priced()})


def gated(asked: Asked) -> Cost:
    """Rows times the weights that are charged."""
    channels = Channels(asked.net, asked.shapes)
    products = Work(0, 0, 48.0 * asked.n * movable(asked.net), 12 * len(channels.groups))
    fit = {"channels": channels.traced(), **rows_over_movable(asked, 1), "gates": products}
    return Cost(fit, lambda at: {"removal": channels.removal() + channels.priced()})
