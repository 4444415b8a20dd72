"""Rows and layer inputs of layers that hooks see wrongly or not at all: autograd's, or the layer's name and why."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.oracles import looped_rows
from wfbench import RECOVERIES, Labeled, Network, Pruned, Target, Unlabeled, WfbenchError, fisher_rows
from wfbench.harness.plugins import discover
from wfbench.walk import second_moments

REGISTRY = discover()


class TwoByTwo(nn.Module):
    """A layer whose leading dimension is not the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.h = nn.Linear(2, 1, bias=False), nn.Linear(2, 2, bias=False)
        self.a.weight.data.fill_(1)
        self.h.weight.data.copy_(torch.eye(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.a(x.reshape(-1, 2)).reshape(len(x), -1))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_with_two_rows_a_sample(n: int, dtype: torch.dtype) -> None:
    """Logits [3, 7] and [11, 15]: log p by a is (1 − p)(x₁₂ − x₃₄), p = 1/(1 + e⁴), so −2(1 − p) = −1.964 twice."""
    x = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=dtype)[:n]
    rows = fisher_rows(Network(TwoByTwo().to(dtype)), Labeled(x, torch.zeros(n, dtype=torch.int64))) * math.sqrt(n)
    value = -2 / (1 + math.exp(-4))
    assert round(value, 3) == -1.964
    torch.testing.assert_close(rows[:, :2], torch.full((n, 2), value, dtype=dtype))


def test_the_moment_of_a_layer_with_two_rows_a_sample_is_over_all_of_them() -> None:
    x = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    found = second_moments(Network(TwoByTwo()), x)["a.weight"][0]
    rows = x.reshape(4, 2).double()
    assert torch.equal(found, rows.T @ rows / 4)


class Body(nn.Module):
    """Two layers, the first called in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        if how == "batch statistics":
            self.norm = nn.BatchNorm1d(4, track_running_stats=False, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "function":
            x = functional.linear(x, self.a.weight, self.a.bias)
        elif self.how == "transposed":
            x = self.a(x) @ self.a.weight + self.b(x)
        elif self.how == "keyword":
            x = self.a(input=x)
        elif self.how == "attention":
            x = self.attention(x[:, None], x[:, None], self.a(x)[:, None])[0][:, 0]
        elif self.how == "time first":
            x = self.a(torch.stack([x, 2 * x, x.square()])).sum(0)
        elif self.how == "as many times as samples":
            x = self.a(torch.stack([x * i for i in range(1, len(x) + 1)])).mean(0)
        elif self.how == "batch statistics":
            x = self.norm(self.a(x))
        elif self.how == "mixed":
            x = self.a(x) - x.mean(0)
        elif self.how == "dropout":
            x = functional.dropout(self.a(x), 0.5)
        elif self.how == "no gradient":
            with torch.no_grad():
                return self.out(self.a(x))
        elif self.how == "its own dtype":
            x = functional.linear(x.float(), self.a.weight.float())
        return self.out(torch.tanh(x))


def body(how: str, n: int = 3) -> tuple[nn.Module, Labeled]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Body(how).double().eval(), Labeled(torch.randn(n, 4).double(), torch.arange(n) % 3)


@pytest.mark.parametrize("over", ["prunable", "movable"])
@pytest.mark.parametrize(
    "how", ["function", "transposed", "keyword", "attention", "time first", "as many times as samples"]
)
def test_rows_are_autograds_however_the_layer_is_called(how: str, over: str) -> None:
    """A layer that is never called has rows of zeros, as here the others."""
    module, data = body(how)
    net = Network(module)
    if how == "as many times as samples":  # the batch's size plays a part: no sample can be taken alone
        with pytest.raises(WfbenchError, match="its logits depend on other samples"):
            fisher_rows(net, data, over=over)
        return
    names = list(net.weights if over == "prunable" else net.movable)
    p = functional.one_hot(data.labels, 3) - module(data.inputs).detach().softmax(1)
    unused = [name for name in names if not reached(module, name, data.inputs)]
    read = [name for name in names if name not in unused]
    expected = dict(zip(read, split(looped_rows(module, read, data.inputs, p[:, None]), net, read), strict=True))
    rows = fisher_rows(net, data, over=over) * math.sqrt(3)
    for name, found in zip(names, split(rows, net, names), strict=True):
        wanted = torch.zeros_like(found) if name in unused else expected[name]
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


def reached(module: nn.Module, name: str, x: Tensor) -> bool:
    (found,) = torch.autograd.grad(module(x).sum(), [module.get_parameter(name)], allow_unused=True)
    return found is not None


def split(rows: Tensor, net: Network, names: list[str]) -> tuple[Tensor, ...]:
    return rows.split([net.movable[name].numel() for name in names], dim=1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("batch statistics", "its logits depend on other samples: layer norm keeps no running statistics"),
        ("mixed", "its logits depend on other samples: it mixes the samples of a batch"),
        ("dropout", "the network's logits differ from call to call"),
        ("no gradient", "the logits depend on no weight; is the network's forward pass under no_grad"),
    ],
)
def test_what_has_no_rows_is_named(how: str, message: str) -> None:
    module, data = body(how)
    with pytest.raises(WfbenchError, match=message):
        fisher_rows(Network(module), data)


def test_a_network_that_wants_its_own_dtype_is_checked_in_it() -> None:
    module, data = body("its own dtype")
    data = Labeled(data.inputs.float(), data.labels)
    net = Network(module.float())
    rows = fisher_rows(net, data) * math.sqrt(3)
    p = functional.one_hot(data.labels, 3) - module(data.inputs).detach().softmax(1)
    expected = looped_rows(module, ["a.weight"], data.inputs, p[:, None])
    torch.testing.assert_close(split(rows, net, list(net.weights))[0], expected)


def test_a_shared_weight_has_the_gradient_of_all_its_uses() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False)).double().eval()
    module[2].weight = module[0].weight
    x = torch.randn(4, 3, dtype=torch.float64)
    y = torch.arange(4) % 3
    expected = looped_rows(module, ["0.weight"], x, (functional.one_hot(y, 3) - module(x).detach().softmax(1))[:, None])
    torch.testing.assert_close(fisher_rows(Network(module), Labeled(x, y))[:, :9] * 2, expected)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("function", "weight of layer a is used outside of the layer's own call"),
        ("transposed", "weight of layer a is used outside of the layer's own call"),
    ],
)
@pytest.mark.parametrize("method", ["lobs", "wanda", "kfac", "repair", "correction"])
def test_layer_wise_methods_name_the_layer_that_they_do_not_see(method: str, how: str, message: str) -> None:
    module, data = body(how)
    net = Network(module)
    with pytest.raises(WfbenchError, match=message):
        layer_wise(method, net, data)


@pytest.mark.parametrize("how", ["keyword", "attention", "time first"])
@pytest.mark.parametrize("method", ["lobs", "wanda", "kfac", "repair"])
def test_layer_wise_methods_see_layers_however_they_are_called(method: str, how: str) -> None:
    module, data = body(how)
    layer_wise(method, Network(module), data)


def layer_wise(method: str, net: Network, data: Labeled) -> Pruned:
    if method in RECOVERIES:
        whole = Pruned.of(net, net.weights, {name: torch.ones_like(w).bool() for name, w in net.weights.items()})
        return RECOVERIES[method].apply(net, whole, Unlabeled(data.inputs))
    pruner = REGISTRY.pruner(method)
    given = data if pruner.licence is Labeled else Unlabeled(data.inputs)
    return pruner.fit(net, given).prune(Target(0.5, scope=pruner.scope))


def test_attentions_projection_reads_what_the_heads_give() -> None:
    """Of one token each head gives its value: the moment is that of the values."""
    module, data = body("attention")
    found = second_moments(Network(module), data.inputs)["attention.out_proj.weight"][0]
    weight, bias = module.attention.in_proj_weight[8:], module.attention.in_proj_bias[8:]
    values = functional.linear(module.a(data.inputs), weight, bias)
    torch.testing.assert_close(found, (values.T @ values / 3).detach())
