"""What a network costs to run, against counts by hand."""

import pytest
import torch
from torch import nn

from wfbench.channels.footprint import footprint


def test_parameters_and_macs_by_hand() -> None:
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1),  # 2x5x5 to 3x3x3
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 3, 2, groups=3, bias=False),  # to 3x2x2
        nn.Flatten(),
        nn.Linear(12, 4),
    )
    found = footprint(module, torch.zeros(1, 2, 5, 5))
    assert found["params"] == (2 * 3 * 9 + 3) + (3 + 3) + 3 * 4 + (12 * 4 + 4)
    assert found["macs"] == 2 * 3 * 9 * 9 + 3 * 4 * 4 + 12 * 4


def test_macs_grow_with_the_batch() -> None:
    assert footprint(nn.Linear(7, 3), torch.zeros(5, 7))["macs"] == 5 * 7 * 3


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float64, 8)])
def test_activation_memory_is_that_of_the_layer_with_the_most(dtype: torch.dtype, size: int) -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)).to(dtype)
    found = footprint(module, torch.zeros(1, 2, 5, 5, dtype=dtype))
    assert found["activation_memory"] == size * max(2 * 5 * 5 + 27, 27 + 27, 27 + 4)


def test_the_network_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    footprint(module, torch.randn(1, 1, 5, 5))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(layer._forward_hooks for layer in module.modules())
