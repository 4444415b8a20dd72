"""The kinds of networks that people bring: wrapped, in another precision, with logits among other outputs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wfbench.errors import WfbenchError

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def adapted(module: nn.Module) -> nn.Module:
    """`module`, changed in place so that it takes inputs of any float dtype and gives its logits alone.

    Its tensors and their names stay. Once is enough; again changes nothing.
    """
    if _logits not in module._forward_hooks.values():
        module.register_forward_pre_hook(_cast)
        module.register_forward_hook(_logits)
    return module


def as_brought(module: nn.Module) -> nn.Module:
    """`module`, changed in place so that it takes and gives what it did before it was adapted."""
    for hooks, own in ((module._forward_pre_hooks, _cast), (module._forward_hooks, _logits)):
        for key in [key for key, hook in hooks.items() if hook is own]:
            del hooks[key]
    return module


def unwrapped(module: nn.Module) -> nn.Module:
    """The network within `DataParallel`; the module itself where there is none."""
    while isinstance(module, WRAPPERS):
        module = module.module
    return module


def _cast(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs in the precision of the first parameter."""
    dtype = next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.get_default_dtype())
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)


def _logits(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
    """What the network gives, or the one `[n, c]` tensor of a tuple or dict: the one named `logits` where several are.

    Raises:
        WfbenchError: there is none, or which it is cannot be told.
    """
    if isinstance(output, Tensor):
        return output
    named: dict[Any, Any] = {}
    if isinstance(output, Mapping):
        named = dict(output)
    elif isinstance(output, (tuple, list)):
        named = dict(enumerate(output))
    if isinstance(found := named.get("logits"), Tensor):
        return found
    alike = [one for one in named.values() if isinstance(one, Tensor) and one.ndim == 2 and one.is_floating_point()]
    if len(alike) == 1:
        return alike[0]
    shapes = ", ".join(f"{key}: {list(one.shape)}" for key, one in named.items() if isinstance(one, Tensor))
    raise WfbenchError(
        f"{type(module).__name__} gives a {type(output).__name__} ({shapes or 'no tensor in it'}) with "
        f"{len(alike) or 'no'} tensors [n, classes]; return the logits alone, or in a dict under the key `logits`"
    )
