"""Each baseline against its definition."""

import itertools
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from tests.cases import blob_network, blobs, tiny_network
from tests.oracles import blocks_of, curvature, looped_rows
from wfbench import Labeled, Network, Target, Unlabeled, WfbenchError, WoodFisher, fisher_rows
from wfbench.curvature.rows import Gradients
from wfbench.harness.plugins import discover
from wfbench.network import flatten, unflatten

REGISTRY = discover()


def mask_of(name: str, net: Network, data: object, sparsity: float) -> torch.Tensor:
    pruner = REGISTRY.pruner(name)
    pruned = pruner.fit(net, data).prune(Target(sparsity, scope=pruner.scope))
    return flatten({key: pruned.mask[key] for key in net.weights})


def test_magnitude_keeps_the_largest_weights() -> None:
    net = Network(blob_network())
    w = flatten(net.weights).abs()
    assert torch.equal(mask_of("magnitude", net, None, 0.5), w > w.sort().values[len(w) // 2 - 1])


def test_magnitude_layer_keeps_the_largest_of_each_layer() -> None:
    net = Network(blob_network())
    expected = []
    for weight in net.weights.values():
        flat = weight.flatten().abs()
        expected.append(flat > flat.sort().values[len(flat) // 2 - 1])
    assert torch.equal(mask_of("magnitude-layer", net, None, 0.5), torch.cat(expected))


def test_diagonal_fisher_is_half_the_squared_weight_times_the_mean_squared_gradient() -> None:
    module = tiny_network()
    net = Network(module)
    data = Labeled(
        torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 2
    )
    p = module(data.inputs).softmax(1).detach()
    cotangents = (torch.nn.functional.one_hot(data.labels, 2) - p)[:, None]
    fisher = looped_rows(module, list(net.weights), data.inputs, cotangents).square().mean(0)
    found = flatten(REGISTRY.pruner("diag-fisher").scores(net, data))
    torch.testing.assert_close(found, 0.5 * flatten(net.weights).square() * fisher, rtol=1e-8, atol=1e-14)


def test_diagonal_fisher_is_woodfisher_with_blocks_of_one_and_little_damping() -> None:
    net, data = Network(blob_network().double()), Labeled(*blobs(40, 1))
    data = Labeled(data.inputs.double(), data.labels)
    woodfisher = WoodFisher(damping=1e-12, block_size=1).fit(net, data).prune(Target(0.5))
    expected = flatten({name: woodfisher.mask[name] for name in net.weights})
    assert torch.equal(mask_of("diag-fisher", net, data, 0.5), expected)


def test_random_masks_differ_from_call_to_call_and_not_from_seed_to_seed() -> None:
    net = Network(blob_network())
    torch.manual_seed(0)
    first, second = mask_of("random", net, None, 0.5), mask_of("random", net, None, 0.5)
    torch.manual_seed(0)
    assert torch.equal(first, mask_of("random", net, None, 0.5))
    assert not torch.equal(first, second)


def blob_net(n: int = 7, seed: int = 1) -> tuple[Network, Labeled]:
    x, y = blobs(n, seed)
    return Network(blob_network().double()), Labeled(x.double(), y)


def loss_gradients(net: Network, data: Labeled) -> Tensor:
    """One backward pass a sample: `[n, p]` gradients of its loss."""
    p = net.logits({}, data.inputs).softmax(1)
    cotangents = (p - nn.functional.one_hot(data.labels, 3))[:, None]
    return looped_rows(net.module(), list(net.weights), data.inputs, cotangents)


def test_lamp_is_the_share_of_what_is_left_of_the_layer() -> None:
    net = Network(blob_network())
    for name, scores in REGISTRY.pruner("lamp").scores(net, None).items():
        flat = net.weights[name].flatten().tolist()
        for w, score in zip(flat, scores.flatten().tolist(), strict=True):
            assert score == pytest.approx(w**2 / sum(v**2 for v in flat if abs(v) >= abs(w)))


def test_lamp_of_a_dead_layer_is_zero() -> None:
    module = blob_network()
    module[0].weight.data.zero_()
    assert not REGISTRY.pruner("lamp").scores(Network(module), None)["0.weight"].any()


def test_taylor_and_snip_are_their_formulas() -> None:
    net, data = blob_net()
    g, w = loss_gradients(net, data), flatten(net.weights)
    torch.testing.assert_close(flatten(REGISTRY.pruner("taylor").scores(net, data)), (g * w).abs().mean(0))
    torch.testing.assert_close(flatten(REGISTRY.pruner("snip").scores(net, data)), (g.mean(0) * w).abs())


@pytest.mark.parametrize("n", [7, 70])
def test_obd_is_the_diagonal_of_the_dense_gauss_newton_matrix(n: int) -> None:
    net, data = blob_net(n)
    p = net.logits({}, data.inputs).softmax(1)
    module, names = net.module(), list(net.weights)
    ggn = torch.zeros(sum(w.numel() for w in net.weights.values()), dtype=torch.float64)
    for x, probabilities in zip(data.inputs, p, strict=True):
        jacobian = looped_rows(module, names, x[None], torch.eye(3, dtype=torch.float64)[None])
        middle = torch.diag(probabilities) - torch.outer(probabilities, probabilities)
        ggn += (jacobian.T @ middle @ jacobian).diagonal() / n
    found = flatten(REGISTRY.pruner("obd").scores(net, Unlabeled(data.inputs)))
    torch.testing.assert_close(found, 0.5 * flatten(net.weights) ** 2 * ggn)


def test_obd_hessian_is_unbiased_for_the_dense_diagonal() -> None:
    """300 estimates: each mean within 4.5 of its standard errors, so one false alarm in some thousand runs."""
    net, data = blob_net()
    module = net.module()

    def loss(vector: Tensor) -> Tensor:
        parts = dict(zip(net.weights, vector.split([32, 24]), strict=True))
        weights = {name: part.reshape(net.weights[name].shape) for name, part in parts.items()}
        return nn.functional.cross_entropy(functional_call(module, weights, (data.inputs,)), data.labels)

    w = flatten(net.weights)
    expected = 0.5 * w**2 * hessian(loss, w).diagonal()
    pruner = type(REGISTRY.pruner("obd-hessian"))(probes=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = torch.stack([flatten(pruner.scores(net, data)) for _ in range(300)])
    assert bool(((found.mean(0) - expected).abs() <= 4.5 * found.std(0) / 300**0.5 + 1e-12).all())


@pytest.mark.parametrize(("name", "block", "damping"), [("mfac", None, 1e-5), ("obert", 50, 1e-7)])
def test_mfac_and_obert_are_the_surgeon_on_dense_blocks(name: str, block: int | None, damping: float) -> None:
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Linear(4, 17), nn.Tanh(), nn.Linear(17, 3)).double())  # 68 and 51 weights
    x, y = blobs(30, 2)
    data = Labeled(x.double(), y)
    widths = None if block is None else [50, 18, 50, 1]
    inverse = torch.linalg.inv(curvature(fisher_rows(net, data), damping, widths))
    assert widths is None or [part.stop - part.start for part in blocks_of(119, widths)] == widths
    w = flatten(net.weights)
    removed = (w**2 / (2 * inverse.diagonal())).argsort()[:71]
    expected = w - inverse[:, removed] @ (w[removed] / inverse.diagonal()[removed])
    expected[removed] = 0
    pruned = REGISTRY.pruner(name).fit(net, data).prune(Target(0.6))
    found = flatten({key: pruned.state[key] for key in net.weights})
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


CHITA = sys.modules[type(REGISTRY.pruner("chita")).__module__]


def regression(seed: int, *, k: int = 5, p: int = 8) -> object:
    torch.manual_seed(seed)
    rows = torch.randn(k, p).double()
    dense = torch.randn(p).double()
    return CHITA.Regression(rows, rows @ dense + 0.1 * torch.randn(len(rows)).double(), dense, 0.05)


def chita(problem: object, sparsity: float) -> tuple[Tensor, Tensor]:
    """Weights and mask."""
    module = nn.Linear(len(problem.dense), 1, bias=False).double()
    module.weight.data = problem.dense[None]
    gradients = Gradients(problem.rows, 1.0, (), 0.0)
    fitted = CHITA.FittedCHITA(Network(module), gradients, CHITA.CHITA(rounds=20), len(problem.rows))
    pruned = fitted.solved(problem, Target(sparsity))
    return pruned.state["weight"][0], pruned.mask["weight"][0]


def ridge(problem: object, kept: Tensor) -> Tensor:
    part = problem.rows[:, kept]
    system = part.T @ part + problem.damping * torch.eye(int(kept.sum())).double()
    solution = torch.zeros(len(kept), dtype=torch.float64)
    right = part.T @ problem.wanted + problem.damping * problem.dense[kept]
    solution[kept] = torch.linalg.solve(system, right)
    return solution


@pytest.mark.parametrize("seed", range(8))
def test_chita_is_exact_on_its_support_and_between_the_best_and_magnitudes(seed: int) -> None:
    problem = regression(seed)
    every = [torch.tensor([bit in kept for bit in range(8)]) for kept in itertools.combinations(range(8), 4)]
    best = min(problem.value(ridge(problem, kept)) for kept in every)
    weights, mask = chita(problem, 0.5)
    torch.testing.assert_close(weights, ridge(problem, mask))
    magnitude = problem.dense.abs() >= problem.dense.abs().sort().values[4]
    assert best - 1e-12 <= problem.value(weights) <= problem.value(ridge(problem, magnitude)) + 1e-12


def test_chita_finds_the_best_of_70_supports_more_often_than_magnitude() -> None:
    found = {"chita": 0, "magnitude": 0}
    for seed in range(20):
        problem = regression(seed)
        every = [torch.tensor([bit in kept for bit in range(8)]) for kept in itertools.combinations(range(8), 4)]
        best = min(problem.value(ridge(problem, kept)) for kept in every)
        magnitude = problem.dense.abs() >= problem.dense.abs().sort().values[4]
        found["chita"] += problem.value(chita(problem, 0.5)[0]) <= best + 1e-12
        found["magnitude"] += problem.value(ridge(problem, magnitude)) <= best + 1e-12
    assert found["chita"] > found["magnitude"]


def test_chita_leaves_magnitudes_support_where_the_large_weights_do_nothing() -> None:
    rows = torch.tensor([[0, 0, 3.0, 1], [0, 0, 1, 2], [0, 0, 0, 1]], dtype=torch.float64)
    dense = torch.tensor([5, -4, 1, 1.2], dtype=torch.float64)
    weights, mask = chita(CHITA.Regression(rows, rows @ dense, dense, 1e-3), 0.5)
    assert mask.tolist() == [False, False, True, True]
    torch.testing.assert_close(weights, torch.tensor([0, 0, 1, 1.2], dtype=torch.float64))


def test_chitas_objective_is_the_quadratic_model_of_the_loss() -> None:
    net, data = blob_net()
    g = loss_gradients(net, data)
    delta = 0.1 * torch.randn(56, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for first_order in (False, True):
        fitted = type(REGISTRY.pruner("chita"))(first_order=first_order, damping=0.3).fit(net, data)
        start = fitted.problem.dense
        change = fitted.problem.value(start + delta) - fitted.problem.value(start)
        model = 0.5 * (g @ delta).square().mean() + 0.15 * delta.square().sum()
        model = model + g.mean(0) @ delta if first_order else model
        assert change == pytest.approx(float(model))


@pytest.mark.parametrize("by", ["magnitude", "random"])
@pytest.mark.parametrize("of", ["lobs-global", "woodfisher-unlabeled-joint", "magnitude-layer"])
def test_controls_take_from_each_layer_what_the_method_takes(by: str, of: str) -> None:
    net, data = blob_net(20)
    pruner, control = REGISTRY.pruner(of), REGISTRY.pruner(f"{by}-as-{of}")
    assert (control.licence, control.scope, control.track) == (pruner.licence, pruner.scope, pruner.track)
    handed = None if pruner.track == "data-free" else Unlabeled(data.inputs)
    target = Target(0.6, scope=pruner.scope)
    method, matched = pruner.fit(net, handed).prune(target), control.fit(net, handed).prune(target)
    for name, weight in net.weights.items():
        kept = matched.mask[name]
        assert int(kept.sum()) == int(method.mask[name].sum())
        assert torch.equal(matched.state[name], torch.where(kept, weight, 0))
        if by == "magnitude" and 0 < int(kept.sum()) < kept.numel():
            assert weight[kept].abs().min() >= weight[~kept].abs().max()


@pytest.mark.parametrize("amounts", ["magnitude", "woodfisher-unlabeled-joint", "magnitude-layer"])
def test_an_allocated_method_chooses_as_ever_from_the_layers_that_the_other_takes_from(amounts: str) -> None:
    """OBC removes a layer's weights in one order: of each as many of the first go as the other takes."""
    net, data = blob_net(20)
    samples = Unlabeled(data.inputs)
    other, obc, both = (REGISTRY.pruner(name) for name in (amounts, "obc", f"obc-as-{amounts}"))
    assert (both.licence, both.scope, both.patterns) == (Unlabeled, other.scope, ("unstructured",))
    target = Target(0.6, scope=other.scope)
    taken = other.fit(net, None if other.licence is type(None) else samples).prune(target)
    found = both.fit(net, samples).prune(target)
    for name, mask in found.mask.items():
        share = 1 - float(taken.mask[name].double().mean())
        alone = obc.fit(net, samples).prune(Target(share, scope="layer"))
        assert torch.equal(mask, alone.mask[name])
        assert torch.equal(found.state[name], alone.state[name])


def test_what_decides_for_itself_how_much_of_a_layer_goes_is_not_allocated() -> None:
    net, data = blob_net(20)
    fitted = REGISTRY.pruner("wanda-as-magnitude").fit(net, Unlabeled(data.inputs))
    with pytest.raises(WfbenchError, match=r"wanda takes \d+ weights of .* where magnitude takes \d+: it decides"):
        fitted.prune(Target(0.6))
    with pytest.raises(WfbenchError, match="obc-as-filter-l1: obc reaches unstructured, filter-l1 reaches filter"):
        REGISTRY.pruner("obc-as-filter-l1")


def test_a_method_under_its_own_ranking_takes_what_is_smallest_of_its_updated_weights() -> None:
    """Stage by stage, on the dense network's own OBC; one stage is OBC with magnitude's amounts."""
    net, data = blob_net(20)
    samples, obc = Unlabeled(data.inputs), REGISTRY.pruner("obc")
    first = REGISTRY.pruner("obc-as-magnitude").fit(net, samples).prune(Target(1 - 0.4**0.5))
    sizes = flatten({name: first.state[name].abs() for name in net.weights})
    smallest = sizes.argsort(stable=True)[: round(0.6 * len(sizes))]
    gone = torch.zeros(len(sizes), dtype=torch.bool)
    gone[smallest] = True
    found = REGISTRY.pruner("global[stages=2]-obc").fit(net, samples).prune(Target(0.6))
    for name, lost in unflatten(gone, net.weights).items():
        share = float(lost.double().mean())
        alone = obc.fit(net, samples).prune(Target(share, scope="layer"))
        assert torch.equal(found.mask[name], alone.mask[name])
        assert torch.equal(found.state[name], alone.state[name])
    names = ("global[stages=1]-obc", "obc-as-magnitude")
    once, as_magnitude = (REGISTRY.pruner(name).fit(net, samples).prune(Target(0.6)) for name in names)
    assert all(torch.equal(tensor, as_magnitude.state[name]) for name, tensor in once.state.items())
    assert (REGISTRY.pruner("global-obc").scope, REGISTRY.pruner("global-obc").licence) == ("global", Unlabeled)
    with pytest.raises(WfbenchError, match=r"wanda takes \d+ weights of .* one ranking of all takes \d+: it decides"):
        REGISTRY.pruner("global-wanda").fit(net, samples).prune(Target(0.6))
    with pytest.raises(WfbenchError, match="global-filter-l1: filter-l1 is not of single weights"):
        REGISTRY.pruner("global-filter-l1")


def test_every_method_says_where_it_comes_from_and_how_faithful_it_is() -> None:
    for name, pruner in REGISTRY.pruners.items():
        assert pruner.source, name
        assert pruner.patterns in (("unstructured",), ("unstructured", "n:m"), ("unstructured", "filter"), ("filter",))
        assert pruner.fidelity, name
