"""The steps of methods on whole channels that read inputs or nothing; which channels go is taken to be even."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wfbench.channels.coupled import Coupled
from wfbench.channels.limits import _doubtful
from wfbench.channels.pattern import Filter
from wfbench.channels.pruner import producers, reading
from wfbench.network import Network
from wfbench.operations.asked import Asked, Cost, Steps, weight_names
from wfbench.operations.layerwise import moments
from wfbench.operations.shapes import Shapes
from wfbench.operations.work import Work, forward, total
from wfbench.walk import SAMPLES

LAZY = 32
"""Channels that `obs-filter` takes out between two products over whole matrices."""
TAKEN = 66
"""Bytes a number of the state from what goes to a result: copies, masks, and the check of what is outside."""

TRIED = 512
"""The same where a network is made without a channel, to be tried; counted on ResNet-20."""


@dataclass(frozen=True)
class Reader:
    """A weight that reads a group: its rows and columns, and columns a channel."""

    rows: int
    d: int
    k: int


@dataclass(frozen=True)
class Channels:
    """A network's groups of channels, and how many of each go."""

    net: Network
    shapes: Shapes

    @cached_property
    def pattern(self) -> Filter:
        return Filter(self.shapes.input, self.shapes.tokens)

    @cached_property
    def groups(self) -> list[Coupled]:
        return self.pattern.groups(self.net)

    def gone(self, sparsity: float) -> dict[str, int]:
        """The same share of every group, the least with which so much of what is multiplied goes."""
        costs = self.pattern.costs(self.net)
        most, whole = max(group.size for group in self.groups), costs.total({}, "macs")
        for step in range(most + 1):
            counts = {group.name: min(group.size - 1, round(group.size * step / most)) for group in self.groups}
            if costs.total(counts, "macs") <= (1 - sparsity) * whole:
                break
        return counts

    def readers(self, group: Coupled) -> list[Reader]:
        weights = {name: self.net.weights[name] for name in group.consumers}
        return [
            Reader(len(one), one[0].numel(), reading(group, name).shape[1] * one[0, 0].numel())
            for name, one in weights.items()
        ]

    @cached_property
    def state(self) -> int:
        """Numbers of parameters and buffers."""
        return sum(tensor.numel() for tensor in self.net.state().values())

    def removal(self) -> Work:
        return Work(0, 0, TAKEN * self.state, 30 * len(self.groups))

    def traced(self) -> Work:
        """What must go together is found in a pass of one sample; what is in doubt is tried on four."""
        heads = any(group.heads for group in self.groups)
        tried = (
            len(_doubtful(self.net, self.groups, self.net.state())) + len(self.pattern.costs(self.net).whole) + heads
        )
        layers = len(self.shapes.parts)
        once = forward(self.shapes, 1) + Work(0, 0, 18.0 * self.state, 10 * layers)
        return once + (forward(self.shapes, 9) + Work(0, 0, TRIED * self.state, 180 * layers)) * tried

    def priced(self) -> Work:
        """What channels cost, in two more."""
        return forward(self.shapes, 1) * 2 + Work(0, 0, 18.0 * self.state, 10 * len(self.shapes.parts))


def data_free(asked: Asked) -> Cost:
    """Norms of filters, or less."""
    channels = Channels(asked.net, asked.shapes)
    numbers = sum(asked.net.weights[name].numel() for group in channels.groups for name in producers(asked.net, group))

    def prune(at: Asked) -> Steps:
        scores = Work(0, 0, 36.0 * numbers, 12 * len(channels.groups))
        return {"channels": channels.traced() + channels.priced(), "scores": scores, "removal": channels.removal()}

    return Cost({}, prune)


def thinet(asked: Asked) -> Cost:
    return _read(asked, _interactions)


def obs_filter(asked: Asked) -> Cost:
    return _read(asked, _taken_out)


def _read(asked: Asked, ordered: Any) -> Cost:
    """Second moments; an order of every group's channels; least squares of the weights that read what went."""
    channels, shapes = Channels(asked.net, asked.shapes), asked.shapes
    readers_of_any = {name for group in channels.groups for name in group.consumers}
    names = weight_names(asked.net, shapes)
    seen = [part for part in shapes.parts if names.get(part.name) in readers_of_any]
    fit = {"channels": channels.traced(), **moments(shapes, asked.n, SAMPLES, seen)}
    squares = sum(groups * d**2 for groups, _, d in (part.matrices for part in seen))
    fit["second moments"] += Work(0, 0, 48.0 * squares, 12 * len(seen))
    orders = []
    for group in channels.groups:
        readers = channels.readers(group)
        energies = [Work(0, 2.0 * one.rows * one.d**2, 8.0 * one.d**2 + 60.0 * one.rows * one.d, 6) for one in readers]
        orders += [*energies, ordered(group.size, readers)]
    fit["order of removal"] = total(orders)

    def prune(at: Asked) -> Steps:
        gone, solved = channels.gone(at.sparsity), []
        for group in channels.groups:
            for one in channels.readers(group) if gone[group.name] else ():
                left = one.d - one.k * gone[group.name]
                flops = 2.0 * one.rows * one.d**2 + left**3 / 3 + 2.0 * one.rows * left**2
                moved = 16.0 * left * one.d + 56.0 * left**2 + 8.0 * one.d**2 + 40.0 * one.rows * (one.d + left)
                solved.append(Work(0, flops, moved, 20))
        return {"channels": channels.priced(), "least squares": total(solved), "removal": channels.removal()}

    return Cost(fit, prune)


def _interactions(size: int, readers: list[Reader]) -> Work:
    """Of all pairs of channels, and a greedy order by them."""
    made = [Work(0, 2.0 * one.rows * one.d**2, 72.0 * one.d**2 + 16.0 * one.rows * one.d, 8) for one in readers]
    return total(made) + Work(0, 0, (48.0 + 16 * len(readers)) * size**2, 8 * size)


def _taken_out(size: int, readers: list[Reader]) -> Work:
    """Channels one by one, the inverses of what is left brought up to date after so many."""
    found = [Work(0, 0, 64.0 * size**2, 6.0 * size)]
    for one in readers:
        d = size * one.k
        found.append(Work(0, 1.0 * one.d**3, 80.0 * one.d**2 + 16.0 * (one.rows + d + one.d) * d, 12))
        found += [_settled(one, *at) for at in _settlements(size, one.k)]
        for left in range(size, 1, -1):
            found.append(_step(one, left, *_since(size, left, one.k)))
    return total(found)


def _settlements(size: int, k: int) -> Iterator[tuple[int, int, int]]:
    """Channels that are left, columns before, and rows that wait, at each time."""
    for taken in range(0, size - 1, LAZY):
        yield size - taken, (size - max(0, taken - LAZY)) * k, min(taken, LAZY) * k


def _since(size: int, left: int, k: int) -> tuple[int, int]:
    """Columns at the last settlement, and rows that wait since then."""
    taken = size - left
    since = taken % LAZY
    return (left + since) * k, since * k


def _settled(one: Reader, left: int, before: int, waiting: int) -> Work:
    d = left * one.k
    flops = 2.0 * waiting * d * (one.rows + d) + 2.0 * left * one.k**2 * one.rows
    moved = 16.0 * d * before + 48.0 * d**2 + 72.0 * one.rows * d + 56.0 * waiting * d + 8.0 * one.rows * waiting
    return Work(0, flops, moved + 32.0 * d * one.k, 22)


def _step(one: Reader, left: int, d: int, waiting: int) -> Work:
    """What every channel costs now, and one that goes."""
    k, rows = one.k, one.rows
    scored = Work(0, left * (k**3 / 3 + 2.0 * k**3), 88.0 * left * k**2 + 24.0 * left * k, 12)
    flops = 4.0 * k * waiting * d + 4.0 * rows * waiting * k + 2.0 * k * rows * d + 8.0 * k**2 * d + 2.0 * k**2 * rows
    moved = 48.0 * waiting * d + 344.0 * k * d + 8.0 * rows * d + 32.0 * rows * (waiting + k)
    return scored + Work(0, flops, moved, 32)
