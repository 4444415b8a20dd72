"""K-FAC: factors against loops, saliency and update against the dense Kronecker matrix, exact where it is exact."""

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.cases import Twice, blob_network, blobs, trained_looking
from tests.oracles import looped_rows
from tests.zoo import ZOO
from wfbench import Labeled, Network, Target, Unlabeled, fisher_rows
from wfbench.harness.plugins import discover

REGISTRY = discover()
MODULE = sys.modules[type(REGISTRY.pruner("kfac")).__module__]


def perceptron() -> tuple[Network, Labeled]:
    x, y = blobs(7, 3)
    return Network(blob_network().double()), Labeled(x.double(), y)


def fitted(name: str, net: Network, data: Labeled) -> object:
    pruner = REGISTRY.pruner(name)
    return pruner.fit(net, data if pruner.licence is Labeled else Unlabeled(data.inputs))


def raw_factors(
    name: str, net: Network, data: Labeled, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[Tensor, Tensor]]:
    """(inputs A, outputs B) of every layer before damping."""
    monkeypatch.setattr(MODULE, "damped_inverses", lambda a, b, damping: (b, a))
    found = fitted(name, net, data)
    return {key: (found.inputs[key], found.outputs[key]) for key in net.weights}


def cotangents(net: Network, data: Labeled, kind: str) -> Tensor:
    p = net.logits({}, data.inputs).softmax(1)
    if kind == "empirical":
        return (functional.one_hot(data.labels, p.shape[1]) - p)[:, None]
    return (torch.eye(p.shape[1]).double() - p[:, None]) * p.sqrt()[..., None]


@pytest.mark.parametrize(("name", "kind"), [("kfac", "empirical"), ("kfac-exact", "exact")])
def test_factors_are_the_moments_of_inputs_and_of_output_gradients(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, data = perceptron()
    found = raw_factors(name, net, data, monkeypatch)
    # gradients of log p by the layers' outputs are those by their biases
    module = net.module()
    rows = looped_rows(module, ["0.bias", "3.bias"], data.inputs, cotangents(net, data, kind))
    inputs = net.layer_inputs(data.inputs)
    for weight, g in zip(net.weights, rows.split([8, 3], dim=1), strict=True):
        a = inputs[weight]
        torch.testing.assert_close(found[weight][0], a.T @ a / 7)
        torch.testing.assert_close(found[weight][1], g.T @ g / 7)


def test_factors_of_a_convolution_average_inputs_and_add_gradients_over_places(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Network(trained_looking(lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 3))))
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    data = Labeled(x, torch.tensor([0, 1, 2, 0]))
    a, b = raw_factors("kfac", net, data, monkeypatch)["0.weight"]
    rows = functional.unfold(x, 2).transpose(1, 2).reshape(-1, 8)
    torch.testing.assert_close(a, rows.T @ rows / len(rows))
    module = net.module().requires_grad_(True)
    hidden = module[0](x)
    loss = functional.cross_entropy(module[2](module[1](hidden)), data.labels, reduction="sum")
    (g,) = torch.autograd.grad(loss, hidden)
    g = g.movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(b, g.T @ g / 4)


@pytest.mark.parametrize("name", ["kfac", "kfac-sampled", "kfac-exact"])
@pytest.mark.parametrize("sparsity", [0.3, 0.8])
def test_saliency_and_update_are_those_of_the_dense_damped_kronecker_matrix(
    name: str, sparsity: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tolerance 1e-7: the dense matrix is inverted in float64 at a condition of at most 4e4 a layer."""
    net, data = perceptron()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pruned = fitted(name, net, data).prune(Target(sparsity))
        torch.manual_seed(0)  # the sampled labels again
        factors = raw_factors(name, net, data, monkeypatch)
    inverses = []
    for a, b in factors.values():
        pi = ((a.trace() / len(a)) / (b.trace() / len(b))).sqrt()
        eyes = torch.eye(len(a), dtype=a.dtype), torch.eye(len(b), dtype=b.dtype)
        inverses.append(torch.linalg.inv(torch.kron(b + eyes[1] * 1e-5**0.5 / pi, a + eyes[0] * pi * 1e-5**0.5)))
    inverse = torch.block_diag(*inverses)
    w = torch.cat([weight.flatten() for weight in net.weights.values()])
    order = (w**2 / (2 * inverse.diagonal())).argsort()
    removed = order[: round(sparsity * len(w))]
    expected = w - inverse[:, removed] @ (w[removed] / inverse.diagonal()[removed])
    expected[removed] = 0
    found = torch.cat([pruned.state[key].flatten() for key in net.weights])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("name", "kind"), [("kfac", "empirical"), ("kfac-exact", "exact")])
def test_undamped_it_is_the_fisher_of_a_single_sample(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = perceptron()
    one = Labeled(data.inputs[:1], data.labels[:1])
    found = raw_factors(name, net, one, monkeypatch)
    rows = fisher_rows(net, one, kind)
    start = 0
    for key, weight in net.weights.items():
        part = rows[:, start : start + weight.numel()]
        start += weight.numel()
        a, b = found[key]
        torch.testing.assert_close(torch.kron(b, a), part.T @ part, rtol=1e-9, atol=1e-14)


def test_sampled_factors_tend_to_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = perceptron()
    exact = raw_factors("kfac-exact", net, data, monkeypatch)["3.weight"][1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.stack([raw_factors("kfac-sampled", net, data, monkeypatch)["3.weight"][1] for _ in range(200)])
    deviation = draws.std(0) / 200**0.5
    assert bool(((draws.mean(0) - exact).abs() <= 4.5 * deviation + 1e-12).all())


@pytest.mark.parametrize("name", ["kfac", "kfac-exact"])
def test_layers_that_the_logits_do_not_read_have_zero_factors_and_change_no_other(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = trained_looking(Twice)
    module.idle = nn.Conv3d(2, 4, 2, groups=2).double()
    net, data = Network(module), Labeled(torch.randn(5, 4).double(), torch.arange(5) % 3)
    found = raw_factors(name, net, data, monkeypatch)
    for weight, sizes in {"unread.weight": (4, 2), "idle.weight": (8, 4)}.items():
        a, b = found[weight]
        assert (len(a), len(b)) == sizes
        assert not b.any()
    assert found["first.weight"][1].any()
    assert found["out.weight"][1].any()


@pytest.mark.parametrize("name", ["kfac", "kfac-exact"])
def test_factors_do_not_hang_on_where_the_batch_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's encoder with the batch behind the words, against the same one with the batch in front."""
    found = []
    for animal in (ZOO["encoder"], ZOO["encoder, batch behind"]):
        net, data = Network(animal.network()), Labeled(animal.inputs(4), torch.arange(4) % 3)
        found.append(raw_factors(name, net, data, monkeypatch))
    front, behind = found
    for weight in front:
        torch.testing.assert_close(behind[weight], front[weight])
    assert front["encoder.layers.0.self_attn.out_proj.weight"][1].any()


@pytest.mark.parametrize("name", ["kfac", "kfac-exact"])
def test_samples_that_do_not_fit_go_a_few_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 7 samples 2 at a time: a convolution of 4 places reads patches of 8 numbers, the linear layer 12."""
    net = Network(trained_looking(lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 3))))
    data = Labeled(torch.randn(7, 2, 3, 3, dtype=torch.float64), torch.arange(7) % 3)
    whole = raw_factors(name, net, data, monkeypatch)
    seen: list[int] = []
    monkeypatch.setattr(MODULE, "PATCHES", 2 * (4 * 8 + 12) + 1)
    monkeypatch.setattr(MODULE.Factors, "_batch", property(lambda self: seen[-1], lambda self, size: seen.append(size)))
    parts = raw_factors(name, net, data, monkeypatch)
    assert seen[-4:] == [2, 2, 2, 1]
    for weight, both in whole.items():
        torch.testing.assert_close(parts[weight], both)


def test_a_layer_without_gradient_is_damped_all_the_same() -> None:
    b, a = MODULE.damped_inverses(torch.eye(2).double(), torch.zeros(3, 3).double(), 1e-2)
    torch.testing.assert_close(b, torch.eye(3).double() * 10)
    torch.testing.assert_close(a, torch.eye(2).double() / 1.1)
