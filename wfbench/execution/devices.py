"""The one device that is used: whether it can be, and its random numbers beside those of the host."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from wfbench.errors import WfbenchError
from wfbench.execution.precision import precise


def usable(name: str, is_here: bool = True) -> torch.device:
    """The device, tried out where it is on this machine.

    Raises:
        WfbenchError: it is not there.
    """
    try:
        device = torch.device(name)
        home = device if is_here else torch.device("cpu")
        with precise(home):
            torch.empty(0, device=home)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise WfbenchError(f'device "{name}" cannot be used here ({reason}); use cpu or cuda') from error
    return device


@contextmanager
def seeded_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators of the host and of this device seeded, and put back afterwards; no other is touched."""
    module: Any = None if device.type == "cpu" else torch.get_device_module(device)
    index = [] if module is None else [module.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(index, device_type="cuda" if module is None else device.type):
        torch.default_generator.manual_seed(seed)
        if module is not None:
            with module.device(index[0]):
                module.manual_seed(seed)
        yield
