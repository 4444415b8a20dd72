"""A layer as matrices of patches: against the layer itself and torch's own unfold."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wfbench import Network, Target, WfbenchError
from wfbench.layers import as_matrices, check_patches, from_matrices, patches, sums_of_squares
from wfbench.linalg import damped
from wfbench.pruner import only_layer_scope


class PadsItself(nn.Conv2d):
    """Zeros below and to the right alone, which no declaration tells."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class AsksForSame(nn.Conv2d):
    """Another padding than it declares, by the operation's own word for it."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(x, weight, bias=bias, padding="same")


class ScalesItsInput(nn.Linear):
    """Multiplies its weight with something else than what it reads."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x / x.norm(dim=-1, keepdim=True), self.weight, self.bias)


class ScalesItsWeight(nn.Linear):
    """Multiplies something else than its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight / self.weight.norm(), self.bias)


class DoublesItsOutput(nn.Linear):
    """The product is not what it puts out."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * functional.linear(x, self.weight, self.bias)


LAYERS = {
    "linear": (nn.Linear(5, 3, bias=False), (4, 5)),
    "tokens": (nn.Linear(5, 3, bias=False), (4, 7, 5)),
    "conv": (nn.Conv2d(3, 4, 3, padding=1, bias=False), (2, 3, 6, 5)),
    "strided": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), (2, 3, 6, 5)),
    "dilated": (nn.Conv2d(2, 4, 3, dilation=2, padding=2, bias=False), (2, 2, 7, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (2, 4, 5, 5)),
    "line": (nn.Conv1d(3, 2, 3, stride=2, bias=False), (2, 3, 9)),
    "volume": (nn.Conv3d(2, 2, 2, bias=False), (1, 2, 3, 4, 3)),
    "reflected": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", bias=False), (2, 3, 6, 5)),
    "replicated": (nn.Conv3d(1, 2, 3, padding=1, padding_mode="replicate", bias=False), (2, 1, 3, 4, 3)),
    "circular": (nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 2), padding_mode="circular", bias=False), (2, 3, 6, 5)),
    "same": (nn.Conv2d(4, 4, (4, 3), padding="same", dilation=(2, 1), groups=2, bias=False), (2, 4, 6, 5)),
    "same, reflected": (nn.Conv1d(4, 4, 3, padding="same", padding_mode="reflect", bias=False), (2, 4, 6)),
    "valid": (nn.Conv2d(3, 4, 3, padding="valid", bias=False), (2, 3, 6, 5)),
    "transposed line": (nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2, bias=False), (2, 4, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, (3, 2), (2, 1), (1, 0), dilation=(1, 2), bias=False), (2, 4, 5, 4)),
    "transposed, cut": (nn.ConvTranspose2d(4, 6, 2, padding=2, bias=False), (2, 4, 8, 7)),
    "transposed volume": (nn.ConvTranspose3d(2, 2, 2, 2, bias=False), (2, 2, 3, 3, 2)),
    "pads itself": (PadsItself(3, 4, 3, 2, bias=False), (2, 3, 6, 5)),
    "asks for same": (AsksForSame(3, 4, 4, bias=False), (2, 3, 6, 5)),
    "scales its input": (ScalesItsInput(5, 3, bias=False), (4, 7, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_the_matrices_are_the_layers_output(name: str) -> None:
    layer, shape = LAYERS[name]
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    out = patches(layer, x) @ as_matrices(layer, layer.weight).mT  # [g, m, out]
    expected = layer(x)
    if isinstance(layer, nn.Linear):
        expected = expected.reshape(-1, expected.shape[-1])
    else:
        expected = expected.movedim(1, -1).reshape(-1, expected.shape[1])
    torch.testing.assert_close(out.transpose(0, 1).reshape(expected.shape), expected)
    assert torch.equal(from_matrices(layer, as_matrices(layer, layer.weight)), layer.weight)
    squares, places = sums_of_squares(layer, x)
    torch.testing.assert_close(squares, patches(layer, x).square().sum(1))
    assert places == patches(layer, x).shape[1]


def test_damping_is_a_share_of_the_mean_diagonal_of_each_group() -> None:
    moment = torch.stack([torch.diag(torch.tensor([1.0, 3.0])), torch.zeros(2, 2)]).double()
    assert damped(moment, 0.5).tolist() == [[[2, 0], [0, 4]], [[1, 0], [0, 1]]]


def test_errors_name_what_to_do() -> None:
    with pytest.raises(WfbenchError, match='wanda chooses within a layer; ask for a Target with scope="layer"'):
        only_layer_scope("wanda", Target(0.5))
    only_layer_scope("wanda", Target(0.5, scope="layer"))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (ScalesItsWeight(3, 3), "the forward pass of a ScalesItsWeight is not one product with its weight as it is"),
        (DoublesItsOutput(3, 3), "the forward pass of a DoublesItsOutput is not one product"),
    ],
)
def test_a_layer_whose_output_is_another_product_is_named(layer: nn.Module, why: str) -> None:
    net = Network(nn.Sequential(nn.Linear(3, 3), layer))
    with pytest.raises(WfbenchError, match=rf"what layer 1 multiplies is not known \({why}"):
        check_patches(net, torch.randn(2, 3))


def test_rounding_of_a_bias_far_above_the_product_is_no_disagreement() -> None:
    net = Network(nn.Sequential(nn.Linear(3, 3)))
    check_patches(net, torch.randn(2, 3) * 1e-12)


def test_a_transposed_convolution_given_its_output_size_is_named() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose1d(2, 2, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x, output_size=[10]).flatten(1)

    with pytest.raises(WfbenchError, match="what layer up multiplies is not known"):
        check_patches(Network(Sized()), torch.randn(2, 2, 4))


def test_what_the_patches_are_held_against_is_looked_at_once() -> None:
    net, passes = Network(nn.Sequential(nn.Linear(3, 3))), []
    check_patches(net, torch.randn(2, 3))
    with net.hooked(lambda *_: passes.append(1)):
        check_patches(net, torch.randn(2, 3))
    assert not passes
