"""People's networks: rows and layer inputs are right for every weight, or refused by the layer's name."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import looped_rows
from tests.zoo import CLASSES, TIMM, ZOO
from wfbench import Labeled, Network, WfbenchError, fisher_rows
from wfbench.layers import as_matrices
from wfbench.walk import second_moments

UNSEEN = {
    "swin": r"weight of layer features\.1\.0\.attn\.qkv, .* and 1 more is used outside of the layer's own call",
    "standardised": r"what layer 0 multiplies is not known \(the forward pass of a StdConv2d is not one product",
    "timm nfnet": r"what layer stem\.conv multiplies is not known \(the forward pass of a ScaledStdConv2d",
}
"""Networks with a weight that layer-wise methods do not see, and what they say of it."""

ANIMALS = [*ZOO, *(pytest.param(name, marks=pytest.mark.skip("no timm")) for name in TIMM if name not in ZOO)]


@pytest.mark.parametrize("name", ANIMALS)
def test_rows_of_every_weight_are_autograds(name: str) -> None:
    animal = ZOO[name]
    module, x, y = animal.network(), animal.inputs(3), torch.arange(3) % CLASSES
    net = Network(module)
    rows = fisher_rows(net, Labeled(x, y), over="movable")
    for part in module.modules():
        part.inplace = False  # the oracle differentiates the module itself
    logits = module(x).detach()
    cotangents = (nn.functional.one_hot(y, CLASSES) - logits.softmax(1))[:, None]
    expected = looped_rows(module, list(net.movable), x, cotangents) / math.sqrt(3)
    torch.testing.assert_close(rows, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ANIMALS)
def test_layers_read_what_gives_their_outputs(name: str) -> None:
    """Squares of the outputs without their bias are `W XᵀX Wᵀ`; counted by hooks on a module of its own."""
    animal = ZOO[name]
    net, x = Network(module := animal.network()), animal.inputs(3)
    if name in UNSEEN:
        with pytest.raises(WfbenchError, match=UNSEEN[name]):
            second_moments(net, x)
        return
    outputs: dict[str, list[Tensor]] = {weight: [] for weight in net.weights}
    for weight, of in outputs.items():
        layer = module.get_submodule(weight.removesuffix(".weight"))
        layer.register_forward_hook(lambda layer, _, output, of=of: of.append(without_bias(layer, output)))
    with torch.no_grad():
        module(x)
    moments = second_moments(net, x)
    for weight, found in outputs.items():
        if found:  # torch's own attention calls no output projection
            matrices = as_matrices(net.layer_of(weight), net.weights[weight])
            energy = ((matrices @ moments[weight]) * matrices).sum()
            squares, places = sum(out.square().sum() for out in found), sum(out.numel() for out in found)
            torch.testing.assert_close(energy, squares * matrices.shape[:2].numel() / places)


def without_bias(layer: nn.Module, output: Tensor) -> Tensor:
    bias = torch.zeros(1) if layer.bias is None else layer.bias
    return output - (bias if isinstance(layer, nn.Linear) else bias.reshape(-1, *[1] * (output.ndim - 2)))
