"""BatchNorm re-estimation against moments computed by hand."""

import pytest
import torch
from torch import Tensor, nn

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


class Branches(nn.Module):
    """A norm behind a sum of two branches, and one for single values."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.other, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.last = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.norm(x + self.other(x)).mean((2, 3)))


def branches() -> tuple[Network, Unlabeled]:
    torch.manual_seed(0)
    return Network(Branches().double().eval()), Unlabeled(torch.randn(7, 2, 5, 5).double())


def test_samples_in_parts_give_the_statistics_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's own, of all samples at once; the variance of seven values tells one estimate from the other."""
    net, data = branches()
    pruned = pruned_at(net, 0.3)
    whole = BatchNormReestimation().apply(net, pruned, data).state
    for parts in (2, 7):
        monkeypatch.setattr("wfbench.walk.NUMBERS", 7 * 100 // parts)
        with monkeypatch.context() as patch:
            patch.setattr("wfbench.recoveries.base._at_once", None)  # not called
            found = BatchNormReestimation().apply(net, pruned, data).state
        assert found.keys() == whole.keys()
        for name, tensor in whole.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-14)
    assert any((whole[name] != tensor).any() for name, tensor in pruned.state.items())


class Again(nn.Module):
    """A norm that is called twice, and one that never is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.idle = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(self.norm(x)))


def test_norms_that_are_called_twice_or_never_see_all_samples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = Network(Again().eval()), Unlabeled(blobs(12, 4)[0])
    pruned = pruned_at(net, 0.3)
    whole = BatchNormReestimation().apply(net, pruned, data).state
    monkeypatch.setattr("wfbench.walk.NUMBERS", 4)
    found = BatchNormReestimation().apply(net, pruned, data).state
    assert all(torch.equal(tensor, found[name]) for name, tensor in whole.items())
    assert (whole["norm.running_var"] != 1).all()


def test_a_network_without_batchnorm_and_no_recovery_stay_the_same() -> None:
    net = Network(tiny_network())
    pruned = pruned_at(net, 0.5)
    data = Unlabeled(torch.randn(5, 2, dtype=torch.float64))
    for found in (BatchNormReestimation().apply(net, pruned, data), NoRecovery().apply(net, pruned, None)):
        assert all(torch.equal(found.state[name], pruned.state[name]) for name in pruned.state)
