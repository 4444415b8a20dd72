"""Layers called in the one way that hooks see: as modules, what they read given by position."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@contextmanager
def plain_calls(module: nn.Module) -> Iterator[None]:
    """Inside, layers called by keyword are called by position, and attention's output projection is called.

    torch's `nn.MultiheadAttention` hands that projection's weight to a function. Here it runs with the identity in its
    place, which leaves the values as they are, and the projection follows.
    """
    with ExitStack() as undo:
        for one in module.modules():
            if isinstance(one, LAYERS):
                hook = one.register_forward_pre_hook(_by_position, prepend=True, with_kwargs=True)
                undo.callback(hook.remove)
            if isinstance(one, nn.MultiheadAttention) and "forward" not in vars(one):
                one.forward = partial(_attend, one)  # type: ignore[method-assign]
                undo.callback(delattr, one, "forward")
        yield


def _by_position(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    if inputs or not named:
        return None
    first = "input" if "input" in named else next(iter(named))
    return (named[first],), {key: value for key, value in named.items() if key != first}


def _attend(attention: nn.MultiheadAttention, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    projection = attention.out_proj
    attention.out_proj = _identity(projection)  # type: ignore[assignment]
    try:
        found, shares = type(attention).forward(attention, *args, **kwargs)
    finally:
        attention.out_proj = projection
    return projection(found), shares


def _identity(like: nn.Linear) -> nn.Module:
    found = nn.Identity()
    found.weight = torch.eye(len(like.weight), dtype=like.weight.dtype, device=like.weight.device)
    found.bias = torch.zeros_like(found.weight[0])
    return found
