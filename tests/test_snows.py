"""SNOWS: its objective by hand, its Newton step by a dense solve, and what it cannot differentiate."""

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.test_baselines import blob_net
from wfbench import Network, Target, Unlabeled, WfbenchError
from wfbench.harness.plugins import discover

REGISTRY = discover()
SNOWS = sys.modules[type(REGISTRY.pruner("snows")).__module__]


def test_snows_on_one_linear_layer_is_least_squares_on_its_mask() -> None:
    """The objective is quadratic, so Newton's step is exact; large inputs, so that its residual is reached late."""
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Linear(6, 3)).double())
    x = 1e4 * torch.randn(40, 6, dtype=torch.float64)
    pruner = type(REGISTRY.pruner("snows"))(horizon=1, newton=1, products=30, damping=0.0)
    pruned = pruner.fit(net, Unlabeled(x)).prune(Target(0.5))
    dense, mask = net.weights["0.weight"], pruned.mask["0.weight"]
    assert torch.equal(mask, dense.abs() >= dense.abs().flatten().sort().values[9])
    for row in range(3):
        expected = torch.linalg.lstsq(x[:, mask[row]], (x @ dense[row])[:, None]).solution[:, 0]
        torch.testing.assert_close(pruned.state["0.weight"][row][mask[row]], expected, rtol=1e-6, atol=1e-8)


def test_snows_damped_newton_step_is_the_dense_solution() -> None:
    torch.manual_seed(0)
    net, damping = Network(nn.Sequential(nn.Linear(5, 2, bias=False)).double()), 1e5
    x = 1e3 * torch.randn(9, 5, dtype=torch.float64)
    pruner = type(REGISTRY.pruner("snows"))(horizon=1, newton=1, products=50, damping=damping)
    pruned = pruner.fit(net, Unlabeled(x)).prune(Target(0.4))
    kept = pruned.mask["0.weight"].flatten()
    dense = net.weights["0.weight"].flatten()
    hessian = torch.kron(torch.eye(2).double(), x.T @ x) * 2 / (9 * 2)  # of the mean over samples and outputs
    right = (hessian @ torch.where(kept, 0, dense))[kept]  # minus the gradient at the weights that were only zeroed
    step = torch.linalg.solve(hessian[kept][:, kept] + damping * torch.eye(int(kept.sum())).double(), right)
    torch.testing.assert_close(pruned.state["0.weight"].flatten()[kept], dense[kept] + step, rtol=1e-7, atol=1e-9)


def test_snows_objective_leaves_later_layers_dense_and_feeds_both_networks_the_pruned_activations() -> None:
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)).double())
    x = torch.randn(6, 4, dtype=torch.float64)
    (w0, w2, w4), b0, b2 = net.weights.values(), net.state()["0.bias"], net.state()["2.bias"]
    first, middle = w0 * torch.rand(5, 4).double(), w2 * torch.rand(3, 5).double()
    fitted = type(REGISTRY.pruner("snows"))(horizon=2).fit(net, Unlabeled(x))
    found = float(fitted.objective({"0.weight": first, "2.weight": w2, "4.weight": w4}, "2.weight")(middle))

    expected = 0.0
    for sample in x:
        fed = (first @ sample + b0).tanh()
        dense, now = w2 @ fed + b2, middle @ fed + b2
        expected += float((dense - now).square().sum()) / (6 * 3)
        expected += float((w4 @ dense.tanh() - w4 @ now.tanh()).square().sum()) / (6 * 2)
    assert found == pytest.approx(expected, rel=1e-12)


class Residual(nn.Module):
    """A shortcut around two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh())
        self.second = nn.Linear(5, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(x))


def test_snows_pruned_activations_begin_at_the_residual_block() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Sequential(Residual()), nn.Linear(4, 2, bias=False)).double()
    net, x = Network(module), torch.randn(6, 3, dtype=torch.float64)
    fitted = type(REGISTRY.pruner("snows"))(horizon=2).fit(net, Unlabeled(x))
    assert list(fitted.blocks.values()) == ["0", "1.0", "1.0", "2"]
    v0, v1, v2, v3 = net.weights.values()
    w0, w1, w2 = (v * torch.rand_like(v) for v in (v0, v1, v2))  # pruned: the stem, and the block's first layer
    weights = dict(zip(net.weights, (w0, w1, v2, v3), strict=True))
    fed = x @ w0.T
    dense, now = (fed @ v1.T).tanh() @ v2.T, (fed @ w1.T).tanh() @ w2.T
    expected = (dense - now).square().mean() + ((dense - now) @ v3.T).square().mean()
    assert float(fitted.objective(weights, "1.0.second.weight")(w2)) == pytest.approx(float(expected), rel=1e-12)


def test_snows_gives_each_layer_the_pruned_ones_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = blob_net(20)
    seen: dict[str, dict[str, torch.Tensor]] = {}
    kind = type(REGISTRY.pruner("snows").fit(net, Unlabeled(data.inputs)))
    objective = kind.objective

    def watched(self: object, weights: dict[str, torch.Tensor], name: str) -> object:
        seen[name] = dict(weights)
        return objective(self, weights, name)

    monkeypatch.setattr(kind, "objective", watched)
    pruned = REGISTRY.pruner("snows").fit(net, Unlabeled(data.inputs)).prune(Target(0.6))
    first, last = net.weights
    assert torch.equal(seen[first][last], net.weights[last])
    assert torch.equal(seen[last][first], pruned.state[first])
    assert not torch.equal(pruned.state[first], net.weights[first])


def test_snows_conjugate_gradients_solve_and_stop_at_negative_curvature() -> None:
    torch.manual_seed(0)
    root = torch.randn(5, 5, dtype=torch.float64)
    matrix, right = root @ root.T + torch.eye(5).double(), 1e6 * torch.randn(5, dtype=torch.float64)
    found = SNOWS.conjugate_gradients(lambda v: matrix @ v, right, 20, 0.5)
    expected = torch.linalg.solve(matrix + 0.5 * torch.eye(5).double(), right)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-6)
    assert torch.equal(SNOWS.conjugate_gradients(lambda v: -v, right, 20, 0.0), right)


def test_snows_shortens_a_step_until_the_loss_falls_and_gives_up_uphill() -> None:
    one = torch.ones(1)

    def bowl(w: torch.Tensor) -> torch.Tensor:
        return w.square().sum()

    assert SNOWS.armijo(bowl, one, -one, 1.0, -2.0) == 1.0
    assert SNOWS.armijo(bowl, one, -2.1 * one, 1.0, -4.2) == pytest.approx(0.9)  # at 1 the loss is 1.21
    assert SNOWS.armijo(bowl, one, one, 1.0, 2.0) is None


class Attention(nn.Module):
    """One head of `scaled_dot_product_attention`, whose fused kernels have no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.inside(x).reshape(-1, 1, 5, 12).chunk(3, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))


def test_snows_differentiates_attention_twice() -> None:
    torch.manual_seed(0)
    net, x = Network(Attention().eval()), torch.randn(6, 5, 4)
    pruned = REGISTRY.pruner("snows").fit(net, Unlabeled(x)).prune(Target(0.5))
    masked = {name: torch.where(pruned.mask[name], weight, 0) for name, weight in net.weights.items()}
    dense = net.logits({}, x)
    after = (net.logits({name: pruned.state[name] for name in net.weights}, x) - dense).norm()
    assert float(after) < float((net.logits(masked, x) - dense).norm())


class FlashAttention(Attention):
    """Asks for the fused kernel, whose second derivative torch does not have."""

    def forward(self, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return super().forward(x)


class InTwo(nn.Module):
    """A hardsigmoid in operations that have a second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu6(x + 3) / 6


def outcome(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return REGISTRY.pruner("snows").fit(Network(module.eval()), Unlabeled(x)).prune(Target(0.5)).state


def test_snows_on_fused_attention_and_hardsigmoid_is_what_their_parts_give() -> None:
    torch.manual_seed(0)
    fused, plain = FlashAttention(), Attention()
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(6, 5, 4)
    for name, tensor in outcome(fused, x).items():
        torch.testing.assert_close(tensor, outcome(plain, x)[name])
    layers = nn.Linear(4, 5), nn.Linear(5, 3)
    hard, parts = (nn.Sequential(layers[0], act, layers[1]) for act in (nn.Hardsigmoid(), InTwo()))
    for name, tensor in outcome(hard, x[:, 0]).items():
        assert torch.equal(tensor, outcome(parts, x[:, 0])[name])


class Once(nn.Module):
    """torch's own hardsigmoid, past `nn.functional`, which it differentiates once."""

    def forward(self, x: Tensor) -> Tensor:
        return torch._C._nn.hardsigmoid(x)


def test_snows_says_which_operation_has_no_second_derivative() -> None:
    with pytest.raises(WfbenchError, match=r"torch cannot: derivative for aten::hardsigmoid_backward is not"):
        outcome(nn.Sequential(nn.Linear(4, 5), Once(), nn.Linear(5, 3)), torch.randn(6, 4))


def test_snows_leaves_layers_that_are_never_called_dense_under_their_mask() -> None:
    class Spare(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self[2](torch.relu(self[0](x)))
            return found

    torch.manual_seed(0)
    net = Network(Spare(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)).eval())
    pruned = REGISTRY.pruner("snows").fit(net, Unlabeled(torch.randn(6, 4))).prune(Target(0.5))
    name = "1.weight"
    assert torch.equal(pruned.state[name], torch.where(pruned.mask[name], net.weights[name], 0))


@pytest.mark.parametrize("sparsity", [0.4, 0.8])
def test_snows_brings_every_layers_features_back_on_magnitudes_mask(sparsity: float) -> None:
    net, data = blob_net(30)
    fitted = REGISTRY.pruner("snows").fit(net, Unlabeled(data.inputs))
    pruned = fitted.prune(Target(sparsity))
    magnitude = REGISTRY.pruner("magnitude").fit(net, None).prune(Target(sparsity))
    weights = dict(net.weights)
    for name, dense in net.weights.items():
        assert torch.equal(pruned.mask[name], magnitude.mask[name])
        loss = fitted.objective(weights, name)
        found, left_alone = loss(pruned.state[name]), loss(torch.where(pruned.mask[name], dense, 0))
        assert float(found) < float(left_alone)
        weights[name] = pruned.state[name]


def test_snows_drift_wants_the_dense_networks_features_of_a_network_pruned_throughout() -> None:
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Linear(4, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)).double())
    x = torch.randn(6, 4, dtype=torch.float64)
    fitted = type(REGISTRY.pruner("snows-drift"))(horizon=2).fit(net, Unlabeled(x))
    w0, w2 = net.weights.values()
    first, last = w0 * torch.rand_like(w0), torch.where(w2 > 0, w2, 0)
    expected = 0.0
    for sample in x:
        dense, now = w0 @ sample, first @ sample
        expected += float((dense - now).square().sum() + (w2 @ dense.tanh() - last @ now.tanh()).square().sum())
    found = fitted.objective({"0.weight": w0, "2.weight": last}, "0.weight")(first)
    assert float(found) == pytest.approx(expected, rel=1e-12)
    mask = {name: weight > 0 for name, weight in net.weights.items()}
    assert torch.equal(fitted.start(mask)["2.weight"], last)
