"""A layer as matrices of patches: against the layer itself and torch's own unfold."""

import pytest
import torch
from torch import nn

from wfbench import Target, WfbenchError
from wfbench.layers import as_matrices, only_layer_scope, patches
from wfbench.linalg import damped

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
