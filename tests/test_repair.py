"""Recoveries in closed form against dense least squares and recomputed moments."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.cases import blob_network, blobs, trained_looking
from tests.oracles import constrained_minimum
from wfbench import Network, Pruned, Target, Unlabeled
from wfbench.linalg import solve_kept
from wfbench.network import flatten
from wfbench.recoveries.correction import ScaleAndBias
from wfbench.recoveries.repair import LeastSquaresRepair
from wfbench.sparsity import keep_largest


def magnitude(net: Network, sparsity: float) -> Pruned:
    mask = keep_largest({name: weight.abs() for name, weight in net.weights.items()}, Target(sparsity))
    return Pruned.of(net, net.weights, mask)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def normed() -> nn.Module:
    first = [nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(
        *first, nn.Conv2d(4, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(54, 3)
    )


class ChannelsFirst(nn.LayerNorm):
    """Norms over the channels of pictures, as ConvNeXt's do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def turned() -> nn.Module:
    first = [nn.ConvTranspose2d(2, 4, 2, groups=2), ChannelsFirst(4), nn.ReLU()]
    return nn.Sequential(*first, nn.ConvTranspose2d(4, 4, 1), ChannelsFirst(4), nn.Flatten(), nn.Linear(100, 3))


def problem(build: Callable[[], nn.Module], n: int, sparsity: float = 0.5) -> tuple[Network, Pruned, Tensor]:
    net = Network(trained_looking(build))
    generator = torch.Generator().manual_seed(1)
    shape = (5,) if build is perceptron else (2, 4, 4)
    return net, magnitude(net, sparsity), torch.randn(n, *shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("sparsity", [0.3, 0.6])
def test_repair_of_linear_layers_is_least_squares_with_an_intercept_on_the_kept_columns(sparsity: float) -> None:
    """Far more samples than weights and a share of 1e-12, so that the ridge is lost in 1e-6."""
    net, pruned, x = problem(perceptron, 400, sparsity)
    repaired = LeastSquaresRepair(damping=1e-12).apply(net, pruned, Unlabeled(x))
    dense = now = x
    for index in (0, 2, 4):
        name = f"{index}.weight"
        wanted = functional.linear(dense, net.weights[name], net.state()[f"{index}.bias"])
        for row in range(len(net.weights[name])):
            kept = pruned.mask[name][row]
            columns = torch.cat([now[:, kept], torch.ones(len(now), 1, dtype=torch.float64)], dim=1)
            solution = torch.linalg.lstsq(columns, wanted[:, row, None], driver="gelsd").solution[:, 0]
            expected = columns @ solution
            found = functional.linear(now, repaired.state[name], repaired.state[f"{index}.bias"])[:, row]
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
            assert not repaired.state[name][row][~kept].any()
        now = torch.relu(functional.linear(now, repaired.state[name], repaired.state[f"{index}.bias"]))
        dense = torch.relu(wanted)


@pytest.mark.parametrize("n", [1, 7])
def test_inputs_that_do_not_vary_leave_the_weights_and_set_the_bias(n: int) -> None:
    """One sample, or the same one again: the bias alone brings the layer's output back, exactly."""
    net, pruned, x = problem(perceptron, 1, 0.6)
    repaired = LeastSquaresRepair().apply(net, pruned, Unlabeled(x.expand(n, -1)))
    for name in net.weights:
        assert torch.equal(repaired.state[name], pruned.state[name]), name
    torch.testing.assert_close(net.logits(repaired.state, x), net.logits({}, x), rtol=1e-12, atol=1e-12)


def test_repair_of_convolutions_solves_the_dense_constrained_quadratic() -> None:
    """The objective written out over each filter's kept and removed entries, ridge and all, and minimised by KKT."""
    net, pruned, x = problem(normed, 12)
    repaired = LeastSquaresRepair(damping=0.05).apply(net, pruned, Unlabeled(x))
    module, dense = net.module(), net.module()
    module.load_state_dict(repaired.state)
    inputs, wanted_inputs = x, x
    for index, layer in enumerate(module):
        if isinstance(layer, nn.Conv2d):
            name, groups = f"{index}.weight", layer.groups
            columns = [functional.unfold(v, layer.kernel_size, 1, layer.padding) for v in (inputs, wanted_inputs)]
            now, before = (part.transpose(1, 2).flatten(0, 1).chunk(groups, dim=1) for part in columns)
            states = (repaired.state[name], pruned.state[name], net.weights[name])
            weights = [tensor.flatten(1).chunk(groups) for tensor in states]
            masks = pruned.mask[name].flatten(1).chunk(groups)
            for group in range(groups):
                h = now[group].T @ now[group] / len(now[group])
                h = h + 0.05 * h.diagonal().mean() * torch.eye(len(h)).double()
                cross = now[group].T @ before[group] / len(now[group])
                ridge = h - now[group].T @ now[group] / len(now[group])
                for found, start, full, mask in zip(*(part[group] for part in weights), masks[group], strict=True):
                    # unconstrained minimum of ½wHw − w(C w_dense + αw_start), then the constraint w_Q = 0
                    free = torch.linalg.solve(h, cross @ full + ridge @ start)
                    _, expected = constrained_minimum(h, free, (~mask).nonzero()[:, 0].tolist())
                    torch.testing.assert_close(found, torch.where(mask, expected, 0), rtol=1e-7, atol=1e-9)
        inputs, wanted_inputs = layer(inputs).detach(), dense[index](wanted_inputs).detach()


def test_repair_lowers_the_error_and_leaves_an_unpruned_network_alone() -> None:
    for build in (perceptron, normed):
        net, pruned, x = problem(build, 30)
        repaired = LeastSquaresRepair().apply(net, pruned, Unlabeled(x))
        dense = net.logits({}, x)
        assert (net.logits(repaired.state, x) - dense).norm() < 0.7 * (net.logits(pruned.state, x) - dense).norm()
        whole = LeastSquaresRepair().apply(net, magnitude(net, 0.0), Unlabeled(x))
        for name, tensor in net.state().items():
            torch.testing.assert_close(whole.state[name], tensor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [1, 3])
def test_repair_from_fewer_samples_than_weights_stays_close_to_where_it_was(n: int) -> None:
    net, pruned, x = problem(perceptron, n)
    repaired = LeastSquaresRepair().apply(net, pruned, Unlabeled(x))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in repaired.state.values())
    dense = net.logits({}, x)
    assert (net.logits(repaired.state, x) - dense).norm() < 0.2 * (net.logits(pruned.state, x) - dense).norm()


@pytest.mark.parametrize("large", [4, 1024])
def test_solve_kept_is_a_dense_solve_of_each_rows_own_system(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfbench.linalg.LARGE", large)
    torch.manual_seed(0)
    root = torch.randn(9, 6, dtype=torch.float64)
    systems, right = torch.stack([root.T @ root, root[:7].T @ root[:7]]), torch.randn(2, 4, 6, dtype=torch.float64)
    kept = torch.rand(2, 4, 6) > 0.2
    kept[0, 0], kept[1, 1] = True, False
    found = solve_kept(systems, right, kept)
    for group, row in product(range(2), range(4)):
        where = kept[group, row]
        expected = torch.zeros(6, dtype=torch.float64)
        expected[where] = torch.linalg.solve(systems[group][where][:, where], right[group, row][where])
        torch.testing.assert_close(found[group, row], expected)


@pytest.mark.parametrize("build", [perceptron, normed, turned])
def test_correction_restores_mean_and_deviation_of_every_channel(build: Callable[[], nn.Module]) -> None:
    net, pruned, x = problem(build, 40)
    corrected = ScaleAndBias().apply(net, pruned, Unlabeled(x))
    module, dense = net.module(), net.module()
    module.load_state_dict(corrected.state)
    now = wanted = x
    for layer, before in zip(module, dense, strict=True):
        now, wanted = layer(now).detach(), before(wanted).detach()
        if getattr(layer, "bias", None) is not None:
            axes = [axis for axis in range(now.ndim) if axis != 1]
            torch.testing.assert_close(now.mean(axes), wanted.mean(axes))
            torch.testing.assert_close(now.std(axes), wanted.std(axes))
    for name, mask in pruned.mask.items():
        assert not corrected.state[name][~mask].any()


def test_correction_of_a_channel_that_went_silent_restores_its_mean_alone() -> None:
    net, pruned, x = problem(perceptron, 20)
    state = {**pruned.state, "0.weight": pruned.state["0.weight"].clone()}
    state["0.weight"][0] = 0
    silent = Pruned(state, {**pruned.mask, "0.weight": pruned.mask["0.weight"] & (state["0.weight"] != 0)})
    corrected = ScaleAndBias().apply(net, silent, Unlabeled(x))
    wanted = functional.linear(x, net.weights["0.weight"], net.state()["0.bias"])[:, 0].mean()
    torch.testing.assert_close(corrected.state["0.bias"][0], wanted)
    assert not corrected.state["0.weight"][0].any()


def test_both_keep_dtype_and_device_of_a_float32_network() -> None:
    net = Network(blob_network())
    pruned = magnitude(net, 0.5)
    for recovery in (LeastSquaresRepair(), ScaleAndBias()):
        found = recovery.apply(net, pruned, Unlabeled(blobs(20, 1)[0]))
        assert {name: tensor.dtype for name, tensor in found.state.items()} == {
            name: tensor.dtype for name, tensor in net.state().items()
        }
        assert torch.equal(flatten(found.mask), flatten(pruned.mask))
