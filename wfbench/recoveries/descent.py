"""Recoveries by gradient descent on the same samples: fine-tuning on labels, distillation from the dense network."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, TypeAlias

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
NUMBERS = 2**27
"""Numbers that layers give, norms among them, at most, of the samples that go forward and back at a time."""
HELD = 2**29
"""Numbers of the dense network's outputs that are held; where they are more, each step computes those it needs."""

Terms: TypeAlias = Callable[[Params, Tensor], Iterator[Tensor]]
"""From a state and the indices of a step's samples to terms whose sum is the loss, one at a time."""


@dataclass(frozen=True)
class _Tuning(Recovery[D]):
    """Adam on the movable weights that were kept, from re-estimated BatchNorm statistics, which then stay.

    Batches are drawn without replacement, the order anew for every pass; the learning rate falls to zero along a
    cosine. Weights of less than float32 are moved as float32, and rounded for every pass. Samples of a
    step whose activations are too many together go through the network in parts, and their gradients are summed.

    Args:
        steps: of Adam.
        rate: the first learning rate.
        batch: samples a step, at most.
    """

    steps: int = 200
    rate: float = 1e-3
    batch: int = STEP_BATCH

    @abstractmethod
    def loss(self, net: Network, data: D) -> Terms:
        """The loss of a state on the samples at some indices, in terms of so many samples as may go at a time."""

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
            order = order or list(torch.randperm(len(data)).split(self.batch))
            optimizer.zero_grad()
            for term in loss({**pruned.state, **_like(free, pruned.state)}, order.pop(0)):
                term.backward()
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


def outputs(net: Network, state: Params, x: Tensor) -> list[Tensor]:
    """Of every layer (convolution, linear, norm), in the order of their calls, in float32 at least."""
    seen: list[Tensor] = []

    def keep(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(wide(output))

    with net.hooked(keep):
        net.logits(state, x)
    return seen


def _numbers(net: Network, x: Tensor) -> int:
    """That the layers give of one sample, at least 1."""
    with torch.no_grad():
        return sum(output.numel() for output in outputs(net, {}, x[:1])) or 1


@dataclass(frozen=True)
class FineTuning(_Tuning[Labeled]):
    """Cross-entropy on the labels. Data: inputs and labels."""

    name: ClassVar[str] = "finetune-200"

    def loss(self, net: Network, data: Labeled) -> Terms:
        x, y = data.inputs.to(net.device), data.labels.to(net.device)
        each = NUMBERS // _numbers(net, x) or 1

        def entropy(state: Params, at: Tensor) -> Iterator[Tensor]:
            for part in at.split(each):
                found = functional.cross_entropy(wide(net.logits(state, x[part])), y[part])
                yield found * (len(part) / len(at))

        return entropy


@dataclass(frozen=True)
class LogitDistillation(_Tuning[Unlabeled]):
    """`KL(dense‖pruned)` of the predictions (Hinton et al. 2015, temperature 1). Data: inputs alone."""

    name: ClassVar[str] = "distill-logits-200"

    def loss(self, net: Network, data: Unlabeled) -> Terms:
        x = data.inputs.to(net.device)
        each = NUMBERS // _numbers(net, x) or 1
        with torch.no_grad():
            wanted = torch.cat([wide(net.logits({}, part)).log_softmax(1) for part in x.split(4 * each)])

        def divergence(state: Params, at: Tensor) -> Iterator[Tensor]:
            for part in at.split(each):
                found = wide(net.logits(state, x[part])).log_softmax(1)
                places = prod(found.shape[2:])
                yield functional.kl_div(found, wanted[part], reduction="sum", log_target=True) / len(at) / places

        return divergence


@dataclass(frozen=True)
class FeatureDistillation(_Tuning[Unlabeled]):
    """Squared error of every layer's output (convolution, linear, norm), each as a share of the dense output's energy.

    After Romero et al. 2015, "FitNets", without regressors, since the shapes agree. Data: inputs alone.
    """

    name: ClassVar[str] = "distill-200"

    def loss(self, net: Network, data: Unlabeled) -> Terms:
        x = data.inputs.to(net.device)
        numbers, held = _numbers(net, x), list[Tensor]()
        each = NUMBERS // numbers or 1
        if len(data) * numbers <= HELD:
            with torch.no_grad():
                parts = [outputs(net, {}, part) for part in x.split(self.batch)]
            held = [torch.cat(of_layer) for of_layer in zip(*parts, strict=True)]

        def wanted(at: Tensor) -> list[Tensor]:
            with torch.no_grad():
                return [of_layer[at] for of_layer in held] if held else outputs(net, {}, x[at])

        def energies(of: list[Tensor]) -> Tensor:
            return torch.stack([b.square().sum() for b in of])

        def distance(state: Params, at: Tensor) -> Iterator[Tensor]:
            parts = at.split(each)
            whole = torch.stack([energies(wanted(part)) for part in parts]).sum(0) if len(parts) > 1 else None
            for part in parts:
                dense = wanted(part)
                ours = outputs(net, state, x[part])
                errors = [functional.mse_loss(a, b, reduction="sum") for a, b in zip(ours, dense, strict=True)]
                energy = energies(dense) if whole is None else whole
                yield (torch.stack(errors) / energy.clamp(min=1e-12)).mean()

        return distance


@dataclass(frozen=True)
class BriefDistillation(FeatureDistillation):
    """The same in fewer, smaller steps of 16 samples; then norms' statistics half-way to those of the moved weights.

    Weights have been fitted to the statistics before the descent, and those after it are the ones of what the norms
    now read: from few samples the first are too sure of themselves, the second undo a part of the fit.
    """

    name: ClassVar[str] = "distill-batchnorm"
    steps: int = 120
    rate: float = 5e-4
    batch: int = 16

    def apply(self, net: Network, pruned: Pruned, data: Unlabeled) -> Pruned:
        moved = super().apply(net, pruned, data)
        again = BatchNormReestimation().apply(net, moved, Unlabeled(data.inputs))
        state = {
            name: (tensor + again.state[name]) / 2 if tensor.is_floating_point() else tensor
            for name, tensor in moved.state.items()
        }
        return replace(moved, state=state)


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
