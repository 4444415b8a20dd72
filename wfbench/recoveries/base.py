"""What happens after pruning, with the same budget: nothing, or BatchNorm re-estimation."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from wfbench.data import Unlabeled
from wfbench.errors import WfbenchError
from wfbench.licence import D, Licensed
from wfbench.modules import state_of
from wfbench.network import Network
from wfbench.pruned import Pruned


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
    """Running means and variances recomputed on the calibration inputs, all in one batch. Data: inputs alone."""

    name: ClassVar[str] = "batchnorm"

    def apply(self, net: Network, pruned: Pruned, data: Unlabeled) -> Pruned:
        module = net.module(pruned.state)
        norms = refuse_single_values(module)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        if norms:
            with torch.no_grad():
                module(data.inputs.to(net.device))
        state = state_of(module)
        for name in pruned.state:  # a counter of batches is no science: it stays as it was
            if name.endswith("num_batches_tracked"):
                state[name] = pruned.state[name]
        return replace(pruned, state=state)


def refuse_single_values(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The module's BatchNorms, which from now on say so where they are to take statistics of one value a channel."""

    def refuse(name: str, norm: nn.Module, x: Tensor) -> None:
        if norm.training and x.numel() == x.shape[1]:
            raise WfbenchError(
                f"{name} has one value a channel to take its variance of, a single sample's; give more samples, or a "
                "recovery that leaves the statistics of norms as they are, such as repair or correction"
            )

    found = {n: layer for n, layer in module.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)}
    for name, norm in found.items():
        norm.register_forward_pre_hook(lambda layer, inputs, name=name: refuse(name, layer, inputs[0]))
    return list(found.values())
