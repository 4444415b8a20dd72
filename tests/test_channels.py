"""Coupled channels: the sets by hand, and the masked network against the physically smaller one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.cases import NETWORKS, trained_looking
from wfbench import Network, WfbenchError
from wfbench.channels.coupled import Coupled, coupled_channels, masked, shrunk
from wfbench.tasks.models import conv_norm


class Plain(nn.Module):
    """Convolutions without norm, a flattened image, a hidden linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.second = nn.Conv2d(4, 3, 2)
        self.hidden = nn.Linear(27, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.out(torch.relu(self.hidden(x.flatten(1))))


class Separable(nn.Module):
    """Pointwise, depthwise, pointwise, with norms, and a residual around a block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(2, 4, 3)
        self.depth = conv_norm(4, 4, 3, groups=4)
        self.point = conv_norm(4, 4, 1)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.point(torch.relu(self.depth(x))))
        return self.out((x + y).mean((2, 3)))


ALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: NETWORKS[name] for name in ("mlpnet", "digits_cnn", "resnet20", "mobilenetv1")},
    "plain": (Plain, (1, 6, 6)),
    "separable": (Separable, (2, 5, 5)),
}


def groups_of(name: str) -> tuple[Network, Tensor, dict[str, Coupled]]:
    build, shape = ALL[name]
    net = Network(trained_looking(build))
    example = torch.randn(1, *shape, dtype=torch.float64)
    return net, example, {group.name: group for group in coupled_channels(net, example)}


def names(slices: tuple) -> list[str]:
    return sorted(part.name for part in slices)


def test_the_sets_of_a_network_without_norms() -> None:
    net, _, groups = groups_of("plain")
    assert list(groups) == ["first", "second", "hidden"]
    second = groups["second"]
    assert names(second.charged) == ["second.bias", "second.weight"]
    assert names(second.deleted) == ["hidden.weight"]
    assert second.consumers == ("hidden.weight",)
    (reads,) = second.deleted
    assert reads.index.tolist() == [[*range(9)], [*range(9, 18)], [*range(18, 27)]]
    flat = reads.flat([1], net.weights["hidden.weight"].shape)
    assert flat.tolist() == [27 * row + column for row in range(5) for column in range(9, 18)]


def test_the_sets_of_a_network_with_norms() -> None:
    _, _, groups = groups_of("digits_cnn")
    assert list(groups) == ["conv1.conv", "conv2.conv"]
    first = groups["conv1.conv"]
    assert names(first.charged) == ["conv1.norm.bias", "conv1.norm.weight"]
    statistics = ["conv1.norm.running_mean", "conv1.norm.running_var"]
    assert names(first.deleted) == ["conv1.conv.weight", *statistics, "conv2.conv.weight"]
    assert (first.size, first.consumers) == (16, ("conv2.conv.weight",))


def test_a_residual_sum_charges_the_norm_of_every_branch() -> None:
    _, _, groups = groups_of("resnet20")
    assert len(groups) == 12
    stage = groups["block2_0.second.conv"]
    blocks = ["block2_0.second", "block2_0.shortcut", "block2_1.second", "block2_2.second"]
    assert names(stage.charged) == sorted(f"{block}.norm.{key}" for block in blocks for key in ("weight", "bias"))
    assert set(stage.consumers) == {
        "block2_1.first.conv.weight",
        "block2_2.first.conv.weight",
        "block3_0.first.conv.weight",
        "block3_0.shortcut.conv.weight",
    }


def test_depthwise_filters_are_deleted_and_the_norm_after_them_is_charged() -> None:
    _, _, groups = groups_of("mobilenetv1")
    group = groups["point0.conv"]
    assert names(group.charged) == ["depth1.norm.bias", "depth1.norm.weight"]
    assert {"point0.conv.weight", "point0.norm.weight", "point0.norm.bias", "depth1.conv.weight"} <= set(
        names(group.deleted)
    )
    assert group.consumers == ("point1.conv.weight",)


def test_every_branch_that_is_read_is_charged_up_to_its_last_norm() -> None:
    """The stem is read by the sum and by the depthwise filters, whose norm the pointwise convolution reads."""
    _, _, groups = groups_of("separable")
    group = groups["stem.conv"]
    assert {"stem.norm.weight", "stem.norm.bias", "point.norm.weight", "depth.norm.weight"} <= set(names(group.charged))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", [0, 1])
def test_rule_11_the_masked_and_the_shrunk_network_agree(name: str, seed: int) -> None:
    net, example, groups = groups_of(name)
    generator = torch.Generator().manual_seed(seed)
    gone = {}
    for group in groups.values():
        count = int(torch.randint(1, group.size, (), generator=generator))
        gone[group.name] = torch.randperm(group.size, generator=generator)[:count].tolist()
    state = masked(net.state(), list(groups.values()), gone)
    small = shrunk(net, net.state(), example, gone)
    x = torch.randn(5, *example.shape[1:], dtype=torch.float64, generator=generator)
    torch.testing.assert_close(small(x), net.logits(state, x))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.module().parameters())


@pytest.mark.parametrize("name", ALL)
def test_zeroing_the_charged_factor_alone_removes_the_effect(name: str) -> None:
    net, example, groups = groups_of(name)
    x = torch.randn(4, *example.shape[1:], dtype=torch.float64)
    for group in list(groups.values())[:4]:
        state = net.state()
        for part in group.charged:
            state[part.name].index_fill_(part.axis, part.index[[0]].flatten(), 0)
        both = masked(net.state(), [group], {group.name: [0]})
        torch.testing.assert_close(net.logits(state, x), net.logits(both, x))


def test_what_cannot_be_done_is_said() -> None:
    net, _, groups = groups_of("plain")
    with pytest.raises(WfbenchError, match="all 3 channels of second would go; a layer keeps at least one"):
        masked(net.state(), list(groups.values()), {"second": [0, 1, 2]})
    grouped = Network(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(WfbenchError, match="0 is a grouped convolution that is not depthwise"):
        coupled_channels(grouped, torch.zeros(1, 4, 1, 1))

    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(self.layer(x).numpy(force=False))

    with pytest.raises(WfbenchError, match="Untraceable cannot be traced"):
        coupled_channels(Network(Untraceable()), torch.zeros(1, 2))
