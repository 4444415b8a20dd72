"""Attention that calls its output projection as the layer that it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def projecting(module: nn.Module) -> Iterator[None]:
    """Inside, every `nn.MultiheadAttention` calls its output projection as a module, hooks and all.

    torch hands that projection's weight to a function, where no hook sees it. Here the attention runs with the identity
    in its place, which leaves the values as they are, and the projection follows.
    """
    attentions = [
        one for one in module.modules() if isinstance(one, nn.MultiheadAttention) and "forward" not in vars(one)
    ]
    for one in attentions:
        one.forward = partial(_attend, one)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for one in attentions:
            del one.forward


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
