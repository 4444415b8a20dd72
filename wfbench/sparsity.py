"""What is asked of a pruner: how much, in which pattern, allocated over which scope; and masks that meet it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wfbench.errors import BrokenRule, WfbenchError
from wfbench.modules import counts_of
from wfbench.network import Network, Params, flatten, unflatten
from wfbench.pruned import Pruned

Scope: TypeAlias = Literal["global", "layer"]
Unit: TypeAlias = Literal["weights", "filters", "params", "macs"]


class Pattern(ABC):
    """Which weights may only go together, and how a result is counted and measured."""

    name: ClassVar[str]
    units: ClassVar[tuple[Unit, ...]] = ("weights",)
    """What its sparsity may count."""
    in_stages: ClassVar[bool] = True
    """It can be reached by way of smaller sparsities."""

    @classmethod
    def for_task(cls, module: Callable[[], nn.Module], x: Tensor, of: Unit) -> "Pattern":
        """The pattern on a task.

        Args:
            module: makes the dense network, for patterns that have to know it.
            x: one sample `[1, *input]`.
            of: what sparsities count.
        """
        return cls()

    def check(self, target: "Target") -> None:  # noqa: B027, most patterns meet every target
        """Raises WfbenchError for a target that the pattern cannot meet."""

    def masks(self, scores: Mapping[str, Tensor], target: "Target") -> Params:
        """The masks (True = kept) that keep the highest scores of single weights; see `keep_largest`."""
        raise WfbenchError(f"scores of single weights make no mask of the pattern {self.name}")

    def dictated(
        self, scores: Float[Tensor, "out in *kernel"], target: "Target"
    ) -> Bool[Tensor, "out in *kernel"] | None:
        """The mask of one weight where the pattern leaves only the ranking open; None where any weight may go."""
        return None

    @abstractmethod
    def achieved(self, target: "Target", net: Network, pruned: Pruned, x: Tensor) -> float:
        """The sparsity, counted on the weights.

        Args:
            x: one sample `[1, *input]`, for patterns that have to trace the network.

        Raises:
            BrokenRule: weights or mask do not meet the target.
        """

    def measured(self, net: Network, pruned: Pruned, x: Tensor) -> dict[str, Any]:
        """Further fields of the record; `x [1, *input]` is one sample."""
        return {}


@dataclass(frozen=True)
class Unstructured(Pattern):
    """Any weight may go.

    Args:
        places: `Network.places(x).items()`, how often a sample is multiplied with each weight of a layer; needed where
            the sparsity counts MACs, as in the paper's FLOP targets.
    """

    name: ClassVar[str] = "unstructured"
    units: ClassVar[tuple[Unit, ...]] = ("weights", "macs")
    places: tuple[tuple[str, int], ...] = ()

    @classmethod
    def for_task(cls, module: Callable[[], nn.Module], x: Tensor, of: Unit) -> Pattern:
        return cls(tuple(Network(module()).places(x).items())) if of == "macs" else cls()

    def check(self, target: "Target") -> None:
        if target.of == "macs" and not self.places:
            raise WfbenchError("to count MACs of single weights, give Unstructured(tuple(net.places(x).items()))")

    def masks(self, scores: Mapping[str, Tensor], target: "Target") -> Params:
        if target.scope == "global":
            return unflatten(self._globally(scores, target), scores)
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

    def _globally(self, scores: Mapping[str, Tensor], target: "Target") -> Tensor:
        """The mask (True = kept), flat, whose removed weights count for the target's share: the lowest scores go."""
        flat = flatten(scores)
        if target.of == "weights":
            return keep_all_but(target.removed(len(flat)), flat)
        costs = self.costs(target, scores)
        each = flatten({name: torch.full_like(s, costs[name], dtype=torch.int64) for name, s in scores.items()})
        spent = each[torch.sort(flat, stable=True).indices].cumsum(0)
        wanted = math.ceil(target.sparsity * int(spent[-1]))
        return keep_all_but(int((spent < wanted).sum()) + (wanted > 0), flat)

    def costs(self, target: "Target", weights: Mapping[str, Tensor]) -> dict[str, int]:
        """What one weight of each layer counts for: 1, or its multiply-accumulates in one sample."""
        if target.of == "weights":
            return dict.fromkeys(weights, 1)
        places = dict(self.places)
        if unknown := weights.keys() - places.keys():
            raise WfbenchError(f"the pattern's places are of another network: they lack {min(unknown)}")
        return {name: places[name] for name in weights}

    def achieved(self, target: "Target", net: Network, pruned: Pruned, x: Tensor) -> float:
        """Weights and mask meet the target to one weight, or one a layer under `scope="layer"`."""
        layers, sizes, costs = list(net.weights), _sizes(net), self.costs(target, net.weights)
        groups = [[layer] for layer in layers] if target.scope == "layer" else [layers]
        removals = removed_weights(net, pruned)
        for what, found in removals.items():
            for group in groups:
                removed, whole = (sum(costs[name] * of[name] for name in group) for of in (found, sizes))
                if abs(removed - target.sparsity * whole) > max(costs[name] for name in group):
                    where = f"of {group[0]}" if target.scope == "layer" else "in all"
                    raise BrokenRule(
                        f"{removed} of {whole} {target.of} {where} are {what}; the target is sparsity {target.sparsity}"
                    )
        zero = removals["zero"]
        return sum(costs[name] * zero[name] for name in layers) / sum(costs[name] * sizes[name] for name in layers)


@dataclass(frozen=True)
class NM(Pattern):
    """At most n of every m consecutive input channels stay, at each place of the kernel (2:4 by default).

    What sparse tensor cores take: Mishra et al. 2021, "Accelerating sparse deep neural networks", and the masks of
    NVIDIA's ASP. A linear layer has one place; the channels of a grouped convolution are those that one filter reads.

    A last group of m' < m channels counts as filled up with zeros: at most n of the m' stay, so that m' − n go, and
    none where m' ≤ n. Depthwise convolutions and first layers on grey images stay dense under 2:4. `Target.sparsity`
    is 1 − n/m, what whole groups lose; the achieved sparsity of a network with shorter groups is below it.
    """

    name: ClassVar[str] = "n:m"
    in_stages: ClassVar[bool] = False
    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise WfbenchError(f"{self.n}:{self.m} is no pattern; n must be at least 1 and below m")

    def check(self, target: "Target") -> None:
        if target.sparsity not in (0, 1 - self.n / self.m):
            raise WfbenchError(
                f"{self.n}:{self.m} removes {1 - self.n / self.m:g} of the weights, not {target.sparsity}"
            )

    def masks(self, scores: Mapping[str, Tensor], target: "Target") -> Params:
        if target.sparsity == 0:
            return {name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in scores.items()}
        return {name: self.mask(tensor) for name, tensor in scores.items()}

    def dictated(
        self, scores: Float[Tensor, "out in *kernel"], target: "Target"
    ) -> Bool[Tensor, "out in *kernel"] | None:
        return self.mask(scores) if target.sparsity > 0 else None

    def grouped(self, weight: Float[Tensor, "out in *kernel"], fill: float) -> Float[Tensor, "out *kernel groups m"]:
        """The input channels at each place of the kernel, the last group filled up."""
        channels = weight.movedim(1, -1)
        return functional.pad(channels, (0, -channels.shape[-1] % self.m), value=fill).unflatten(-1, (-1, self.m))

    def mask(self, scores: Float[Tensor, "out in *kernel"]) -> Bool[Tensor, "out in *kernel"]:
        """The n highest scores of every group (True = kept); ties keep the later ones."""
        groups = self.grouped(scores.double(), -torch.inf)
        order = groups.argsort(dim=-1, stable=True)
        kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., self.m - self.n :], True)
        return kept.flatten(-2)[..., : scores.shape[1]].movedim(-1, 1).contiguous()

    def columns(self, shape: Sequence[int]) -> list[Int[Tensor, " k"]]:
        """The columns of a weight's matrix `[out, in × kernel]` that are a group, group after group.

        Args:
            shape: the weight's, `[out, in, *kernel]`.
        """
        places = torch.arange(math.prod(shape[1:])).reshape(shape[1], -1).T
        return [group for place in places for group in place.split(self.m)]

    def achieved(self, target: "Target", net: Network, pruned: Pruned, x: Tensor) -> float:
        """No group keeps more than n, and no more is removed than that asks for.

        Raises:
            WfbenchError: the network has transposed convolutions, whose weights are stored `[in, out, *kernel]`.
        """
        most_kept = self.n if target.sparsity > 0 else self.m
        for name, asked in self.masks(net.weights, target).items():
            if getattr(net.layer_of(name), "transposed", False):
                raise WfbenchError(f"{name} is of a transposed convolution, which {self.n}:{self.m} does not cover")
            for what, kept in (
                ("non-zero weights", pruned.state[name] != 0),
                ("weights in the mask", pruned.mask[name]),
            ):
                if (most := int(self.grouped(kept.double(), 0.0).sum(-1).max())) > most_kept:
                    raise BrokenRule(f"{name} has groups with {most} {what}; the pattern is {self.n}:{self.m}")
            wanted = int((~asked).sum())
            if (removed := int((~pruned.mask[name]).sum())) != wanted:
                raise BrokenRule(
                    f"{removed} weights of {name} are outside the mask; {self.n}:{self.m} removes {wanted}"
                )
        return zero_share(net, pruned)


@dataclass(frozen=True)
class Target:
    """A sparsity to reach.

    Args:
        sparsity: fraction to remove, in [0, 1), of what `of` counts.
        pattern: which weights go together.
        scope: `global`, one ranking over all layers; `layer`, every layer to the same sparsity.
        of: what the sparsity counts.
    """

    sparsity: float
    pattern: Pattern = Unstructured()
    scope: Scope = "global"
    of: Unit = "weights"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise WfbenchError(f"sparsity {self.sparsity} is outside [0, 1): it is the fraction removed")
        if self.scope not in ("global", "layer"):
            raise WfbenchError(f'scope "{self.scope}" is unknown; use "global" or "layer"')
        if self.of not in self.pattern.units:
            raise WfbenchError(
                f"the pattern {self.pattern.name} counts {' or '.join(self.pattern.units)}, not {self.of}"
            )
        self.pattern.check(self)

    def removed(self, weights: int) -> int:
        """How many of `weights` go."""
        return round(self.sparsity * weights)


def keep_largest(scores: Mapping[str, Tensor], target: Target) -> Params:
    """Masks (True = kept) that keep the highest scores; ties keep the later coordinate.

    Args:
        scores: one tensor a prunable weight; higher = keep.

    Raises:
        WfbenchError: NaN among the scores, a layer that would be left with no weight under `scope="layer"`, or a
            pattern of whole channels, which scores of single weights do not make.
    """
    for name, tensor in scores.items():
        if torch.isnan(tensor).any():
            raise WfbenchError(f"the scores of {name} contain NaN")
    return target.pattern.masks(scores, target)


def keep_all_but(removed: int, scores: Tensor) -> Tensor:
    """The mask (True = kept) of one tensor that drops its `removed` lowest scores; ties keep the later coordinate."""
    if removed == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    flat = scores.flatten()  # the k-th value is faster than a sort, where CUDA's is not deterministic
    last = flat.kthvalue(removed).values if flat.device.type == "cpu" else flat.sort().values[removed - 1]
    equal, below = flat == last, (flat < last).sum()
    return (~(flat <= last) | (equal & (equal.cumsum(0) > removed - below))).reshape(scores.shape)


def removed_weights(net: Network, pruned: Pruned) -> dict[str, dict[str, int]]:
    """How many weights of every layer went, by what they are and by what the mask says; dense zeros are no removal."""
    masked = {name: ~pruned.mask[name] for name in net.weights}
    zero = {name: (pruned.state[name] == 0) & ((w != 0) | masked[name]) for name, w in net.weights.items()}
    return {
        "zero": counts_of({name: gone.sum() for name, gone in zero.items()}),
        "outside the mask": counts_of({name: gone.sum() for name, gone in masked.items()}),
    }


def zero_share(net: Network, pruned: Pruned) -> float:
    """The share of the prunable weights that are zero and were not before, or are outside the mask."""
    return sum(removed_weights(net, pruned)["zero"].values()) / sum(_sizes(net).values())


def _sizes(net: Network) -> dict[str, int]:
    return {name: weight.numel() for name, weight in net.weights.items()}
