"""The same convolution said in two ways: every layer-wise method prunes and repairs both alike."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from tests.test_layers import PadsItself
from wfbench import RECOVERIES, Labeled, Network, Pruned, Target, Unlabeled
from wfbench.harness.plugins import discover
from wfbench.layers import as_matrices

REGISTRY = discover()


class Reshaped(nn.Module):
    """Puts an axis of length one behind the channels, or takes it away."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, None]


WAYS: dict[str, tuple[nn.Module, nn.Module, tuple[int, ...]]] = {
    "line": (
        nn.Conv1d(2, 3, 3, 2, 1),
        nn.Sequential(Reshaped(), nn.Conv2d(2, 3, (1, 3), (1, 2), (0, 1))),
        (2, 7),
    ),
    "volume": (nn.Sequential(Reshaped(), nn.Conv3d(2, 3, (1, 2, 3))), nn.Conv2d(2, 3, (2, 3)), (2, 4, 5)),
    "transposed": (nn.ConvTranspose1d(4, 6, 1, groups=2), nn.Conv1d(4, 6, 1, groups=2), (4, 5)),
    "reflected": (
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 3, 3)),
        (2, 5, 4),
    ),
    "same": (nn.Conv2d(2, 3, 3, padding="same"), nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "pads itself": (
        PadsItself(2, 3, 3, 2),
        nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 3, 3, 2)),
        (2, 5, 4),
    ),
}
"""Two of a kind, and the shape of an input."""


class Headed(nn.Module):
    """A convolution, and a linear layer on its places' mean."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)).flatten(2).mean(2))


@cache
def both(way: str) -> tuple[Network, Network, Labeled]:
    """The two networks with the same weights, and samples."""
    first, second, shape = WAYS[way]
    generator = torch.Generator().manual_seed(0)
    nets = []
    for body in (first, second):
        convolution = body[1] if isinstance(body, nn.Sequential) else body
        nets.append(Network(Headed(body, len(convolution.bias)).double()))
    one, other = nets
    for name, weight in one.weights.items():
        weight.copy_(torch.randn(weight.shape, dtype=torch.float64, generator=generator))
        wanted = list(other.weights)[list(one.weights).index(name)]
        other.weights[wanted].copy_(as_matrices(one.layer_of(name), weight).reshape(other.weights[wanted].shape))
    for of, like in zip(one.movable.values(), other.movable.values(), strict=True):
        if of.ndim == 1:
            like.copy_(of)
    x = torch.randn(9, *shape, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(one.logits({}, x), other.logits({}, x))
    return one, other, Labeled(x, torch.arange(9) % 3)


def pruned_by(method: str, net: Network, data: Labeled) -> Pruned:
    pruner = REGISTRY.pruner(method)
    given = data if pruner.licence is Labeled else Unlabeled(data.inputs)
    return pruner.fit(net, given).prune(Target(0.5, scope=pruner.scope))


METHODS: dict[str, Callable[[Network, Labeled], Pruned]] = {
    **{
        name: lambda net, data, name=name: pruned_by(name, net, data)
        for name in ("lobs", "lobs-global", "obc", "sparsegpt", "wanda", "kfac", "kfac-exact")
    },
    "repair": lambda net, data: RECOVERIES["repair"].apply(net, pruned_by("wanda", net, data), Unlabeled(data.inputs)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS)
def test_both_are_pruned_alike(way: str, method: str) -> None:
    one, other, data = both(way)
    found, expected = METHODS[method](one, data), METHODS[method](other, data)
    for name, like in zip(one.weights, other.weights, strict=True):
        matrices = as_matrices(one.layer_of(name), found.state[name])
        torch.testing.assert_close(matrices, as_matrices(other.layer_of(like), expected.state[like]))
    assert any((found.state[name] == 0).any() for name in one.weights)
