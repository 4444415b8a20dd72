"""What is asked of a pruner: how much, in which pattern, allocated over which scope; and masks that meet it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from wfbench.errors import WfbenchError
from wfbench.network import Params, flatten, unflatten

Scope: TypeAlias = Literal["global", "layer"]
Unit: TypeAlias = Literal["weights"]


@dataclass(frozen=True)
class Unstructured:
    """Any weight may go."""

    name: ClassVar[str] = "unstructured"


@dataclass(frozen=True)
class Target:
    """A sparsity to reach.

    Args:
        sparsity: fraction of the prunable weights to remove, in [0, 1).
        pattern: which sets of weights may go together.
        scope: `global`, one ranking over all layers; `layer`, every layer to the same sparsity.
        of: what the sparsity counts.
    """

    sparsity: float
    pattern: Unstructured = Unstructured()
    scope: Scope = "global"
    of: Unit = "weights"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise WfbenchError(f"sparsity {self.sparsity} is outside [0, 1): it is the fraction of weights removed")
        if self.scope not in ("global", "layer"):
            raise WfbenchError(f'scope "{self.scope}" is unknown; use "global" or "layer"')
        if not isinstance(self.pattern, Unstructured) or self.of != "weights":
            raise WfbenchError(f"pattern {self.pattern!r} of {self.of} is not supported; use Unstructured() of weights")

    def removed(self, weights: int) -> int:
        """How many of `weights` go."""
        return round(self.sparsity * weights)


def keep_largest(scores: Mapping[str, Tensor], target: Target) -> Params:
    """Masks (True = kept) that keep the highest scores; ties keep the later coordinate.

    Args:
        scores: one tensor a prunable weight; higher = keep.

    Raises:
        WfbenchError: NaN among the scores, or a layer that would be left with no weight under `scope="layer"`.
    """
    for name, tensor in scores.items():
        if torch.isnan(tensor).any():
            raise WfbenchError(f"the scores of {name} contain NaN")
    if target.scope == "global":
        flat = flatten(scores)
        return unflatten(keep_all_but(target.removed(len(flat)), flat), scores)
    masks = {}
    for name, tensor in scores.items():
        removed = target.removed(tensor.numel())
        if removed == tensor.numel():
            raise WfbenchError(
                f"sparsity {target.sparsity} keeps 0 of {tensor.numel()} weights in {name}; "
                'lower it or use scope="global"'
            )
        masks[name] = keep_all_but(removed, tensor)
    return masks


def keep_all_but(removed: int, scores: Tensor) -> Tensor:
    """The mask (True = kept) of one tensor that drops its `removed` lowest scores; ties keep the later coordinate."""
    kept = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[torch.sort(scores.flatten(), stable=True).indices[:removed]] = False
    return kept.reshape(scores.shape)
