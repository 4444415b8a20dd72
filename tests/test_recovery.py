"""BatchNorm re-estimation against moments computed by hand."""

import torch
from torch import nn

from tests.cases import blob_network, blobs, tiny_network
from wfbench import Network, Target, Unlabeled
from wfbench.pruned import Pruned
from wfbench.pruner import ScoreFitted
from wfbench.recoveries.base import BatchNormReestimation, NoRecovery


def pruned_at(net: Network, sparsity: float) -> Pruned:
    return ScoreFitted(net, {name: weight.abs() for name, weight in net.weights.items()}).prune(Target(sparsity))


def test_statistics_are_the_moments_of_the_pruned_networks_activations() -> None:
    net, x = Network(blob_network()), blobs(30, 4)[0]
    pruned = pruned_at(net, 0.5)
    found = BatchNormReestimation().apply(net, pruned, Unlabeled(x))
    before = x @ pruned.state["0.weight"].T + pruned.state["0.bias"]
    torch.testing.assert_close(found.state["1.running_mean"], before.mean(0))
    torch.testing.assert_close(found.state["1.running_var"], before.var(0, unbiased=True))
    others = [name for name in pruned.state if "running" not in name]
    assert all(torch.equal(found.state[name], pruned.state[name]) for name in others)
    assert found.mask is pruned.mask


def test_deeper_layers_see_normalised_inputs() -> None:
    """Two BatchNorms in a row: the second one's moments follow from the first one's batch statistics."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.BatchNorm1d(3)).eval()
    net, x = Network(module), blobs(40, 4)[0]
    found = BatchNormReestimation().apply(net, pruned_at(net, 0.3), Unlabeled(x))
    state = found.state
    first = x @ state["0.weight"].T + state["0.bias"]
    normalised = (first - first.mean(0)) / (first.var(0, unbiased=False) + 1e-5).sqrt()
    second = (normalised * state["1.weight"] + state["1.bias"]) @ state["2.weight"].T + state["2.bias"]
    torch.testing.assert_close(state["3.running_mean"], second.mean(0))
    torch.testing.assert_close(state["3.running_var"], second.var(0, unbiased=True))


def test_a_network_without_batchnorm_and_no_recovery_stay_the_same() -> None:
    net = Network(tiny_network())
    pruned = pruned_at(net, 0.5)
    data = Unlabeled(torch.randn(5, 2, dtype=torch.float64))
    for found in (BatchNormReestimation().apply(net, pruned, data), NoRecovery().apply(net, pruned, None)):
        assert all(torch.equal(found.state[name], pruned.state[name]) for name in pruned.state)
