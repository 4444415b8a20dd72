"""What every method costs."""

from collections.abc import Callable
from types import NoneType
from typing import Any

from wfbench.channels.pattern import Filter
from wfbench.operations.asked import Asked, Cost, Steps, added
from wfbench.operations.channel_curvature import gated, kfac_filter, woodfisher_filter
from wfbench.operations.channels import data_free, obs_filter, thinet
from wfbench.operations.composed import COMPOSED
from wfbench.operations.layerwise import KFAC, LAYERWISE, kfac
from wfbench.operations.recoveries import recovery_steps
from wfbench.operations.woodfisher import staged, woodfisher
from wfbench.pruner import Pruner
from wfbench.sparsity import Unstructured
from wfbench.woodfisher.channel_variants import WoodFisherFilter, WoodFisherFilterUnlabeled
from wfbench.woodfisher.restored import WoodFisherStaged
from wfbench.woodfisher.variants import WoodFisher, WoodFisherUnlabeled

CHANNELS: dict[str, Callable[[Asked], Cost]] = {
    "thinet": thinet,
    "obs-filter": obs_filter,
    "kfac-filter": kfac_filter,
    "taylor-filter": gated,
    "group-fisher": gated,
}


def cost_of(method: Pruner[Any], asked: Asked) -> Cost | None:
    """What a method does; None where it is not counted."""
    if type(method) in COMPOSED:
        return COMPOSED[type(method)](method, asked, cost_of)
    if isinstance(method, WoodFisher | WoodFisherUnlabeled):
        return woodfisher(method, asked)
    if isinstance(method, WoodFisherStaged):
        return Cost({}, lambda at: staged(method, at))
    name = getattr(type(method), "name", "")  # with options a method has another one
    if name in KFAC:
        return kfac(asked, asked.shapes.outputs if name == "kfac-exact" else 1)
    if name in LAYERWISE:
        return LAYERWISE[name](asked)
    if name == "obs-distilled":
        return _distilled(method, asked)
    if isinstance(method, WoodFisherFilter | WoodFisherFilterUnlabeled):
        return woodfisher_filter(method, asked)
    if channels(method):
        return CHANNELS[name](asked) if name in CHANNELS else data_free(asked) if method.licence is NoneType else None
    return Cost({}, lambda at: {}) if method.licence is NoneType else None


def _distilled(method: Any, asked: Asked) -> Cost | None:
    """What chooses the weights or the channels, and the descent after it."""
    of = cost_of(method.channels if asked.channels else method.weights, asked)
    if of is None or recovery_steps(method.after, asked) is None:
        return None
    return Cost(of.fit, lambda at: added(of.prune(at), recovery_steps(method.after, at) or {} if at.sparsity else {}))


def channels(method: Pruner[Any]) -> bool:
    """Whether a method takes whole channels alone."""
    return Filter.name in method.patterns and Unstructured.name not in method.patterns


def steps_of(method: Pruner[Any], asked: Asked) -> Steps | None:
    """The steps of a fit and of a removal."""
    cost = cost_of(method, asked)
    return None if cost is None else cost.at(asked)
