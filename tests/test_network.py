"""Which coordinates there are, and that the dense network stays what it is."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.cases import NETWORKS, Medley, blob_network, blobs, trained_looking
from wfbench import Labeled, Network, WfbenchError
from wfbench.network import flatten, unflatten


def test_prunable_and_movable_coordinates() -> None:
    net = Network(Medley())
    assert list(net.weights) == ["conv.weight", "line.weight", "token.weight", "out.weight"]
    assert list(net.movable) == [name for name, _ in Medley().named_parameters()]


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_modules(name: str) -> None:
    build, shape = NETWORKS[name]
    module = trained_looking(build)
    net, x = Network(module), torch.randn(3, *shape, dtype=torch.float64)
    torch.testing.assert_close(net.logits(net.weights, x), module(x))
    halved = {key: weight / 2 for key, weight in net.weights.items()}
    changed = net.module()
    changed.load_state_dict({**module.state_dict(), **halved})
    torch.testing.assert_close(net.logits(halved, x), changed(x))
    torch.testing.assert_close(net.logits({}, x), module(x))


def test_the_network_is_a_frozen_copy() -> None:
    module = blob_network()
    net, x = Network(module), blobs(4, 0)[0]
    before = net.logits({}, x)
    for parameter in module.parameters():
        parameter.data.zero_()
    copy = net.module()
    copy[0].weight.data.zero_()
    net.state()["0.weight"].zero_()
    assert torch.equal(net.logits({}, x), before)
    assert not net.module().training


def test_loss_is_mean_cross_entropy() -> None:
    x, y = blobs(9, 0)
    net = Network(blob_network())
    expected = -torch.stack([net.logits({}, x)[i].log_softmax(0)[y[i]] for i in range(9)]).mean()
    torch.testing.assert_close(net.loss({}, Labeled(x, y)), expected)


def test_layer_inputs_reproduce_the_layers() -> None:
    net, x = Network(blob_network()), blobs(5, 0)[0]
    inputs = net.layer_inputs(x)
    assert list(inputs) == list(net.weights)
    module = net.module()
    torch.testing.assert_close(module[3](inputs["3.weight"]), module(x))
    assert torch.equal(inputs["0.weight"], x)


@pytest.mark.parametrize("name", NETWORKS)
def test_places_are_the_multiply_accumulates_of_a_weight(name: str) -> None:
    """Against torch's own counter, layer by layer."""
    build, shape = NETWORKS[name]
    module, x = build().eval(), torch.randn(1, *shape)
    net = Network(module)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    counted = {
        path.partition(".")[2] + ".weight": sum(flops.values()) // 2
        for path, flops in counter.get_flop_counts().items()
    }
    found = {weight: times * net.weights[weight].numel() for weight, times in net.places(x).items()}
    assert found == {weight: counted[weight] for weight in net.weights}


def test_flatten_is_row_major_and_invertible() -> None:
    params = {"a": torch.arange(6).reshape(2, 3), "b": torch.arange(6, 8)}
    assert flatten(params).tolist() == list(range(8))
    back = unflatten(flatten(params), params)
    assert all(torch.equal(back[name], params[name]) for name in params)


def test_nothing_to_prune_is_an_error() -> None:
    with pytest.raises(WfbenchError, match="no linear or convolution weight"):
        Network(nn.Sequential(nn.ReLU()))
