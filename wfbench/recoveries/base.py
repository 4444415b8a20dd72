"""What happens after pruning, with the same budget: nothing, or BatchNorm re-estimation."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as Norm

from wfbench.data import Unlabeled
from wfbench.errors import WfbenchError
from wfbench.licence import D, Licensed
from wfbench.modules import state_of
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.walk import Passes, parts_of


class Recovery(Licensed[D]):
    """A step from a pruned network to a better one. `D`, the data licence, is what `apply` is handed."""

    @abstractmethod
    def apply(self, net: Network, pruned: Pruned, data: D) -> Pruned:
        """The recovered network; the mask stays."""


@dataclass(frozen=True)
class NoRecovery(Recovery[None]):
    """The pruned network as it is."""

    name: ClassVar[str] = "none"

    def apply(self, net: Network, pruned: Pruned, data: None) -> Pruned:
        return pruned


@dataclass(frozen=True)
class BatchNormReestimation(Recovery[Unlabeled]):
    """Running means and variances recomputed on the calibration inputs, all in one batch. Data: inputs alone.

    Where norms of these read too much at a time, the samples go through the network in parts that wait for each other
    before every norm; means and variances are then summed in float64.
    """

    name: ClassVar[str] = "batchnorm"

    def apply(self, net: Network, pruned: Pruned, data: Unlabeled) -> Pruned:
        module, x = net.module(pruned.state), data.inputs.to(net.device)
        norms = refuse_single_values(module)
        if norms:
            with torch.no_grad():
                order = _order(module, norms, x[:1])
                parts = parts_of(x, (numbers for _, numbers in order))
                if len(parts) > 1 and sorted(name for name, _ in order) == sorted(norms):  # each is called, and once
                    _in_parts(module, {name: norms[name] for name, _ in order}, parts)
                else:
                    _at_once(module, norms.values(), x)
        state = state_of(module)
        for name in pruned.state:  # a counter of batches is no science: it stays as it was
            if name.endswith("num_batches_tracked"):
                state[name] = pruned.state[name]
        return replace(pruned, state=state)


def _order(module: nn.Module, norms: Mapping[str, Norm], x: Tensor) -> list[tuple[str, int]]:
    """Names in the order of the calls, and how many numbers each reads; of a norm without statistics none."""
    order: list[tuple[str, int]] = []

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda norm, inputs: order.append((name, inputs[0].numel()))

    hooks = [norm.register_forward_pre_hook(noting(name)) for name, norm in norms.items()]
    module(x)
    for hook in hooks:
        hook.remove()
    return order if all(norm.running_mean is not None for norm in norms.values()) else []


def _at_once(module: nn.Module, norms: Iterable[Norm], x: Tensor) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    module(x)


def _in_parts(module: nn.Module, norms: Mapping[str, Norm], parts: Sequence[Tensor]) -> None:
    """The same of norms that are called once each, in their order; every batch is normalised by its own variance."""
    passes, counts = Passes(module, {name: [name] for name in norms}, parts), dict[str, int]()
    try:
        for name, norm in norms.items():
            read = passes.until(name)
            counts[name] = sum(x.numel() for x in read) // read[0].shape[1]
            mean = torch.stack([_by_channel(x).sum(1) for x in read]).sum(0) / counts[name]
            squares = [(_by_channel(x) - mean[:, None]).square().sum(1) for x in read]
            norm.get_buffer("running_mean").copy_(mean)
            norm.get_buffer("running_var").copy_(torch.stack(squares).sum(0) / counts[name])
    finally:
        passes.end()
    for name, count in counts.items():  # what is kept is the estimate of the variance of all there could be
        norms[name].get_buffer("running_var").mul_(count / (count - 1))


def _by_channel(x: Tensor) -> Float[Tensor, "channels m"]:
    return x.movedim(1, 0).flatten(1).double()


def refuse_single_values(module: nn.Module) -> dict[str, Norm]:
    """The module's BatchNorms, which from now on say so where they are to take statistics of one value a channel."""

    def refuse(name: str, norm: nn.Module, x: Tensor) -> None:
        if norm.training and x.numel() == x.shape[1]:
            raise WfbenchError(
                f"{name} has one value a channel to take its variance of, a single sample's; give more samples, or a "
                "recovery that leaves the statistics of norms as they are, such as repair or correction"
            )

    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, Norm)}
    for name, norm in found.items():
        norm.register_forward_pre_hook(lambda layer, inputs, name=name: refuse(name, layer, inputs[0]))
    return found
