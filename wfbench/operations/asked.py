"""What a cost is asked for, and what the answer is: steps by name, those of a fit apart from those of a removal."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import TypeAlias

from wfbench.layers import as_matrices
from wfbench.network import Network, tensor_name
from wfbench.operations.shapes import Part, Shapes
from wfbench.operations.work import Work
from wfbench.sparsity import Target, keep_largest
from wfbench.tiles import HOST, Tiles

Steps: TypeAlias = dict[str, Work]
Counts: TypeAlias = dict[str, list[list[int]]]


@dataclass(frozen=True)
class Asked:
    """A network on n samples, of which a share goes.

    Args:
        sparsity: of single weights, or of what channels multiply.
        limit: bytes for rows, Grams and factors.
        sizes: of what is computed at a time.
        counts: how many weights each row keeps, of each group's matrix, by the weight's name; None for the same share
            of all.
        channels: whole ones go, where a method takes either.
    """

    net: Network
    shapes: Shapes
    n: int
    sparsity: float
    limit: float = inf
    sizes: Tiles = HOST
    counts: Counts | None = None
    channels: bool = False

    def by_magnitude(self, sparsity: float) -> "Asked":
        """The same at a sparsity of which every layer has the share that global magnitude gives it."""
        return replace(self, sparsity=sparsity, counts=kept_counts(self.net, sparsity))

    def kept(self) -> Iterator[tuple[Part, list[int]]]:
        """Every matrix's part, and how many weights each of its rows keeps."""
        names = weight_names(self.net, self.shapes)
        for part in self.shapes.parts:
            if not part.prunable:
                continue
            groups, rows, d = part.matrices
            even = [[round((1 - self.sparsity) * d)] * rows] * groups
            for of_group in even if self.counts is None else self.counts[names[part.name]]:
                yield part, of_group


def kept_counts(net: Network, sparsity: float) -> Counts:
    """Those of global magnitude."""
    mask = keep_largest({name: weight.abs() for name, weight in net.weights.items()}, Target(sparsity))
    return {name: as_matrices(net.layer_of(name), one).sum(2).tolist() for name, one in mask.items()}


def weight_names(net: Network, shapes: Shapes) -> dict[str, str]:
    """The name of every prunable part's weight."""
    return {part.name: net.names[tensor_name(part.name, "weight")] for part in shapes.parts if part.prunable}


@dataclass(frozen=True)
class Cost:
    """Args:
    fit: once.
    prune: once a sparsity.
    """

    fit: Steps
    prune: Callable[[Asked], Steps]

    def at(self, asked: Asked) -> Steps:
        return added(self.fit, self.prune(asked))


def added(*many: Steps) -> Steps:
    """Steps of one name are one."""
    found: Steps = {}
    for steps in many:
        for name, work in steps.items():
            found[name] = found.get(name, Work()) + work
    return found
