"""One tensor under several names, known once and written everywhere; what a pass leaves behind, which none carries."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.cases import REGISTRY, blobs, case_of
from wfbench import RECOVERIES, Labeled, Network, Pruned, Target, Task, Unlabeled, WfbenchError, load_pruned, run
from wfbench.export import pruned_network, save
from wfbench.harness.reuse import checkpoint_digest
from wfbench.licence import handed
from wfbench.modules import copied, names_of, put, state_of
from wfbench.recoveries.base import Recovery
from wfbench.recoveries.descent import FeatureDistillation, FineTuning, LogitDistillation
from wfbench.tasks import checkpoints
from wfbench.walk import second_moments, walk


class Tied(nn.Module):
    """Three layers, of which two share a weight; each has a bias of its own, or both share that too."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight
        if bias:
            self.b.bias = self.a.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.b(torch.relu(self.a(x)))))


class Decoder(nn.Module):
    """Tokens in, the next token out; the head's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.tanh(self.hidden(self.embedding(x.long()))).mean(1))
        return found


def seeded(kind: Any, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = kind(**options).eval()
    return made


def tied_task() -> Task:
    return Task("tied", seeded(Tied), train=blobs(60, 0), validation=blobs(30, 1), test=blobs(50, 2))


def tokens(n: int) -> Tensor:
    """Sequences of which no two are alike."""
    return torch.cartesian_prod(*[torch.arange(6.0)] * 5)[
        torch.randperm(6**5, generator=torch.Generator().manual_seed(0))[:n]
    ]


def decoder_task() -> Task:
    x = tokens(80)
    train, test = x[:40], x[40:]
    return Task("decoder", seeded(Decoder), train=(train, train[:, 0].long()), test=(test, test[:, 1].long()))


def test_a_tensor_has_one_name_a_layers_where_it_is_one() -> None:
    net = Network(seeded(Tied))
    assert list(net.weights) == ["a.weight", "out.weight"]
    assert "b.weight" not in net.state()
    assert net.sharing("a.weight") == ["a", "b"]
    assert net.bias_of("a.weight") is None
    assert Network(seeded(Tied, bias=True)).bias_of("a.weight") == "a.bias"
    net = Network(seeded(Decoder))
    assert list(net.weights) == ["head.weight", "hidden.weight"]
    assert net.read_elsewhere("head.weight")
    assert not net.read_elsewhere("hidden.weight")


def test_a_state_is_written_under_every_name() -> None:
    net = Network(seeded(Tied))
    halved = {name: tensor / 2 for name, tensor in net.state().items()}
    module = net.module(halved)
    assert module.a.weight is module.b.weight
    assert torch.equal(module.b.weight, net.weights["a.weight"] / 2)
    x = blobs(5, 0)[0]
    assert torch.equal(net.logits(halved, x), module(x))
    assert torch.equal(net.logits(module.state_dict(), x), module(x))
    with pytest.raises(WfbenchError, match=r"b\.weight is one tensor with a\.weight"):
        net.module({**halved, "b.weight": halved["a.weight"] + 1})
    assert names_of(module)["b.weight"] == "a.weight"


def test_magnitude_at_90_percent_reports_what_it_removes() -> None:
    """28 weights, of which 25 go: by hand, over tensors, and the network computes with them everywhere."""
    task = tied_task()
    case = case_of("magnitude", sparsity=0.9, task=task)
    record = run(case)
    assert record.achieved_sparsity == 25 / 28
    pruned = case.method.fit(Network(task.dense()), None).prune(case.target)
    sizes = torch.cat([task.dense().a.weight.abs().flatten(), task.dense().out.weight.abs().flatten()])
    least = sizes.sort().values[24]
    by_hand = copied(task.dense())
    with torch.no_grad():
        for weight in (by_hand.a.weight, by_hand.out.weight):
            weight[weight.abs() <= least] = 0
    x = blobs(9, 3)[0]
    assert torch.equal(Network(task.dense()).logits(pruned.state, x), by_hand(x))
    assert record.accuracy == float(
        (by_hand(task.test_set.take(range(50)).inputs).argmax(1) == blobs(50, 2)[1]).double().mean()
    )


@pytest.mark.parametrize("task", [tied_task(), decoder_task()], ids=lambda task: task.name)
@pytest.mark.parametrize(
    ("method", "recovery"),
    [
        *((method, "none") for method in ("lobs", "obc", "sparsegpt", "wanda", "snows")),
        *(("magnitude", recovery) for recovery in ("repair", "correction", "batchnorm")),
    ],
)
def test_methods_and_recoveries_have_records(task: Task, method: str, recovery: str) -> None:
    record = run(case_of(method, task=task, recovery=recovery))
    assert record.status == "ok", record.reason
    assert record.achieved_sparsity == 0.5


@pytest.mark.parametrize("recovery", [LogitDistillation(steps=2), FeatureDistillation(steps=2), FineTuning(steps=2)])
def test_descent_moves_a_shared_tensor_as_one(recovery: Recovery[Any]) -> None:
    task = tied_task()
    net = Network(task.dense())
    pruned = Pruned.of(net, net.weights, {name: weight > 0 for name, weight in net.weights.items()})
    data = Labeled(*blobs(6, 0))
    found = recovery.apply(net, pruned, handed(recovery.licence, data))
    assert found.state.keys() == net.state().keys()
    assert not torch.equal(found.state["a.weight"], pruned.state["a.weight"])
    assert not found.state["a.weight"][~pruned.mask["a.weight"]].any()


def test_the_moments_of_a_shared_weight_are_of_all_its_layers() -> None:
    module, x = seeded(Tied).double(), blobs(7, 0)[0].double()
    hidden = torch.relu(module.a(x))
    inputs = torch.cat([x, hidden]).detach()
    moments = second_moments(Network(module), x)
    torch.testing.assert_close(moments["a.weight"][0], inputs.T @ inputs / 14)
    ((name, ((one, other),)), *_) = walk(Network(module), x, ["a.weight"], {})
    assert (name, torch.equal(one, x)) == ("a.weight", True)
    torch.testing.assert_close(other, hidden)


@pytest.mark.parametrize("bias", [False, True])
def test_repair_of_a_shared_weight_is_least_squares_over_both_layers(bias: bool) -> None:
    module, x = seeded(Tied, bias=bias).double(), blobs(30, 0)[0].double()
    net = Network(module)
    mask = {name: weight.abs() > weight.abs().median() for name, weight in net.weights.items()}
    pruned = Pruned.of(net, net.weights, mask)
    repaired = RECOVERIES["repair"].apply(net, pruned, Unlabeled(x))
    small = net.module(pruned.state)
    with torch.no_grad():
        now = torch.cat([x, torch.relu(small.a(x))])
        read = torch.cat([x, torch.relu(module.a(x))])
        wanted = (read - (read.mean(0) if bias else 0)) @ module.a.weight.T
        seen = now - now.mean(0) if bias else now
    alpha = 0.01 * seen.square().sum(0).mean()
    for row in range(4):
        kept = mask["a.weight"][row]
        part = seen[:, kept]
        system = part.T @ part + alpha * torch.eye(int(kept.sum()), dtype=torch.float64)
        solved = torch.linalg.solve(system, part.T @ wanted[:, row] + alpha * module.a.weight[row, kept].detach())
        torch.testing.assert_close(repaired.state["a.weight"][row, kept], solved)
    assert torch.equal(repaired.state["a.bias"], net.state()["a.bias"]) != bias


def test_a_tied_embedding_stays_in_repair_and_goes_first_where_layers_are_pruned_in_turn() -> None:
    net, x = Network(seeded(Decoder)), tokens(9)
    pruned = Pruned.of(net, net.weights, {name: weight > 0 for name, weight in net.weights.items()})
    repaired = RECOVERIES["repair"].apply(net, pruned, Unlabeled(x))
    assert torch.equal(repaired.state["head.weight"], pruned.state["head.weight"])
    assert not torch.equal(repaired.state["hidden.weight"], pruned.state["hidden.weight"])
    state = dict(net.weights)
    seen = {}
    for name, ((read,),) in walk(net, x, net.weights, state):
        seen[name] = read
        state[name] = state[name] * 0.5
    assert list(seen) == ["head.weight", "hidden.weight"]
    torch.testing.assert_close(seen["hidden.weight"], 0.5 * net.weights["head.weight"][x.long()])


def test_layers_that_use_a_weight_in_different_ways_are_named() -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, padding=1), nn.Flatten(), nn.Linear(8, 2))
    module[1].weight = module[0].weight
    net = Network(module)
    with pytest.raises(
        WfbenchError, match=r"1 has the weight 0\.weight too, and uses it in another way; untie the two"
    ):
        second_moments(net, torch.randn(2, 2, 4, 4))


def test_files_hold_a_tensor_once_and_load_everywhere(tmp_path: Path) -> None:
    task = tied_task()
    outcome = pruned_network(case_of("magnitude", task=task, recovery="repair"))
    save(tmp_path / "pruned.safetensors", outcome.module, outcome.about)
    assert "b.weight" not in load_file(tmp_path / "pruned.safetensors")
    loaded = load_pruned(tmp_path / "pruned.safetensors", seeded(Tied))
    assert torch.equal(loaded.a.weight, outcome.module.a.weight)
    assert loaded.a.weight is loaded.b.weight
    path = checkpoints.save("tied", task.dense(), tmp_path, 0, 0.5, {})
    other = Tied()
    put(other, load_file(path))
    assert torch.equal(other.b.weight, task.dense().a.weight)


def test_digests_are_of_each_tensor_once() -> None:
    one, other = seeded(Tied), seeded(Tied)
    assert list(state_of(one)) == ["a.weight", "a.bias", "b.bias", "out.weight", "out.bias"]
    assert checkpoint_digest(one) == checkpoint_digest(other)
    with torch.no_grad():
        other.b.weight[0, 0] += 1
    assert checkpoint_digest(one) != checkpoint_digest(other)


class Storing(nn.Module):
    """Keeps what it computed, and would use it in the next pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(4, 4), nn.Linear(4, 3)
        self.last: Tensor | None = None
        self.all: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(x))
        if self.last is not None and len(self.last) == len(hidden):
            hidden = hidden + self.last
        self.last, self.named = hidden, hidden
        self.all.append(hidden)
        found: Tensor = self.out(hidden) * len(self.all)
        return found


def test_no_pass_is_changed_by_what_one_before_it_stored() -> None:
    net, (x, y) = Network(seeded(Storing)), blobs(6, 0)
    first = net.logits({}, x)
    net.layer_inputs(x)
    with net.hooked(lambda *_: None) as module:
        module(x)
    assert torch.equal(net.logits({}, x), first)
    assert torch.equal(net.module()(x), first)
    for method in ("snip", "woodfisher"):
        REGISTRY.pruner(method).fit(net, Labeled(x, y)).prune(Target(0.5))
    copy = net.module()
    assert (copy.last, copy.all, hasattr(copy, "named")) == (None, [], False)


def test_a_module_that_stored_its_graph_is_copied() -> None:
    module = seeded(Storing)
    x = blobs(6, 0)[0]
    module(x)
    copy = copied(module)
    assert torch.equal(copy.last, module.last)
    assert copy.last.grad_fn is None
    task = Task("storing", module, train=blobs(60, 0), test=blobs(50, 2))
    assert run(case_of("magnitude", task=task)).status == "ok"


def test_records_of_a_network_that_stores_do_not_hang_on_the_order_of_cases() -> None:
    from wfbench import Runner

    task = Task("storing", seeded(Storing), train=blobs(60, 0), test=blobs(50, 2))
    cases = [case_of(method, task=task, recovery="repair") for method in ("magnitude", "snip", "lobs")]
    one, other = Runner(), Runner()
    forward = [one.run(case) for case in cases]
    back = [other.run(case) for case in reversed(cases)][::-1]
    assert all(record.status == "ok" for record in forward)
    assert [(r.accuracy, r.loss) for r in forward] == [(r.accuracy, r.loss) for r in back]
