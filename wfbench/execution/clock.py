"""The wall clock, with what a device was asked all done."""

import time

import torch


def now(device: torch.device) -> float:
    """Seconds, of which only differences mean anything."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
