"""A layer as matrices of patches: against the layer itself and torch's own unfold."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.cases import NETWORKS, Twice, trained_looking
from wfbench import Network, Target, WfbenchError
from wfbench.layers import as_matrices, damped, only_layer_scope, patches
from wfbench.walk import call_order, one_by_one, second_moments

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
}


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


def test_second_moments_are_those_of_torchs_unfold() -> None:
    module = trained_looking(NETWORKS["resnet20"][0])
    net, x = Network(module), torch.randn(5, 1, 28, 28, dtype=torch.float64)
    found, inputs = second_moments(net, x), net.layer_inputs(x)
    for name in net.weights:
        layer = net.layer_of(name)
        if isinstance(layer, nn.Linear):
            rows = inputs[name]
        else:
            columns = functional.unfold(inputs[name], layer.kernel_size, 1, layer.padding, layer.stride)
            rows = columns.transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(found[name][0], rows.T @ rows / len(rows))


def test_second_moments_count_every_call_and_leave_uncalled_layers_zero() -> None:
    module = trained_looking(Twice)
    module.idle = nn.Linear(3, 3).double()
    net, x = Network(module), torch.randn(40, 4, dtype=torch.float64)
    found = second_moments(net, x)
    rows = torch.cat([x, torch.tanh(module.first(x))]).detach()
    torch.testing.assert_close(found["first.weight"][0], rows.T @ rows / 80)
    assert not found["idle.weight"].any()
    assert call_order(net, x[:1]) == ["unread.weight", "first.weight", "out.weight", "idle.weight"]


def test_one_by_one_shows_each_layer_what_the_pruned_ones_before_it_give() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    net, x = Network(module), torch.randn(50, 4, dtype=torch.float64)
    seen = {}

    def change(name: str, matrices: torch.Tensor, moment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen[name] = moment[0]
        return matrices + 1, torch.arange(matrices.numel()).reshape(matrices.shape) % 2 == 0

    weights, masks = one_by_one(net, x, change)
    first = torch.where(masks["0.weight"], module[0].weight + 1, 0)
    torch.testing.assert_close(weights["0.weight"], first)
    hidden = torch.relu(x @ first.T + module[0].bias)
    torch.testing.assert_close(seen["0.weight"], x.T @ x / 50)
    torch.testing.assert_close(seen["2.weight"], hidden.T @ hidden / 50)


def test_damping_is_a_share_of_the_mean_diagonal_of_each_group() -> None:
    moment = torch.stack([torch.diag(torch.tensor([1.0, 3.0])), torch.zeros(2, 2)]).double()
    assert damped(moment, 0.5).tolist() == [[[2, 0], [0, 4]], [[1, 0], [0, 1]]]


def test_errors_name_what_to_do() -> None:
    with pytest.raises(WfbenchError, match='wanda chooses within a layer; ask for a Target with scope="layer"'):
        only_layer_scope("wanda", Target(0.5))
    only_layer_scope("wanda", Target(0.5, scope="layer"))
    for layer in (nn.ConvTranspose2d(1, 1, 2), nn.Conv2d(1, 1, 2, padding_mode="reflect", padding=1)):
        with pytest.raises(WfbenchError, match="padding other than zeros"):
            patches(layer, torch.zeros(1, 1, 4, 4))
