"""Gradual pruning: a little more is removed at every step, by a method that looks anew, with training in between.

Zhu & Gupta 2017, "To prune, or not to prune", cubic schedule; Singh & Alistarh 2020 prune with WoodFisher this way.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from wfbench.composed.steps import Steps
from wfbench.data import Labeled
from wfbench.errors import WfbenchError, at_least
from wfbench.execution.devices import seeded_generators
from wfbench.licence import handed
from wfbench.modules import state_of
from wfbench.network import Network, Params
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner, take_after
from wfbench.recoveries.base import refuse_single_values
from wfbench.sparsity import Target, Unstructured


def cubic(step: int, steps: int, start: float, final: float) -> float:
    """The sparsity after `step` of `steps`: `s_f + (s_0 − s_f)(1 − t)³`, t from 0 to 1; the last one is `final`."""
    left = 1 - step / steps
    return final + (start - final) * left**3


@dataclass(frozen=True)
class Gradual(Pruner[Labeled]):
    """A method's mask and update at every step of a cubic schedule, SGD on the kept weights in between.

    Called `gradual-METHOD`, with options `gradual[steps=4]-METHOD`. Everything is done with the n samples of the
    budget; with all training samples as budget it is the usual full-data setting. Within one step the mask stays;
    BatchNorm follows the batches.

    Args:
        of: the method; zero weights must rank last, as they do wherever a weight's size counts.
        steps: removals, the last one to the target.
        start: sparsity of the schedule at step 0.
        epochs: passes over the samples after every step but the last.
        last_epochs: passes after the last one.
        rate: learning rate of the first pass; it falls to zero along a cosine over all passes.
        momentum: of SGD, anew after every step.
        decay: L2 coefficient.
        batch: samples a step of SGD.
        seen: most samples, the first of the budget, that `of` is handed at every step.
    """

    source: ClassVar[str] = "Zhu & Gupta 2017, cubic schedule; Singh & Alistarh 2020, gradual pruning"
    fidelity: ClassVar[str] = "schedule by its formula; no published figure reproduced"
    of: Pruner[Any]
    steps: int = 8
    start: float = 0.05
    epochs: int = 1
    last_epochs: int = 3
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 1e-4
    batch: int = 128
    seen: int = 500

    def __post_init__(self) -> None:
        take_after(self, self.of, f"gradual-{self.of.name}", Labeled)
        object.__setattr__(self, "patterns", (Unstructured.name,))
        at_least(
            1, steps=self.steps, epochs=self.epochs, last_epochs=self.last_epochs, batch=self.batch, seen=self.seen
        )
        at_least(0, rate=self.rate, momentum=self.momentum, decay=self.decay)
        if not 0 <= self.start < 1:
            raise WfbenchError(f"start {self.start} is outside [0, 1): it is the sparsity before the first step")

    def fit(self, net: Network, data: Labeled) -> Fitted:
        return FittedGradual(net, data, self, int(torch.randint(2**31, ())))


@dataclass(frozen=True)
class FittedGradual:
    """Nothing is computed beforehand: all of it depends on the target."""

    net: Network
    data: Labeled
    options: Gradual
    seed: int

    def prune(self, target: Target) -> Pruned:
        if target.sparsity == 0:
            return Pruned.dense(self.net)
        steps, kept_steps = self.options.steps, Steps(self._key(target))
        pruned, path = Pruned.dense(self.net), []
        with tqdm(total=steps, unit="removal", desc=self.options.name, leave=False, disable=None) as bar:
            for step in range(1, steps + 1):
                share = cubic(step, steps, min(self.options.start, target.sparsity), target.sparsity)
                known = kept_steps.load(step)
                if known is None:
                    pruned = self._step(pruned, replace(target, sparsity=share), step)
                    kept_steps.keep(step, _packed(pruned), pruned.diagnostics)
                else:
                    pruned = _unpacked(self.net, *known)
                path.append((share, pruned.state))
                bar.update()
        return replace(pruned, path=tuple(path))

    def _step(self, before: Pruned, target: Target, step: int) -> Pruned:
        """Remove up to the step's sparsity from what the last step left, then train."""
        # a step is the same whether the ones before it were run or loaded
        with seeded_generators(self.seed + step, self.net.device):
            module = self.net.module(before.state)
            seen: Any = handed(self.options.of.licence, self.data.take(slice(self.options.seen)))
            found = self.options.of.fit(Network(module), seen).prune(target)
            for name, mask in found.mask.items():
                if (mask & ~before.mask[name]).any():
                    method = self.options.of.name
                    raise WfbenchError(f"{method} takes weights of {name} back; it cannot prune gradually")
            state = self._trained(found, step)
        return Pruned(state, found.mask, diagnostics=found.diagnostics)

    def _trained(self, pruned: Pruned, step: int) -> Params:
        options, module = self.options, self.net.module(pruned.state)
        refuse_single_values(module.train().requires_grad_(True))
        masks = {name: mask for name, mask in pruned.mask.items() if not mask.all()}
        optimizer = torch.optim.SGD(
            module.parameters(),
            options.rate,
            options.momentum,
            weight_decay=options.decay,
            nesterov=options.momentum > 0,
        )
        x, y = self.data.inputs.to(self.net.device), self.data.labels.to(self.net.device)
        first = (step - 1) * options.epochs
        last = options.last_epochs if step == options.steps else options.epochs
        total = (options.steps - 1) * options.epochs + options.last_epochs
        for epoch in range(first, first + last):
            batches = [at for at in torch.randperm(len(x)).split(options.batch) if len(at) > 1 or len(x) == 1]
            for number, at in enumerate(batches):
                progress = (epoch + number / len(batches)) / total
                for group in optimizer.param_groups:
                    group["lr"] = options.rate * (1 + torch.cos(torch.tensor(torch.pi * progress)).item()) / 2
                optimizer.zero_grad()
                functional.cross_entropy(module(x[at]), y[at]).backward()
                optimizer.step()
                _mask(module, masks)
        return {name: tensor.detach() for name, tensor in state_of(module.eval()).items()}

    def _key(self, target: Target) -> str:
        """A digest of everything that the steps depend on, but for the code."""
        digest = hashlib.sha256(repr((self.options, target, self.seed)).encode())
        for name, tensor in (*self.net.state().items(), ("inputs", self.data.inputs), ("labels", self.data.labels)):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:24]


def _mask(module: nn.Module, masks: Params) -> None:
    with torch.no_grad():
        for name, mask in masks.items():
            module.get_parameter(name).mul_(mask)


def _packed(pruned: Pruned) -> dict[str, Tensor]:
    states = {f"state/{name}": tensor for name, tensor in pruned.state.items()}
    return {**states, **{f"mask/{name}": mask for name, mask in pruned.mask.items()}}


def _unpacked(net: Network, tensors: dict[str, Tensor], figures: dict[str, float]) -> Pruned:
    def part(prefix: str) -> Params:
        return {
            name.removeprefix(prefix): tensor.to(net.device)
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }

    return Pruned(part("state/"), part("mask/"), diagnostics=figures)
