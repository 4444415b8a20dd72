"""Recoveries by gradient descent on the same samples: fine-tuning on labels, distillation from the dense network."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from wfbench.data import Labeled, Unlabeled
from wfbench.licence import D
from wfbench.network import Network, Params
from wfbench.pruned import Pruned
from wfbench.recoveries.base import BatchNormReestimation, Recovery

STEP_BATCH = 64
"""Samples a step of descent, at most."""


@dataclass(frozen=True)
class _Tuning(Recovery[D]):
    """Adam on the movable weights that were kept, from re-estimated BatchNorm statistics, which then stay.

    Batches of at most 64 samples, drawn without replacement, the order anew for every pass; the learning rate falls
    to zero along a cosine. Weights of less than float32 are moved as float32, and rounded for every pass.

    Args:
        steps: of Adam.
        rate: the first learning rate.
    """

    steps: int = 200
    rate: float = 1e-3

    @abstractmethod
    def loss(self, net: Network, data: D) -> Callable[[Params, Tensor], Tensor]:
        """The loss of a state on the samples at some indices."""

    def apply(self, net: Network, pruned: Pruned, data: D) -> Pruned:
        assert data is not None
        loss = self.loss(net, data)
        pruned = BatchNormReestimation().apply(net, pruned, Unlabeled(data.inputs))
        kept = {name: pruned.mask.get(name) for name in net.movable}
        free = {name: wide(pruned.state[name]).clone().requires_grad_() for name in net.movable}
        optimizer = torch.optim.Adam(free.values(), self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        order: list[Tensor] = []
        for _ in range(self.steps):
            order = order or list(torch.randperm(len(data)).split(STEP_BATCH))
            optimizer.zero_grad()
            value = loss({**pruned.state, **_like(free, pruned.state)}, order.pop(0))
            value.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for name, mask in kept.items():
                    if mask is not None:
                        free[name].mul_(mask)
        moved = {name: tensor.detach() for name, tensor in _like(free, pruned.state).items()}
        return replace(pruned, state={**pruned.state, **moved})


def wide(tensor: Tensor) -> Tensor:
    """As float32 where it is narrower: half precision holds neither Adam's small numbers nor sums of squares."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _like(free: Params, state: Params) -> Params:
    """In the network's own precision."""
    return {name: tensor.to(state[name].dtype) for name, tensor in free.items()}


@dataclass(frozen=True)
class FineTuning(_Tuning[Labeled]):
    """Cross-entropy on the labels. Data: inputs and labels."""

    name: ClassVar[str] = "finetune-200"

    def loss(self, net: Network, data: Labeled) -> Callable[[Params, Tensor], Tensor]:
        x, y = data.inputs.to(net.device), data.labels.to(net.device)
        return lambda state, at: functional.cross_entropy(wide(net.logits(state, x[at])), y[at])


@dataclass(frozen=True)
class LogitDistillation(_Tuning[Unlabeled]):
    """`KL(dense‖pruned)` of the predictions (Hinton et al. 2015, temperature 1). Data: inputs alone."""

    name: ClassVar[str] = "distill-logits-200"

    def loss(self, net: Network, data: Unlabeled) -> Callable[[Params, Tensor], Tensor]:
        x = data.inputs.to(net.device)
        with torch.no_grad():
            wanted = wide(net.logits({}, x)).log_softmax(1)

        def divergence(state: Params, at: Tensor) -> Tensor:
            found = wide(net.logits(state, x[at])).log_softmax(1)
            places = prod(found.shape[2:])
            return functional.kl_div(found, wanted[at], reduction="batchmean", log_target=True) / places

        return divergence


@dataclass(frozen=True)
class FeatureDistillation(_Tuning[Unlabeled]):
    """Squared error of every layer's output (convolution, linear, norm), each as a share of the dense output's energy.

    After Romero et al. 2015, "FitNets", without regressors, since the shapes agree. Data: inputs alone.
    """

    name: ClassVar[str] = "distill-200"

    def loss(self, net: Network, data: Unlabeled) -> Callable[[Params, Tensor], Tensor]:
        x = data.inputs.to(net.device)

        def outputs(state: Params, at: Tensor) -> list[Tensor]:
            seen: list[Tensor] = []

            def keep(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                seen.append(wide(output))

            with net.hooked(keep):
                net.logits(state, x[at])
            return seen

        everything = torch.arange(len(data)).split(STEP_BATCH)
        with torch.no_grad():
            parts = [outputs({}, at) for at in everything]
        wanted = [torch.cat(of_layer) for of_layer in zip(*parts, strict=True)]

        def distance(state: Params, at: Tensor) -> Tensor:
            pairs = zip(outputs(state, at), (of_layer[at] for of_layer in wanted), strict=True)
            shares = [(a - b).square().sum() / b.square().sum().clamp(min=1e-12) for a, b in pairs]
            return torch.stack(shares).mean()

        return distance


@dataclass(frozen=True)
class BriefDistillation(FeatureDistillation):
    """A few large steps towards the features, then statistics of BatchNorms anew: moved weights have put them off."""

    name: ClassVar[str] = "distill-batchnorm"
    steps: int = 15
    rate: float = 2e-3

    def apply(self, net: Network, pruned: Pruned, data: Unlabeled) -> Pruned:
        found = super().apply(net, pruned, data)
        return BatchNormReestimation().apply(net, found, Unlabeled(data.inputs))


@dataclass(frozen=True)
class FineTuningLong(FineTuning):
    """The same in 2000 steps."""

    name: ClassVar[str] = "finetune-2000"
    steps: int = 2000


@dataclass(frozen=True)
class LogitDistillationLong(LogitDistillation):
    """The same in 2000 steps."""

    name: ClassVar[str] = "distill-logits-2000"
    steps: int = 2000


@dataclass(frozen=True)
class FeatureDistillationLong(FeatureDistillation):
    """The same in 2000 steps."""

    name: ClassVar[str] = "distill-2000"
    steps: int = 2000
