"""The walk against passes of their own for every layer; what layer-wise methods take from it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.cases import NETWORKS, Twice, trained_looking
from wfbench import Network, WfbenchError
from wfbench.walk import call_order, one_by_one, second_moments, walk


def residual() -> nn.Module:
    return NETWORKS["resnet20"][0]()


def read_by(net: Network, state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """What the layer reads in a pass of its own of a copy of the network."""
    module, found = net.module(), []
    module.load_state_dict({**module.state_dict(), **state})
    layer = module.get_submodule(name.rpartition(".")[0])
    layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        module(x)
    return torch.cat(found)


@pytest.mark.parametrize(("n", "numbers"), [(1, 2**25), (40, 2**25), (40, 15 * 16 * 64)])
def test_every_layer_reads_what_the_changed_layers_before_it_give_in_one_pass(
    n: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two states side by side, one changed on the way, one dense; all samples at once, or at most 15."""
    monkeypatch.setattr("wfbench.walk.NUMBERS", numbers)
    net = Network(trained_looking(residual))
    x = torch.randn(n, 1, 8, 8, dtype=torch.float64)
    state, met = net.state(), []
    for name, (now, before) in walk(net, x, net.weights, state, {}):
        assert len(now) == len(before) == (n * 16 * 64 - 1) // numbers + 1
        torch.testing.assert_close(torch.cat(now), read_by(net, state, name, x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.cat(before), net.layer_inputs(x)[name], rtol=1e-12, atol=1e-12)
        state[name] = state[name] * 0.5
        met.append(name)
    assert met == call_order(net, x[:1])


def test_a_pass_is_made_once_for_all_layers() -> None:
    """Of each state; one sample goes before for the order, and nobody needs the last layer run."""
    runs = []

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            runs.append(len(x))
            return super().forward(x)

    net = Network(nn.Sequential(Counted(3, 3), nn.ReLU(), Counted(3, 3), nn.ReLU(), Counted(3, 2)))
    for _ in walk(net, torch.randn(40, 3), net.weights, net.state(), {}):
        pass
    assert sorted(runs) == 3 * [1] + 4 * [40]


def test_a_layer_called_twice_is_met_once_with_what_both_calls_read() -> None:
    net, x = Network(trained_looking(Twice)), torch.randn(5, 4, dtype=torch.float64)
    state, met = net.state(), {}
    for name, (now,) in walk(net, x, net.weights, state):
        met[name] = torch.cat(now), read_by(net, state, name, x)
        state[name] = state[name] * 0.5
    assert list(met) == ["unread.weight", "first.weight", "out.weight"]
    assert len(met["first.weight"][0]) == 10
    for found, expected in met.values():
        torch.testing.assert_close(found, expected)


def test_an_order_of_calls_that_depends_on_the_samples_is_refused_by_name() -> None:
    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) if len(x) == 1 else self.a(self.b(x))

    net = Network(Either())
    with pytest.raises(WfbenchError, match=r"depends on the samples: b\.weight before a\.weight"):
        list(walk(net, torch.randn(4, 2), net.weights, {}))


def test_a_layer_under_autocast_is_refused_and_leaves_no_autocast_behind() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.b(x)

    with pytest.raises(WfbenchError, match=r"b\.weight is called under autocast"):
        list(walk(net := Network(Half()), torch.randn(4, 2), net.weights, {}))
    assert not torch.is_autocast_enabled("cpu")


def test_an_error_in_the_network_reaches_the_caller_and_ends_the_other_passes() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.left = nn.Linear(2, 2), nn.Linear(2, 2), 0

        def forward(self, x: Tensor) -> Tensor:
            try:
                x = self.a(x)
                if len(x) > 1:
                    raise ValueError("more than one")
                return self.b(x)
            finally:
                ended.append(len(x))

    ended: list[int] = []
    net = Network(Picky())
    with pytest.raises(ValueError, match="more than one"):
        list(walk(net, torch.randn(40, 2), net.weights, {}, {}))
    assert ended == [1, 40, 40]


def test_second_moments_are_those_of_torchs_unfold() -> None:
    module = trained_looking(NETWORKS["resnet20"][0])
    net, x = Network(module), torch.randn(5, 1, 28, 28, dtype=torch.float64)
    found, inputs = second_moments(net, x), net.layer_inputs(x)
    for name in net.weights:
        layer = net.layer_of(name)
        if isinstance(layer, nn.Linear):
            rows = inputs[name]
        else:
            columns = functional.unfold(inputs[name], layer.kernel_size, 1, layer.padding, layer.stride)
            rows = columns.transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(found[name][0], rows.T @ rows / len(rows))
    some = {*list(net.weights)[2:5]}
    alone = second_moments(net, x, some)
    assert alone.keys() == some
    assert all(torch.equal(alone[name], found[name]) for name in some)


def test_second_moments_count_every_call_and_leave_uncalled_layers_zero() -> None:
    module = trained_looking(Twice)
    module.idle = nn.Linear(3, 3).double()
    net, x = Network(module), torch.randn(40, 4, dtype=torch.float64)
    found = second_moments(net, x)
    rows = torch.cat([x, torch.tanh(module.first(x))]).detach()
    torch.testing.assert_close(found["first.weight"][0], rows.T @ rows / 80)
    assert not found["idle.weight"].any()
    assert call_order(net, x[:1]) == ["unread.weight", "first.weight", "out.weight", "idle.weight"]


def test_one_by_one_shows_each_layer_what_the_pruned_ones_before_it_give() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    net, x = Network(module), torch.randn(50, 4, dtype=torch.float64)
    seen = {}

    def change(name: str, matrices: torch.Tensor, seen_by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen[name] = seen_by[0]
        return matrices + 1, torch.arange(matrices.numel()).reshape(matrices.shape) % 2 == 0

    weights, masks = one_by_one(net, x, change)
    first = torch.where(masks["0.weight"], module[0].weight + 1, 0)
    torch.testing.assert_close(weights["0.weight"], first)
    hidden = torch.relu(x @ first.T + module[0].bias)
    torch.testing.assert_close(seen["0.weight"], x.T @ x / 50)
    torch.testing.assert_close(seen["2.weight"], hidden.T @ hidden / 50)
