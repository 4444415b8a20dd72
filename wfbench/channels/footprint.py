"""What a network costs to run, measured on it: parameters, multiply-accumulates, activation memory, latency."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SECONDS = 0.1
"""Least time over which a latency is measured."""


def footprint(module: nn.Module, x: Tensor) -> dict[str, int | float]:
    """`params`; `macs`, half of torch's FLOP count; `activation_memory` [bytes], `latency` [s], on the input `x`.

    Activation memory is the most that one layer's inputs and output take together; latency the median of a forward
    pass, on the threads that torch has.
    """
    from torch.utils.benchmark import Timer  # slow to import, and warns where there is nvcc but no GPU

    most = 0

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal most
        tensors = [part for part in (*inputs, output) if isinstance(part, Tensor)]
        most = max(most, sum(part.numel() * part.element_size() for part in tensors))

    module.eval()
    handles = [layer.register_forward_hook(keep) for layer in module.modules() if not list(layer.children())]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    for handle in handles:
        handle.remove()
    timer = Timer("module(x)", globals={"module": module, "x": x}, num_threads=torch.get_num_threads())
    with torch.inference_mode():
        latency = timer.blocked_autorange(min_run_time=SECONDS).median
    return {
        "params": sum(parameter.numel() for parameter in module.parameters()),
        "macs": counter.get_total_flops() // 2,
        "activation_memory": most,
        "latency": latency,
    }
