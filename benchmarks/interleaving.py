"""Rivals measured in turn, so that what else the machine does meets all of them."""

from collections.abc import Callable, Mapping

import torch

from wfbench.execution.clock import now

CPU = torch.device("cpu")


def medians(repeats: int, actions: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Of what each action measures, A B A B …."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            found[name].append(action())
    return {name: sorted(times)[len(times) // 2] for name, times in found.items()}


def interleaved(repeats: int, device: torch.device = CPU, **actions: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each action, after one warm-up of each."""

    def timed(action: Callable[[], object]) -> float:
        began = now(device)
        action()
        return now(device) - began

    for action in actions.values():
        action()
    return medians(repeats, {name: lambda action=action: timed(action) for name, action in actions.items()})  # type: ignore[misc]
