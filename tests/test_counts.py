"""What is counted: parameters outside of layers, products without a weight, transposed convolutions; torch decides."""

import pytest
import torch
from torch import Tensor, nn

from tests.cases import REGISTRY
from wfbench import Filter, Network, Target, WfbenchError
from wfbench.channels.coupled import shrunk
from wfbench.channels.footprint import footprint
from wfbench.sparsity import Unit


class PerChannel(nn.Module):
    """A scale a channel that is no layer's, and a slope a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scale, self.slope = nn.Conv2d(1, 6, 3), nn.Parameter(torch.rand(6, 1, 1)), nn.PReLU(6)
        self.second, self.out = nn.Conv2d(6, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.second(self.slope(self.first(x) * self.scale)).mean((2, 3)))
        return found


class Attending(nn.Module):
    """Products of activations with activations, in which no weight has a part."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.query, self.key, self.value = (nn.Linear(4 + 4 * (i > 0), 8) for i in range(4))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.token(x))
        shares = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(2)
        found: Tensor = self.out((shares @ self.value(x)).mean(1))
        return found


NETS = {"per channel": (PerChannel, (1, 8, 8)), "attending": (Attending, (7, 4))}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("of", ["params", "macs"])
def test_the_target_is_met_by_what_torch_counts(name: str, of: Unit) -> None:
    torch.manual_seed(0)
    build, shape = NETS[name]
    net, pattern, x = Network(build()), Filter(shape), torch.zeros(1, *shape)
    for sparsity in (0.0, 0.2, 0.5):
        target = Target(sparsity, pattern, of=of)
        pruned = REGISTRY.pruner("random-filter").fit(net, None).prune(target)
        measured = pattern.measured(net, pruned, x)
        achieved = pattern.achieved(target, net, pruned, x)
        assert achieved == 1 - measured[of] / measured[f"dense_{of}"] >= sparsity
        for group, gone in pruned.removed_channels.items():  # one channel less of any group would not do
            more = {**pruned.removed_channels, group: gone[1:]}
            if gone:
                small = shrunk(net, net.state(), x, more)
                assert 1 - footprint(small, x)[of] / measured[f"dense_{of}"] < achieved


def test_attention_by_hand() -> None:
    """Seven tokens: 4 features to 8, three times 8 to 8, two products of 7x7x8, and 8 to 3 once."""
    macs = footprint(Attending().eval(), torch.zeros(1, 7, 4))["macs"]
    assert macs == 7 * 4 * 8 + 3 * 7 * 8 * 8 + 2 * 7 * 7 * 8 + 8 * 3


def test_fused_attention_counts_as_its_products() -> None:
    """Five tokens of width 8, two heads: in and out projections, scores and values, a hidden layer of 12."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval().requires_grad_(False)
    expected = 5 * 8 * 24 + 5 * 8 * 8 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 12
    assert footprint(layer, torch.zeros(1, 5, 8))["macs"] == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_transposed_convolution_multiplies_once_an_input_position() -> None:
    module = nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2), nn.Flatten(), nn.Linear(75, 2)).eval()
    x = torch.zeros(1, 2, 2, 2)
    net = Network(module)
    places = net.places(x)
    assert places == {"0.weight": 4, "2.weight": 1}
    assert footprint(module, x)["macs"] == sum(times * net.weights[name].numel() for name, times in places.items())


def test_channels_of_a_weight_that_a_function_multiplies_are_refused() -> None:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.out = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            found: Tensor = self.out(torch.relu(nn.functional.linear(x, self.second.weight, self.second.bias)))
            return found

    net, pattern = Network(Called()), Filter((4,))
    target = Target(0.5, pattern, of="macs")
    with pytest.raises(
        WfbenchError, match=r"the channels of first are cut up .* out has 5 inputs where they would reach to 6"
    ):
        pattern.measured(net, REGISTRY.pruner("random-filter").fit(net, None).prune(target), torch.zeros(1, 4))
