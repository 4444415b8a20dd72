"""What a method returns: every weight, and which of them it kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wfbench.errors import WfbenchError
from wfbench.modules import counts_of
from wfbench.network import Network, Params


@dataclass(frozen=True)
class Pruned:
    """A pruned network.

    Args:
        state: every parameter and buffer, by name.
        mask: True = kept, for every prunable weight, and for whatever else a pattern takes out (norms, biases).
        removed_channels: indices of channels taken out, by layer.
        diagnostics: figures the method reports about itself, for the record.
        path: sparsities and states on the way here, of a method that prunes gradually.
        trials: what was tried of its hyper-parameters inside the samples, a mapping a trial; empty for none.

    Raises:
        WfbenchError: a mask that does not fit its weight, or a non-zero weight outside its mask.
    """

    state: Params
    mask: Params
    removed_channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    path: tuple[tuple[float, Params], ...] = ()
    trials: tuple[Mapping[str, float], ...] = ()

    def __post_init__(self) -> None:
        outside: dict[str, Tensor] = {}
        for name, mask in self.mask.items():
            if name not in self.state:
                raise WfbenchError(f"the mask names {name}, which the state does not hold")
            weight = self.state[name]
            if mask.dtype != torch.bool or mask.shape != weight.shape:
                raise WfbenchError(
                    f"the mask of {name} is {mask.dtype} {tuple(mask.shape)}; it must be bool {tuple(weight.shape)}"
                )
            outside[name] = ((weight != 0) & ~mask).sum()
        for name, count in counts_of(outside).items():
            if count:
                raise WfbenchError(f"{count} weights of {name} are not zero outside the mask")

    @classmethod
    def dense(cls, net: Network) -> "Pruned":
        """The dense network, everything kept."""
        return cls(net.state(), {name: torch.ones_like(w, dtype=torch.bool) for name, w in net.weights.items()})

    @classmethod
    def of(
        cls, net: Network, weights: Params, mask: Params, diagnostics: Mapping[str, float] | None = None
    ) -> "Pruned":
        """The dense state with `weights` in place, zero outside `mask`, in the network's dtype."""
        state = net.state()
        for name, weight in weights.items():
            state[name] = torch.where(mask[name], weight, 0).to(state[name].dtype)
        return cls(state, mask, diagnostics=diagnostics or {})
