"""The steps of methods made of methods: the sums of their parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from wfbench.composed.matched import Allocation, LayerMatched
from wfbench.composed.ranked import Global
from wfbench.composed.staged import Staged, shares
from wfbench.composed.transplant import Transplant
from wfbench.operations.asked import Asked, Cost, Steps, added
from wfbench.operations.woodfisher import restored
from wfbench.operations.work import RANKED, Work
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
    return Cost(
        added(of.fit, amounts.fit),
        lambda at: added(amounts.prune(at), of.prune(at.by_magnitude(at.sparsity))),
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
            after = restored(at.by_magnitude(share), first=share == many[0])
            found += [of.at(replace(at, sparsity=share)), after if method.restore else {}]
        return added(*found)

    return Cost({}, prune)


COMPOSED: dict[type, Callable[[Any, Asked, CostOf], Cost | None]] = {
    Global: global_ranking,
    Allocation: allocation,
    LayerMatched: matched,
    Transplant: transplant,
    Staged: staged,
}
