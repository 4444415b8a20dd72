"""What a network costs to run, measured on it: parameters, multiply-accumulates, activation memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def footprint(module: nn.Module, x: Tensor) -> dict[str, int]:
    """`params`; `macs`, half of torch's FLOP count; `activation_memory` [bytes], on the input `x`.

    Activation memory is the most that one layer's inputs and output take together.
    """
    most = 0

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal most
        tensors = [part for part in (*inputs, output) if isinstance(part, Tensor)]
        most = max(most, sum(part.numel() * part.element_size() for part in tensors))

    module.eval()
    handles = [layer.register_forward_hook(keep) for layer in module.modules() if not list(layer.children())]
    with torch.no_grad(), _plain_attention(), FlopCounterMode(display=False) as counter:
        module(x)
    for handle in handles:
        handle.remove()
    return {
        "params": sum(parameter.numel() for parameter in module.parameters()),
        "macs": counter.get_total_flops() // 2,
        "activation_memory": most,
    }


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention in single products, which the counter knows on every device, unlike the fused ones."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
