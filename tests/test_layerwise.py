"""L-OBS, OBC, SparseGPT and Wanda against dense float64 oracles that know nothing of patches or batches."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.cases import trained_looking
from tests.oracles import constrained_minimum
from wfbench import NM, Network, Pruned, Target, Unlabeled
from wfbench.harness.plugins import discover

REGISTRY = discover()


def convolutional() -> nn.Module:
    """A plain and a grouped convolution, BatchNorm, a linear layer."""
    convolutions = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=2)]
    return nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


def matrices(net: Network, weights: dict[str, Tensor], x: Tensor) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """For every layer the groups' weight matrices and patch rows, by torch's unfold, with `weights` in place."""
    module = net.module()
    module.load_state_dict({**module.state_dict(), **weights})
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for index, layer in enumerate(module):
        name = f"{index}.weight"
        if isinstance(layer, nn.Conv2d):
            columns = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            parts = columns.transpose(1, 2).flatten(0, 1).chunk(layer.groups, dim=1)
            found[name] = list(zip(net.weights[name].flatten(1).chunk(layer.groups), parts, strict=True))
        elif isinstance(layer, nn.Linear):
            found[name] = [(net.weights[name], x)]
        x = layer(x).detach()
    return found


def pruned_by(name: str, sparsity: float, seed: int = 0) -> tuple[Network, Tensor, Pruned]:
    net = Network(trained_looking(convolutional, seed))
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    pruner = REGISTRY.pruner(name)
    return net, x, pruner.fit(net, Unlabeled(x)).prune(Target(sparsity, scope=pruner.scope))


def hessian(rows: Tensor, damping: float = 0.01) -> Tensor:
    h = (rows.T @ rows / len(rows)).double()
    return h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)


def lowest(scores: Tensor, removed: int) -> Tensor:
    """True where kept."""
    order = np.argsort(scores.flatten().numpy(), kind="stable")
    kept = torch.ones(scores.numel(), dtype=torch.bool)
    kept[torch.from_numpy(order[:removed].copy())] = False
    return kept.reshape(scores.shape)


@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_lobs_is_the_surgeon_on_the_dense_kronecker_hessian_of_each_layer(sparsity: float) -> None:
    """Tolerance 1e-8: both sides invert matrices of condition about 1e4 in float64."""
    net, x, pruned = pruned_by("lobs", sparsity)
    for name, groups in matrices(net, {}, x).items():
        scores, inverses = [], []
        for weight, rows in groups:
            inverse = torch.linalg.inv(torch.kron(torch.eye(len(weight), dtype=torch.float64), hessian(rows)))
            scores.append(weight.flatten() ** 2 / (2 * inverse.diagonal()))
            inverses.append(inverse)
        size = net.weights[name].numel()
        kept = lowest(torch.cat(scores), round(sparsity * size))
        expected = []
        for (weight, _), inverse, mask in zip(groups, inverses, kept.chunk(len(groups)), strict=True):
            new, saliencies = weight.flatten().clone(), weight.flatten() ** 2 / (2 * inverse.diagonal())
            for q in sorted((~mask).nonzero()[:, 0].tolist(), key=lambda q: float(saliencies[q])):
                new -= inverse[:, q] * new[q] / inverse[q, q]
            expected.append(torch.where(mask, new, 0))
        torch.testing.assert_close(pruned.state[name].flatten(), torch.cat(expected), rtol=1e-8, atol=1e-10)


def test_lobs_removes_a_weight_by_the_value_that_the_removals_before_it_left() -> None:
    """1.100 adds the updates up from the dense values, 1.150 is least squares; the authors' code gives 1.111."""
    moments = torch.full((3, 3), 0.5, dtype=torch.float64) + 0.5 * torch.eye(3, dtype=torch.float64)
    x = torch.linalg.cholesky(3 * moments).mT.contiguous()  # XᵀX/3 is the matrix above
    module = nn.Sequential(nn.Linear(3, 1, bias=False)).double()
    module[0].weight.data = torch.tensor([[0.1, 0.2, 1.0]], dtype=torch.float64)
    surgeon = type(REGISTRY.pruner("lobs"))(damping=1e-12)
    pruned = surgeon.fit(Network(module), Unlabeled(x)).prune(Target(2 / 3, scope="layer"))
    assert pruned.state["0.weight"].tolist() == [[0, 0, pytest.approx(1 + 1 / 9, abs=1e-9)]]


def test_lobs_globally_compares_shares_of_each_layers_output_energy() -> None:
    net, x, pruned = pruned_by("lobs-global", 0.5)
    scores = []
    for groups in matrices(net, {}, x).values():
        energy = sum(0.5 * (rows @ weight.T).square().sum(1).mean() for weight, rows in groups)
        scores += [(w**2 / (2 * torch.linalg.inv(hessian(rows)).diagonal()) / energy).flatten() for w, rows in groups]
    flat = torch.cat(scores)
    kept = torch.cat([pruned.mask[name].flatten() for name in net.weights])
    assert torch.equal(kept, lowest(flat, round(0.5 * len(flat))))


def obc_oracle(weights: Tensor, h: Tensor, count: int) -> Tensor:
    """Greedy removal within rows, each increment by a constrained minimum from scratch; rows merged by a heap."""
    rows, d = weights.shape
    removed: list[list[int]] = [[] for _ in range(rows)]

    def error(row: int, gone: list[int]) -> float:
        return constrained_minimum(h, weights[row], gone)[0] if gone else 0.0

    def cheapest(row: int) -> tuple[float, int]:
        left = [q for q in range(d) if q not in removed[row]]
        base = error(row, removed[row])
        return min(((error(row, [*removed[row], q]) - base, q) for q in left), default=(np.inf, -1))

    heads = [cheapest(row) for row in range(rows)]
    for _ in range(count):
        row = min(range(rows), key=lambda r: heads[r][0])
        removed[row].append(heads[row][1])
        heads[row] = cheapest(row)
    new = [constrained_minimum(h, weights[r], gone)[1] if gone else weights[r] for r, gone in enumerate(removed)]
    mask = torch.tensor([[q not in gone for q in range(d)] for gone in removed])
    return torch.where(mask, torch.stack(new), 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("samples", [2, 40])
def test_obc_is_exhaustive_greedy_removal_with_the_exact_update(seed: int, samples: int) -> None:
    """Ten weights, every count from none to nine. Tolerance 1e-6: the oracle solves KKT systems of condition 1e8."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(5, 2, bias=False)).double()
    x = torch.randn(samples, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    net = Network(module)
    fitted = REGISTRY.pruner("obc").fit(net, Unlabeled(x))
    for count in range(10):
        pruned = fitted.prune(Target(count / 10, scope="layer"))
        expected = obc_oracle(net.weights["0.weight"], hessian(x), count)
        torch.testing.assert_close(pruned.state["0.weight"], expected, rtol=1e-6, atol=1e-8)


def test_obc_settles_its_inverses_now_and_then_and_orders_as_if_after_every_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = sys.modules[type(REGISTRY.pruner("obc")).__module__]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 90, 70, generator=generator, dtype=torch.float64)
    weights, hessians = torch.randn(2, 3, 70, generator=generator, dtype=torch.float64), x.mT @ x
    order, losses = module.trace(weights, hessians)
    monkeypatch.setattr(module, "LAZY", 1)
    again, wanted = module.trace(weights, hessians)
    assert torch.equal(order, again)
    torch.testing.assert_close(losses, wanted, rtol=1e-9, atol=0)


def test_obc_on_convolutions_is_the_constrained_optimum_for_its_own_mask() -> None:
    net, x, pruned = pruned_by("obc", 0.6)
    for name, groups in matrices(net, {}, x).items():
        masks = pruned.mask[name].flatten(1).chunk(len(groups))
        expected = []
        for (weight, rows), mask in zip(groups, masks, strict=True):
            h = hessian(rows)
            gone = [(~m).nonzero()[:, 0].tolist() for m in mask]
            expected += [constrained_minimum(h, w, q)[1] for w, q in zip(weight, gone, strict=True)]
        new = torch.where(pruned.mask[name].flatten(1), torch.stack(expected), 0)
        torch.testing.assert_close(pruned.state[name].flatten(1), new, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("block", [1, 5, 128])
def test_sparsegpt_is_column_by_column_surgery_with_an_inverse_recomputed_each_time(block: int) -> None:
    sparsity = 0.55
    net = Network(trained_looking(convolutional))
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64)
    pruner = type(REGISTRY.pruner("sparsegpt"))(block=block)
    pruned = pruner.fit(net, Unlabeled(x)).prune(Target(sparsity, scope="layer"))
    for name in net.weights:
        seen = matrices(net, {key: pruned.state[key] for key in net.weights}, x)[name]
        size, done, new = net.weights[name].numel(), 0, []
        taken = 0
        for weight, rows in seen:
            h, w = hessian(rows), weight.clone()
            mask = torch.ones_like(w, dtype=torch.bool)
            for start in range(0, w.shape[1], block):
                stop = min(start + block, w.shape[1])
                pivots = torch.stack([torch.linalg.inv(h[i:, i:])[0, 0] for i in range(start, stop)])
                done += len(w) * (stop - start)
                count = round(sparsity * size) * done // size - taken
                taken += count
                mask[:, start:stop] = lowest(w[:, start:stop] ** 2 / pivots, count)
                for i in range(start, stop):
                    inverse = torch.linalg.inv(h[i:, i:])
                    error = torch.where(mask[:, i], 0, w[:, i]) / inverse[0, 0]
                    w[:, i:] -= error[:, None] * inverse[0]
            new.append(torch.where(mask, w, 0))
        expected = torch.cat(new).reshape(net.weights[name].shape)
        torch.testing.assert_close(pruned.state[name], expected, rtol=1e-7, atol=1e-9)


def thick() -> nn.Module:
    """Six input channels, five to a filter of the grouped convolution: groups of four, two and one."""
    convolutions = [nn.Conv2d(6, 10, (2, 3)), nn.ReLU(), nn.Conv2d(10, 4, 2, groups=2), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8, 3))


def fours(weight: Tensor) -> list[list[int]]:
    """The columns of `weight[0].flatten()` by place of the kernel, then by every four channels, by loops."""
    channels, places = weight.shape[1], weight[0, 0].numel()
    return [
        [channel * places + place for channel in range(start, min(start + 4, channels))]
        for place in range(places)
        for start in range(0, channels, 4)
    ]


def two_best(scores: Tensor) -> Tensor:
    """True for the two highest of every row, by loops."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(len(scores)):
        for index in sorted(range(scores.shape[1]), key=lambda i: float(scores[row, i]))[-2:]:
            mask[row, index] = True
    return mask


def test_sparsegpt_and_wanda_choose_two_of_four_channels_by_their_own_scores() -> None:
    net = Network(trained_looking(thick))
    x = torch.randn(6, 6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = Target(0.5, NM(2, 4), "layer")
    found = {name: REGISTRY.pruner(name).fit(net, Unlabeled(x)).prune(target) for name in ("sparsegpt", "wanda")}
    for name, whole in net.weights.items():
        pruned, groups, expected = found["sparsegpt"], fours(whole), []
        for weight, rows in matrices(net, {key: pruned.state[key] for key in net.weights}, x)[name]:
            h, w = hessian(rows), weight.clone()
            mask, left = torch.ones_like(w, dtype=torch.bool), [column for group in groups for column in group]

            def inverse(columns: list[int], h: Tensor = h) -> Tensor:
                return torch.linalg.inv(h[columns][:, columns])

            for group in groups:
                pivots = torch.stack([inverse(left[i:])[0, 0] for i in range(len(group))])
                mask[:, group] = two_best(w[:, group] ** 2 / pivots)
                for i in group:
                    now = inverse(left)
                    w[:, left] -= (torch.where(mask[:, i], 0, w[:, i]) / now[0, 0])[:, None] * now[0]
                    left = left[1:]
            expected.append(torch.where(mask, w, 0))
        torch.testing.assert_close(pruned.state[name], torch.cat(expected).reshape(whole.shape), rtol=1e-7, atol=1e-9)
        pruned = found["wanda"]
        of_layer = matrices(net, {key: pruned.state[key] for key in net.weights}, x)[name]
        scores = torch.cat([weight.abs() * rows.norm(dim=0) for weight, rows in of_layer])
        for group in groups:
            assert torch.equal(pruned.mask[name].flatten(1)[:, group], two_best(scores[:, group]))


def test_wanda_compares_weight_times_input_norm_within_rows() -> None:
    net, x, pruned = pruned_by("wanda", 0.35)
    for name in net.weights:
        groups = matrices(net, {key: pruned.state[key] for key in net.weights}, x)[name]
        scores = torch.cat([weight.abs() * rows.norm(dim=0) for weight, rows in groups])
        kept = pruned.mask[name].flatten(1)
        counts = (~kept).sum(1)
        assert int(counts.sum()) == round(0.35 * kept.numel())
        assert int(counts.max() - counts.min()) <= 1
        for row in range(len(scores)):
            assert torch.equal(kept[row], lowest(scores[row], int(counts[row])))
        assert torch.equal(pruned.state[name], torch.where(pruned.mask[name], net.weights[name], 0))


@pytest.mark.parametrize("name", ["lobs", "obc", "sparsegpt", "wanda"])
def test_inputs_that_never_fire_go_first_and_leave_the_rest_alone(name: str) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(6, 4)).double()
    module[0].weight.data.sign_()
    x = torch.randn(20, 6, dtype=torch.float64)
    x[:, :2] = 0
    pruner = REGISTRY.pruner(name)
    pruned = pruner.fit(Network(module), Unlabeled(x)).prune(Target(1 / 3, scope="layer"))
    assert not pruned.mask["0.weight"][:, :2].any()
    torch.testing.assert_close(pruned.state["0.weight"][:, 2:], module[0].weight[:, 2:])
