"""The steps of methods made of methods: the sums of their parts."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any, TypeAlias

from wfbench.channels.pattern import Filter
from wfbench.channels.pruner import producers
from wfbench.composed.allocated import FOLDS, MOST, Allocation
from wfbench.composed.matched import LayerMatched
from wfbench.composed.ranked import Global
from wfbench.composed.staged import Staged, shares
from wfbench.composed.transplant import Transplant
from wfbench.draws import folds
from wfbench.operations.asked import Asked, Cost, Counts, Steps, added, weight_names
from wfbench.operations.channels import Channels
from wfbench.operations.woodfisher import restored
from wfbench.operations.work import RANKED, Work, forward
from wfbench.pruner import Pruner

MATCHED = 90
"""Bytes a weight from the masks of one method to as many in the order of sizes, and a result."""

CostOf: TypeAlias = Callable[[Pruner[Any], Asked], Cost | None]


def global_ranking(method: Global, asked: Asked, cost_of: CostOf) -> Cost | None:
    """One fit; a ranking of all weights and a removal a stage, of each layer what magnitude takes of it."""
    if (of := cost_of(method.of, asked)) is None:
        return None

    def prune(at: Asked) -> Steps:
        many = [at.by_magnitude(share) for share in shares(method.stages, at.sparsity)] if at.sparsity else []
        ranked = {"ranking": Work(0, 0, RANKED * at.shapes.p, 20)}
        return added(*(added(ranked, of.prune(one)) for one in many))

    return Cost(of.fit, prune)


def allocation(method: Allocation, asked: Asked, cost_of: CostOf) -> Cost | None:
    """Both; the one that chooses takes of each layer what magnitude takes, which is not known beforehand otherwise."""
    of, amounts = cost_of(method.of, asked), cost_of(method.amounts, asked)
    if of is None or amounts is None:
        return None
    tried = led(method.of, asked, cost_of) if method.led else None

    def prune(at: Asked) -> Steps:
        if not at.sparsity:
            return amounts.prune(at)
        steps = added(amounts.prune(at), of.prune(at.by_magnitude(at.sparsity)))
        return steps if tried is None else added(steps, of.prune(at), tried.at(at))

    return Cost(added(of.fit, amounts.fit), prune)


def led(method: Pruner[Any], asked: Asked, cost_of: CostOf) -> Cost | None:
    """What is tried on held-out samples: a fit on the others of every fold, both ways, and the change of each."""
    n = min(MOST, asked.n)
    held = [len(fold) for fold in folds(n, min(FOLDS, n))] if n > 1 else []
    found = [cost_of(method, replace(asked, n=n - out)) for out in held]
    fitted = [one for one in found if one is not None]
    seen = {"held-out samples": forward(asked.shapes, n)} if held else {}  # by the dense network; each way once more
    return Cost(
        added(seen, *(one.fit for one in fitted)),
        lambda at: added(seen, seen, *(one.prune(at) for one in fitted for _ in range(2))),
    )


def matched(method: LayerMatched, asked: Asked, cost_of: CostOf) -> Cost | None:
    of = cost_of(method.method, asked)
    ranked = {"ranking": Work(0, 0, MATCHED * asked.shapes.p, 10 * len(asked.net.weights))}
    return None if of is None else Cost(of.fit, lambda at: added(of.prune(at), ranked))


def transplant(method: Transplant, asked: Asked, cost_of: CostOf) -> Cost | None:
    """Both, an update for another's mask being taken for one's own."""
    both = [cost_of(one, asked) for one in (method.mask_of, method.update_of) if one is not None]
    known = [one for one in both if one is not None]
    if len(known) < len(both):
        return None
    return Cost(added(*(one.fit for one in known)), lambda at: added(*(one.prune(at) for one in known)))


def staged(method: Staged, asked: Asked, cost_of: CostOf) -> Cost | None:
    """All of the method anew in every stage, on what the stage before it left, and what restores the layers."""
    if cost_of(method.of, asked) is None:
        return None

    def prune(at: Asked) -> Steps:
        many = shares(method.stages, at.sparsity) if at.sparsity else []
        found: list[Steps] = []
        for share in many:
            of = cost_of(method.of, at)
            assert of is not None
            left = without_channels(at, share) if Filter.name in method.of.patterns else at.by_magnitude(share)
            after = restored(left, first=share == many[0])
            found += [of.at(replace(at, sparsity=share)), after if method.restore else {}]
        return added(*found)

    return Cost({}, prune)


def without_channels(asked: Asked, sparsity: float) -> Asked:
    """What the rows keep where every group of channels loses as large a part."""
    channels = Channels(asked.net, asked.shapes)
    gone, names = channels.gone(sparsity), weight_names(asked.net, asked.shapes)
    rows_gone, columns_gone = dict.fromkeys(names.values(), 0), dict.fromkeys(names.values(), 0)
    for group in channels.groups:
        for name in producers(asked.net, group):
            rows_gone[name] += gone[group.name] * (name not in group.consumers)
        for name, reader in zip(group.consumers, channels.readers(group), strict=True):
            columns_gone[name] += gone[group.name] * reader.k
    counts: Counts = {}
    for part in (part for part in asked.shapes.parts if part.prunable):
        (groups, rows, d), name = part.matrices, names[part.name]
        less = ceil(rows_gone[name] / groups)
        counts[name] = [[max(0, d - columns_gone[name])] * (rows - less) + [0] * less] * groups
    return replace(asked, sparsity=sparsity, counts=counts)


COMPOSED: dict[type, Callable[[Any, Asked, CostOf], Cost | None]] = {
    Global: global_ranking,
    Allocation: allocation,
    LayerMatched: matched,
    Transplant: transplant,
    Staged: staged,
}
