"""Methods on whole channels against oracles: loops, autograd, dense solves, the layers themselves."""

import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from baselines.kfac import KFACExact
from tests.cases import NETWORKS, blob_network, blobs, trained_looking
from tests.oracles import constrained_minimum, looped_rows
from tests.test_channels import Plain, Separable
from wfbench import Filter, Labeled, Network, Target, Unlabeled, WfbenchError
from wfbench.channels.coupled import Coupled
from wfbench.channels.readers import Read
from wfbench.definitions import Definitions
from wfbench.harness.plugins import discover
from wfbench.pruned import Pruned
from wfbench.tasks.models import conv_norm

REGISTRY = discover()
GREEDY = ["obs-filter", "thinet"]
PEERS = ["tp-l2", "tp-lamp"]
METHODS = [
    *("fpgm", "bn-scale", "taylor-filter", "group-fisher", "random-filter", "ggn-filter", "kfac-filter"),
    *(*GREEDY, *PEERS),
]


class Residual(nn.Module):
    """A residual sum that two layers read, a convolution without norm, and a linear layer on the flattened image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(2, 5, 3)
        self.first = conv_norm(5, 4, 3)
        self.second = conv_norm(4, 5, 3)
        self.next = nn.Conv2d(5, 3, 2, stride=2)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        return self.out(torch.relu(self.next(x)).flatten(1))


BUILDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: NETWORKS[name] for name in ("mlpnet", "digits_cnn")},
    **{name: (NETWORKS[name][0], (1, 12, 12)) for name in ("resnet20", "mobilenetv1")},  # they average over places
    "plain": (Plain, (1, 6, 6)),
    "separable": (Separable, (2, 5, 5)),
    "residual": (Residual, (2, 5, 5)),
}


@cache
def case(name: str, n: int = 3) -> tuple[Network, list[Coupled], Labeled]:
    build, shape = BUILDS[name]
    net = Network(trained_looking(build))
    x = torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return net, Filter(shape).groups(net), Labeled(x, torch.arange(n) % 2)


def handed(method: str, data: Labeled) -> Labeled | Unlabeled | None:
    licence = REGISTRY.pruner(method).licence
    return data if licence is Labeled else Unlabeled(data.inputs) if licence is Unlabeled else None


def scores(method: str, name: str, n: int = 3) -> dict[str, Tensor]:
    net, groups, data = case(name, n)
    return REGISTRY.pruner(method).channel_scores(net, groups, handed(method, data))


def pruned(method: str, net: Network, data: Labeled, target: Target) -> Pruned:
    return REGISTRY.pruner(method).fit(net, handed(method, data)).prune(target)


def test_every_method_is_there_and_says_what_it_is() -> None:
    assert not REGISTRY.failures
    assert all(REGISTRY.pruner(name).source and REGISTRY.pruner(name).fidelity for name in METHODS)
    assert {REGISTRY.pruner(name).patterns for name in METHODS} == {("filter",)}


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv1", "mlpnet", "digits_cnn"])
@pytest.mark.parametrize("method", METHODS)
def test_half_of_the_macs_go_and_the_smaller_network_agrees(method: str, name: str) -> None:
    net, _, data = case(name)
    target = Target(0.5, Filter(BUILDS[name][1]), REGISTRY.pruner(method).scope, "macs")
    if (method, name) == ("bn-scale", "mlpnet"):
        with pytest.raises(WfbenchError, match="the channels of fc1 end in no norm with a scale"):
            pruned(method, net, data, target)
        return
    found = pruned(method, net, data, target)
    assert 0.5 <= target.pattern.achieved(target, net, found, data.inputs[:1]) < 0.6
    assert target.pattern.measured(net, found, data.inputs[:1])["removed_channels"] > 0


MADE = {  # which layers make the channels of a group
    "residual": {"stem.conv": ["stem.conv", "second.conv"], "first.conv": ["first.conv"], "next": ["next"]},
    "separable": {"stem.conv": ["stem.conv", "depth.conv", "point.conv"]},
    "plain": {"first": ["first"], "second": ["second"], "hidden": ["hidden"]},
}
NORMS = {
    "separable": {"stem.conv": ["stem.norm", "depth.norm", "point.norm"]},
    "digits_cnn": {"conv1.conv": ["conv1.norm"], "conv2.conv": ["conv2.norm"]},
}


@pytest.mark.parametrize("name", MADE)
def test_fpgm_adds_up_the_distances_to_the_other_filters(name: str) -> None:
    net, groups, _ = case(name)
    found = scores("fpgm", name)
    for group in groups:
        made = [net.weights[f"{layer}.weight"] for layer in MADE[name][group.name]]
        for c in range(group.size):
            sums = [sum((w[c] - other).square().sum().sqrt() for other in w) for w in made]
            torch.testing.assert_close(found[group.name][c], sum(sums) / len(sums))


@pytest.mark.parametrize("name", NORMS)
def test_bn_scale_is_the_mean_absolute_scale_of_the_norms(name: str) -> None:
    net, groups, _ = case(name)
    changed = net.module()
    for layer in changed.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.normal_(generator=torch.Generator().manual_seed(layer.num_features))
    found = REGISTRY.pruner("bn-scale").channel_scores(Network(changed), groups, None)
    for group, norms in NORMS[name].items():
        scales = [changed.get_parameter(f"{norm}.weight").abs() for norm in norms]
        torch.testing.assert_close(found[group], sum(scales) / len(scales))


def gate_gradients(name: str) -> dict[str, Tensor]:
    """d log p(yᵢ|xᵢ) by a factor on all charged entries of a channel, a backward pass a sample: `[n, channels]`."""
    net, groups, data = case(name)
    module, found = net.module(), {}
    for group in groups:
        gate = torch.ones(group.size, dtype=torch.float64, requires_grad=True)

        def logits(x: Tensor, group: Coupled = group, gate: Tensor = gate) -> Tensor:
            changed = {}
            for part in group.charged:
                tensor = net.movable[part.name]
                factor = torch.ones(len(tensor), dtype=torch.float64)
                factor = factor.scatter(0, part.index.flatten(), gate.repeat_interleave(part.index.shape[1]))
                changed[part.name] = tensor * factor.reshape(-1, *[1] * (tensor.ndim - 1))
            return functional_call(module, changed, (x,))

        found[group.name] = by_sample(logits, gate, data)
    return found


def mask_gradients(name: str) -> dict[str, Tensor]:
    """The same by a factor on the channel in the inputs of all layers that read it."""
    net, groups, data = case(name)
    found = {}
    for group in groups:
        module, gate = net.module(), torch.ones(group.size, dtype=torch.float64, requires_grad=True)

        def masked(layer: nn.Module, inputs: tuple[Tensor], gate: Tensor = gate) -> tuple[Tensor]:
            width = inputs[0].shape[1] // len(gate)
            return (inputs[0] * gate.repeat_interleave(width).reshape(1, -1, *[1] * (inputs[0].ndim - 2)),)

        for consumer in group.consumers:
            module.get_submodule(consumer.removesuffix(".weight")).register_forward_pre_hook(masked)
        found[group.name] = by_sample(module, gate, data)
    return found


def by_sample(logits: Callable[[Tensor], Tensor], gate: Tensor, data: Labeled) -> Tensor:
    rows = []
    for x, y in zip(data.inputs, data.labels, strict=True):
        log_p = logits(x[None]).log_softmax(1)[0, y]
        rows.append(torch.autograd.grad(log_p, gate)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["plain", "separable", "residual", "digits_cnn"])
def test_taylor_and_group_fisher_are_moments_of_the_derivative_by_a_gate(name: str) -> None:
    gates, first, second = gate_gradients(name), scores("taylor-filter", name), scores("group-fisher", name)
    for group, rows in gates.items():
        torch.testing.assert_close(first[group], rows.mean(0).abs(), rtol=1e-8, atol=1e-14)
        torch.testing.assert_close(second[group], rows.square().mean(0) / 2, rtol=1e-8, atol=1e-14)
    assert REGISTRY.pruner("group-fisher").per == "macs"


@pytest.mark.parametrize("name", ["plain", "residual", "digits_cnn", "mobilenetv1"])
def test_group_fisher_is_that_of_masks_on_the_inputs_of_the_readers(name: str) -> None:
    found = scores("group-fisher", name)
    for group, rows in mask_gradients(name).items():
        torch.testing.assert_close(found[group], rows.square().mean(0) / 2, rtol=1e-8, atol=1e-14)


def test_random_filter_draws_from_the_global_generator() -> None:
    scores("random-filter", "residual")  # makes the network, which draws, too
    with torch.random.fork_rng():
        one, two, three = ((torch.manual_seed(seed), scores("random-filter", "residual"))[1] for seed in (0, 0, 1))
    assert torch.equal(one["next"], two["next"])
    assert not torch.equal(one["next"], three["next"])


def test_ggn_filter_adds_up_the_dense_diagonal_over_charged_coordinates() -> None:
    x = blobs(35, 3)[0].double()  # more samples than are taken at a time
    net = Network(blob_network().double())
    p = net.logits({}, x).softmax(1)
    cotangents = (torch.eye(3).double() - p[:, None]) * p.sqrt()[..., None]
    rows = looped_rows(net.module(), ["1.weight", "1.bias"], x, cotangents)
    diagonal = rows.square().sum(0) / 35
    losses = diagonal * torch.cat([net.movable["1.weight"], net.movable["1.bias"]]).square() / 2
    groups = Filter((4,)).groups(net)
    found = REGISTRY.pruner("ggn-filter").channel_scores(net, groups, Unlabeled(x))
    torch.testing.assert_close(found["0"], losses[:8] + losses[8:], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("damping", [1e-3, 1e-1])
def test_kfac_filter_is_the_surgeon_on_the_dense_damped_kronecker_matrix(name: str, damping: float) -> None:
    """Tolerance 1e-7: the dense matrix is inverted in float64 at a condition of about 1e6."""
    net, groups, data = case(name)
    unlabeled = Unlabeled(data.inputs)
    found = REGISTRY.pruner(f"kfac-filter[damping={damping}]").channel_scores(net, groups, unlabeled)
    factors = KFACExact().fit(net, unlabeled).factors
    for group in groups:
        expected = torch.zeros(group.size, dtype=torch.float64)
        for layer in MADE[name][group.name]:
            w, (b, a) = net.weights[f"{layer}.weight"].flatten(1), factors[f"{layer}.weight"]
            pi = ((a.trace() / len(a)) / (b.trace() / len(b))).sqrt()
            shifted = [m + shift * torch.eye(len(m)) for m, shift in ((b, damping**0.5 / pi), (a, damping**0.5 * pi))]
            inverse = torch.linalg.inv(torch.kron(*shifted))
            for o, q in enumerate(torch.arange(w.numel()).reshape(w.shape)):
                expected[o] += w[o] @ torch.linalg.solve(inverse[q][:, q], w[o]) / 2
        torch.testing.assert_close(found[group.name], expected, rtol=1e-7, atol=1e-12)


def test_the_reuse_key_of_kfac_filter_covers_where_its_factors_come_from() -> None:
    pruner = type(REGISTRY.pruner("kfac-filter[damping=0.1]"))
    reached = Definitions().reach([(pruner.__module__, pruner.__name__)])
    assert pruner.__module__.replace("kfac_filter", "kfac") in {module for module, _ in reached}


def surgery(hessian: Tensor, weight: Tensor, gone: list[int]) -> tuple[float, Tensor]:
    """Loss and weights with these columns gone, every row by a KKT system from scratch."""
    if not gone:
        return 0.0, weight
    rows = [constrained_minimum(hessian, row, gone) for row in weight]
    return sum(loss for loss, _ in rows), torch.stack([new for _, new in rows])


def problem(seed: int, channels: int, widths: list[int]) -> list[Read]:
    generator = torch.Generator().manual_seed(seed)

    def read(width: int, out: int) -> Read:
        d = channels * width
        x = torch.randn(d + 4, d, dtype=torch.float64, generator=generator)
        moment = x.T @ x / len(x)
        weight = torch.randn(out, d, dtype=torch.float64, generator=generator)
        columns = torch.randperm(d, generator=generator).reshape(channels, width)
        return Read("", weight, columns, moment, moment + 0.01 * moment.diagonal().mean() * torch.eye(d))

    return [read(width, 2 + place) for place, width in enumerate(widths)]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(2, 5), st.lists(st.integers(1, 3), min_size=1, max_size=2))
def test_every_step_of_obs_filter_is_the_cheapest_and_exact(seed: int, channels: int, widths: list[int]) -> None:
    pruner = REGISTRY.pruner("obs-filter")
    reads = problem(seed, channels, widths)
    order, losses = pruner.order(reads)
    readers = [sys.modules[type(pruner).__module__].Reader(read) for read in reads]
    left = list(range(channels))

    def loss(gone: list[int]) -> float:
        return sum(surgery(r.hessian, r.weight, r.columns[gone].flatten().tolist())[0] for r in reads)

    assert len(set(order)) == len(losses) == channels - 1
    for step, channel in enumerate(order):
        before, after = order[:step], loss(order[: step + 1])
        assert losses[step] == pytest.approx(after - loss(before), rel=1e-6, abs=1e-10)
        assert all(after <= loss([*before, c]) * (1 + 1e-9) for c in range(channels) if c not in before)
        place = left.index(channel)
        left.remove(channel)
        for reader, read in zip(readers, reads, strict=True):
            reader.take_out(place)
            reader.settle([at for at in range(len(left) + 1) if at != place])
            expected = surgery(read.hessian, read.weight, read.columns[order[: step + 1]].flatten().tolist())[1]
            torch.testing.assert_close(reader.weight, expected[:, read.columns[left].flatten()], rtol=1e-7, atol=1e-9)


def test_obs_filter_settles_its_matrices_now_and_then_and_orders_as_if_after_every_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pruner = REGISTRY.pruner("obs-filter")
    reads = problem(3, 70, [1, 2])
    order, losses = pruner.order(reads)
    monkeypatch.setattr(sys.modules[type(pruner).__module__], "LAZY", 1)
    again, wanted = pruner.order(reads)
    assert order == again
    assert losses == pytest.approx(wanted, rel=1e-9)


def inputs_of(net: Network, x: Tensor) -> dict[str, Tensor]:
    """What every layer is handed in the dense network, by the layer's name."""
    module, found = net.module(), {}
    for name, layer in module.named_modules():
        layer.register_forward_pre_hook(lambda _, inputs, name=name: found.update({name: inputs[0]}))
    module(x)
    return found


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return x
    return functional.unfold(x, layer.kernel_size, 1, layer.padding, layer.stride).transpose(1, 2).flatten(0, 1)


READERS = {
    "residual": {"stem.conv": ["first.conv", "next"], "first.conv": ["second.conv"], "next": ["out"]},
    "separable": {"stem.conv": ["point.conv", "out"]},
    "plain": {"first": ["second"], "second": ["hidden"], "hidden": ["out"]},
}


def blocks(layer: nn.Module, channels: list[int], size: int) -> list[int]:
    """The columns of a reader's matrix that belong to channels of a group of that size: all of its inputs, in order."""
    width = layer.weight[0].numel() // size
    return [channel * width + k for channel in channels for k in range(width)]


class Oracle:
    """Losses of a group's removed channels and the readers' new weights, from the layers and their inputs."""

    def __init__(self, method: str, name: str) -> None:
        self.net, groups, data = case(name, 6)
        self.sizes = {group.name: group.size for group in groups}
        self.method, self.readers, self.module = method, READERS[name], self.net.module()
        self.inputs = inputs_of(self.net, data.inputs)
        self.moments = {}
        for layer in {reader for readers in self.readers.values() for reader in readers}:
            rows = rows_of(self.module.get_submodule(layer), self.inputs[layer])
            self.moments[layer] = rows.T @ rows / len(rows)

    def damped(self, layer: str) -> Tensor:
        moment = self.moments[layer]
        return moment + 0.01 * moment.diagonal().mean() * torch.eye(len(moment))

    def weights(self, layer: str, group: str, gone: list[int]) -> tuple[float, Tensor]:
        reader = self.module.get_submodule(layer)
        columns = blocks(reader, gone, self.sizes[group])
        return surgery(self.damped(layer), self.net.weights[f"{layer}.weight"].flatten(1), columns)

    def error(self, layer: str, group: str, gone: list[int]) -> float:
        """Half the mean squared change of the layer's own outputs, a mean over samples and places."""
        reader, x = self.module.get_submodule(layer), self.inputs[layer]
        kept = torch.ones(self.sizes[group], dtype=torch.float64)
        kept[gone] = 0
        masked = x * kept.repeat_interleave(x.shape[1] // len(kept)).reshape(1, -1, *[1] * (x.ndim - 2))
        change = (reader(x) - reader(masked)).movedim(1, -1)
        return float(change.square().sum(-1).mean() / 2)

    def loss(self, group: str, gone: list[int]) -> float:
        one = self.error if self.method == "thinet" else lambda *of: self.weights(*of)[0]
        return sum(one(layer, group, gone) for layer in self.readers[group])

    def order(self, group: str) -> tuple[list[int], list[float]]:
        gone: list[int] = []
        losses = [0.0]
        while len(gone) < self.sizes[group] - 1:
            left = [c for c in range(self.sizes[group]) if c not in gone]
            gone.append(min(left, key=lambda c: self.loss(group, [*gone, c])))
            losses.append(self.loss(group, gone))
        everything = list(range(self.sizes[group]))
        energy = sum(self.error(layer, group, everything) for layer in self.readers[group])
        return gone, [(after - before) / energy for before, after in pairwise(losses)]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("method", GREEDY)
def test_orders_and_weights_are_those_of_brute_force_on_the_layers(method: str, name: str) -> None:
    oracle, (net, _, data) = Oracle(method, name), case(name, 6)
    expected = {group: oracle.order(group) for group in oracle.readers}
    fitted = REGISTRY.pruner(method).fit(net, Unlabeled(data.inputs))
    for group, (order, losses) in expected.items():
        assert fitted.orders[group][0] == order
        torch.testing.assert_close(torch.tensor(fitted.orders[group][1]), torch.tensor(losses), rtol=1e-5, atol=1e-7)
    filters = {group: len(layers) for group, layers in MADE[name].items()}  # that go with a channel
    whole = sum(filters[group] * oracle.sizes[group] for group in filters)
    for scope, sparsity in (("global", 0.3), ("global", 0.5), ("layer", 0.4), ("layer", 0.6)):
        gone: dict[str, list[int]] = {group: [] for group in filters}
        while sum(filters[g] * len(of) for g, of in gone.items()) < sparsity * whole:
            able = [g for g, of in gone.items() if len(of) < oracle.sizes[g] - 1]
            if scope == "layer":
                least = min(len(gone[g]) / oracle.sizes[g] for g in able)
                able = [g for g in able if len(gone[g]) / oracle.sizes[g] == least]
            best = min(able, key=lambda g: expected[g][1][len(gone[g])])
            gone[best].append(expected[best][0][len(gone[best])])
        found = fitted.prune(Target(sparsity, Filter(BUILDS[name][1]), scope, "filters"))
        assert found.removed_channels == {group: tuple(sorted(of)) for group, of in gone.items()}
        for group, layers in oracle.readers.items():
            for layer in layers:
                own = [c for g, made in MADE[name].items() if layer in made for c in gone[g]]  # its filters that went
                weight = oracle.weights(layer, group, gone[group])[1].clone()
                weight[own] = 0
                torch.testing.assert_close(found.state[f"{layer}.weight"].flatten(1), weight, rtol=1e-7, atol=1e-9)


def peer_scores(name: str) -> dict[str, Tensor]:
    """Squares of filters, scales and input slices, depthwise ones left out: the library's L2 importance by hand."""
    net, groups, _ = case(name)
    found = {}
    for group in groups:
        parts = []
        for part in (*group.charged, *group.deleted):
            tensor = net.movable.get(part.name)
            depthwise = part.name in net.weights and getattr(net.layer_of(part.name), "groups", 1) > 1
            if tensor is None or depthwise or part.name.endswith("bias"):
                continue
            along = tensor.transpose(0, 1) if part.axis == 1 else tensor
            parts.append(along.reshape(len(along), -1).square().sum(1)[part.index].sum(1))
        found[group.name] = torch.stack(parts).sum(0)
    return found


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv1", "digits_cnn", "mlpnet"])
def test_peer_scores_are_in_our_order_of_channels(name: str) -> None:
    net, _, _ = case(name)
    found = {peer: REGISTRY.pruner(peer).fit(net, None).scores(Filter(BUILDS[name][1])) for peer in PEERS}
    for group, sums in peer_scores(name).items():
        torch.testing.assert_close(found["tp-l2"][group].double(), sums / sums.mean(), rtol=1e-4, atol=1e-6)
        lamp = torch.stack([score / sums[sums >= score].sum() for score in sums])
        torch.testing.assert_close(found["tp-lamp"][group].double(), lamp, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", PEERS)
def test_a_channel_made_tiny_goes_first(method: str) -> None:
    net, groups, data = case("resnet20")
    group = next(group for group in groups if group.name == "block2_0.second.conv")
    state = net.state()
    for part in (*group.charged, *group.deleted):
        if part.name in net.movable:
            state[part.name].index_fill_(part.axis, part.index[[7]].flatten(), 1e-6)
    module = net.module()
    module.load_state_dict(state)
    found = pruned(method, Network(module), data, Target(0.001, Filter((1, 28, 28)), "global", "filters"))
    assert {name: gone for name, gone in found.removed_channels.items() if gone} == {group.name: (7,)}
