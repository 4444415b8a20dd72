"""Every method, recovery and pattern on a pretend device with the rules of CUDA gives the bits of the host."""

import inspect
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.cases import REGISTRY, Medley, Twice
from tests.planted import Check, planted, plants
from tests.shadow_device import NAME, Refused, counted, used
from tests.test_heads import timm_vit
from wfbench import (
    NM,
    RECOVERIES,
    Case,
    Filter,
    Labeled,
    Network,
    Runner,
    Sampling,
    ScorePruner,
    Target,
    Task,
    WfbenchError,
    draw,
    fisher_rows,
    prune,
)
from wfbench.cli import main
from wfbench.composed.gradual import FittedGradual
from wfbench.composed.steps import steps_in
from wfbench.conformance.checks import check, device_and_dtype_kept
from wfbench.conformance.trial import CheckFailed, Trial
from wfbench.curvature.gram import gram
from wfbench.data import Dataset
from wfbench.deploy.comparison import compare_networks
from wfbench.deploy.packed import file_bytes
from wfbench.draws import RANDOM
from wfbench.execution.devices import usable
from wfbench.export import export_onnx, export_program
from wfbench.harness.measures import check_finite
from wfbench.harness.record import SCIENCE, cpu_name
from wfbench.network import Params
from wfbench.operations.shapes import shapes_of
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner
from wfbench.recoveries.base import Recovery
from wfbench.recoveries.statistics import gains
from wfbench.tasks.evaluate import _sent
from wfbench.tasks.recipes import RECIPES
from wfbench.tasks.training import Recipe, moved
from wfbench.tiles import HOST, KINDS

pytestmark = pytest.mark.skipif(
    torch.accelerator.is_available() and torch.accelerator.current_accelerator() != torch.device(NAME),
    reason="there is a real accelerator, which the pretend one would stand in for",
)


@pytest.fixture(scope="module", autouse=True)
def _used() -> Iterator[None]:
    with used(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, NAME, HOST)  # the bits hang on the sizes of what is computed at a time
        yield


def small() -> nn.Module:
    """Two convolutions with norms and a linear layer, 215 parameters."""
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    )
    for name, buffer in module.named_buffers():
        if name.endswith("mean"):
            buffer.normal_(std=0.1)
    return module.eval()


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 3


@cache
def task() -> Task:
    return Task("small", small(), train=images(24, 0), validation=images(6, 1), test=images(20, 2))


@cache
def runners() -> tuple[Runner, Runner]:
    """On the host and on the device."""
    return Runner(), Runner(NAME)


def attending() -> nn.Module:
    """Attention, whose projection torch hands to a function, and a norm over features."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.norm, self.out = nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.stack([x, 2 * x, x.square()], 1)
            return self.out(self.norm(self.attention(x, x, x)[0]).mean(1))

    return Attending()


def targets(method: Pruner[Any]) -> list[Target]:
    patterns = {"unstructured": {}, "n:m": {"pattern": NM()}, "filter": {"pattern": Filter((1, 6, 6)), "of": "params"}}
    return [Target(0.5 if name != "filter" else 0.3, scope=method.scope, **patterns[name]) for name in method.patterns]


WRAPPED = (
    *("gradual[steps=2]-woodfisher-joint", "staged[stages=2]-obc", "staged[stages=2]-woodfisher-filter"),
    *("magnitude-as-lobs", "random-as-taylor", "wanda+obc", "magnitude+woodfisher-joint", "magnitude+snows+kept"),
    *("woodfisher[damping=cross-validated]", "woodfisher-joint[block_size=null][back_off=true]"),
)
RECOVERING = [found if not hasattr(found, "steps") else replace(found, steps=2) for found in RECOVERIES.values()]
METHODS = {name: REGISTRY.pruner(name) for name in (*REGISTRY.pruners, *WRAPPED)}
CASES = [(name, target) for name, method in METHODS.items() for target in targets(method)]


ON_THE_HOST: dict[str, dict[str, Any]] = {}
"""Science fields by the label of a case."""


def on_the_host(case: Case) -> dict[str, Any]:
    if case.label() not in ON_THE_HOST:
        found = runners()[0].run(case)
        assert found.status == "ok", found.reason
        ON_THE_HOST[case.label()] = {name: getattr(found, name) for name in SCIENCE}
    return ON_THE_HOST[case.label()]


def assert_same(case: Case, device: Runner | None = None) -> None:
    """The record on the device is the host's, in every science field."""
    expected, device = on_the_host(case), device or runners()[1]
    with counted() as counts:
        found = device.run(case)
    assert {name: getattr(found, name) for name in SCIENCE} == expected, found.reason
    assert counts.launches.total() > 50
    assert device._pruned is not None
    assert {tensor.device.type for tensor in device._pruned[1].state.values()} == {NAME}


each_case = pytest.mark.parametrize(
    ("name", "target"), CASES, ids=lambda value: value if isinstance(value, str) else value.pattern.name
)


@each_case
def test_methods_give_the_bits_of_the_host(name: str, target: Target) -> None:
    """Each with one recovery or another."""
    recovery = RECOVERING[CASES.index((name, target)) % len(RECOVERING)]
    assert_same(Case(task(), 6, 0, 0, target, METHODS[name], recovery))


@pytest.mark.slow
@each_case
def test_methods_give_the_bits_of_the_host_with_every_recovery(name: str, target: Target) -> None:
    for recovery in RECOVERING:
        assert_same(Case(task(), 6, 0, 0, target, METHODS[name], recovery))


@pytest.mark.parametrize("recovery", RECOVERING, ids=lambda recovery: recovery.name)
@pytest.mark.parametrize("name", ["lamp", "tp-l2"])
def test_recoveries_give_the_bits_of_the_host(name: str, recovery: Recovery[Any]) -> None:
    for target in targets(METHODS[name]):
        assert_same(Case(task(), 6, 0, 0, target, METHODS[name], recovery))


def probes_alike() -> None:
    """Where rows of every logit are too many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wfbench.curvature.rows.MAX_ENTRIES", 0)
        patch.setattr("wfbench.curvature.rows.PROBE_ROWS", 8)
        method = REGISTRY.pruner("woodfisher-staged[stages=2][steps=1]")
        assert_same(Case(task(), 4, 0, 0, Target(0.5), method, RECOVERIES["none"]), Runner(NAME))


def test_probes_give_the_bits_of_the_host() -> None:
    probes_alike()


NETWORKS = [Medley, Twice, attending]


@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_layers_of_other_kinds_give_the_bits_of_the_host(build: Callable[[], nn.Module]) -> None:
    for name, recovery in (("woodfisher-joint", "repair"), ("kfac", "correction"), ("sparsegpt", "none")):
        assert_same(other_case(build, name, recovery))


@cache
def other_task(build: Callable[[], nn.Module]) -> Task:
    torch.manual_seed(0)
    shape = (2, 7, 7) if build is Medley else (4,)
    pairs = [(torch.randn(n, *shape), torch.arange(n) % 3) for n in (8, 3, 6)]
    return Task(build.__name__, build().eval(), *pairs)


def other_case(build: Callable[[], nn.Module], name: str, recovery: str) -> Case:
    method = REGISTRY.pruner(name)
    return Case(other_task(build), 4, 0, 0, Target(0.5, scope=method.scope), method, RECOVERIES[recovery])


class Reading(nn.Module):
    """Of texts of five tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.out = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(torch.relu(self.first(self.table(x).mean(1))))
        return found


def headed() -> nn.Module:
    """Without torch's function for attention, which takes another kernel on another device."""
    module = timm_vit()
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False  # type: ignore[assignment]
    return module


def channel_case(build: Callable[[], nn.Module]) -> Case:
    """Of heads of attention, or of a network that reads tokens."""
    torch.manual_seed(0)
    pattern = Filter((5,), tokens=True) if build is Reading else Filter((3, 16, 16))
    shapes = [(n, *pattern.shape) for n in (8, 3, 6)]
    pairs = [(torch.randint(1, 7, s) if pattern.tokens else torch.randn(s), torch.arange(s[0]) % 3) for s in shapes]
    of = Task(build.__name__, build().eval(), *pairs)
    return Case(of, 4, 0, 0, Target(0.3, pattern, of="params"), METHODS["random-filter"], RECOVERIES["none"])


@pytest.mark.parametrize("build", [Reading, headed], ids=lambda build: build.__name__)
def test_channels_of_other_kinds_give_the_bits_of_the_host(build: Callable[[], nn.Module]) -> None:
    assert_same(channel_case(build))


def test_the_device_has_the_rules_of_cuda() -> None:
    host = torch.randn(4, 3)
    x = host.to(NAME)
    index, number = torch.tensor([2, 0]), torch.tensor(2.0)
    for allowed, expected in (
        (x * number, host * 2),  # a number on the host
        (torch.where(x > 0, x, number), torch.where(host > 0, host, number)),
        (x[index], host[index]),
        (x[host > 0], host[host > 0]),
        (x.clone().index_put_((index,), number), host.clone().index_put_((index,), number)),
        (x.T @ x, host.T @ host),
    ):
        assert allowed.device.type == NAME
        assert torch.equal(allowed.cpu(), expected)
    refused: list[Callable[[], object]] = [
        *(lambda: x + host, lambda: x @ host.T, lambda: torch.cat([x, host]), lambda: torch.stack([x.sum(), number])),
        *(lambda: torch.where(host > 0, x, 0), lambda: host[index.to(NAME)], lambda: x.gather(0, index[:, None])),
        *(lambda: torch.zeros(()).add_(x.sum()), lambda: torch.nn.functional.cross_entropy(x, torch.zeros(4).long())),
        *(lambda: x.normal_(generator=torch.Generator()), lambda: torch.equal(x, host)),
    ]
    for one in refused:
        with pytest.raises(Refused):
            one()
    with pytest.raises(TypeError, match="to copy the tensor to host memory first"):
        np.asarray(x)
    generator = torch.Generator(NAME).manual_seed(0)
    drawn = torch.rand(3, device=NAME, generator=generator)
    assert torch.equal(drawn.cpu(), torch.rand(3, generator=torch.Generator().manual_seed(0)))


def test_launches_waits_and_copies_are_counted_by_line() -> None:
    x = torch.randn(4, 3).to(NAME)
    with counted() as counts:
        x.mul(2).T.reshape(-1)
    assert (counts.launches.total(), counts.waits.total(), counts.copies.total()) == (2, 0, 0)
    for waiting in (lambda: float(x.sum()), lambda: bool((x > 0).all()), lambda: x[x > 0], x.nonzero, x.cpu, x.tolist):
        with counted() as counts:
            waiting()
        assert counts.waits.total() == 1
    with counted() as counts:
        check_finite({"x": x}, "dense")
    assert list(counts.waits) == [f"measures:{line_of('torch.isfinite(flatten(floating)).all()')}"]


def line_of(text: str) -> int:
    lines = inspect.getsource(inspect.getmodule(check_finite)).splitlines()  # type: ignore[arg-type]
    return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.mark.parametrize("sampling", [RANDOM, Sampling("k-shot"), Sampling(wrong_labels=0.5)], ids=str)
def test_splits_on_the_device_are_drawn_from_as_on_the_host(sampling: Sampling) -> None:
    x, y = images(24, 0)
    pairs = [(a, b) for a, b in zip(x.to(NAME), y.to(NAME), strict=True)]
    for split in ((x.to(NAME), y.to(NAME)), pairs):
        there, here = Dataset(split), Dataset((x, y))
        found, expected = draw(there, 6, 1, sampling), draw(here, 6, 1, sampling)
        assert isinstance(found, Labeled)
        assert isinstance(expected, Labeled)
        assert torch.equal(found.inputs, expected.inputs)
        assert torch.equal(found.labels, expected.labels)
        assert there.fingerprint == here.fingerprint


def test_samples_may_be_on_the_host_or_with_the_network() -> None:
    def told(net: Network, data: Labeled) -> list[Tensor]:
        weights = {name: 0.9 * weight for name, weight in net.weights.items()}
        change = torch.tensor([net.change(weights, data)])
        rows, loss, read = fisher_rows(net, data), net.loss(weights, data), net.layer_inputs(data.inputs)
        return [one.detach().cpu() for one in (change, rows, loss, *read.values())]

    x, y = images(5, 0)
    expected = told(Network(small()), Labeled(x, y))
    for where in ("cpu", NAME):
        found = told(Network(small().to(NAME)), Labeled(x.to(where), y.to(where)))
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_what_is_sent_to_cuda_is_pinned() -> None:
    sent = []

    class Pinned(Tensor):
        def pin_memory(self, *_: Any) -> Tensor:  # type: ignore[override]
            return self

        def to(self, device: torch.device, non_blocking: bool = False) -> Tensor:  # type: ignore[override]
            sent.append((device, non_blocking))
            return self

    _sent(torch.zeros(2).as_subclass(Pinned), torch.device("cuda"))
    assert sent == [(torch.device("cuda"), True)]


def test_copies_made_on_the_device_are_those_of_the_host() -> None:
    def made(device: str) -> Dataset:
        return Dataset(images(24, 0), augment=lambda x, by: moved(x[None], 1, flip=True, generator=by)[0].to(device))

    one, other = (draw(made(device), 4, 1, Sampling(copies=3)) for device in ("cpu", NAME))
    assert len(one) == 12
    assert torch.equal(one.inputs, other.inputs)


class Draws(ScorePruner[None]):
    """Ranks by numbers that the device draws."""

    name = "draws"

    def scores(self, net: Network, data: None) -> Params:
        return {name: torch.rand_like(weight, dtype=torch.float64) for name, weight in net.weights.items()}


def test_the_generator_of_the_device_is_seeded_and_put_back() -> None:
    module: Any = torch.get_device_module(NAME)
    case = Case(task(), 6, 0, 0, Target(0.5), Draws(), RECOVERIES["none"])
    before = module.get_rng_state()
    first = Runner(NAME).prune(case)[0]
    assert torch.equal(module.get_rng_state(), before)
    torch.rand(5, device=NAME)
    second = Runner(NAME).prune(case)[0]
    assert all(torch.equal(first.mask[name], second.mask[name]) for name in first.mask)


def test_a_record_names_the_model_of_its_device_and_answers_for_no_other() -> None:
    case = Case(task(), 6, 0, 0, Target(0.5), METHODS["magnitude"], RECOVERIES["none"])
    host, device = runners()
    record = asdict(device.run(case))
    assert record["environment"]["accelerator"] == "Shadow of the host"
    assert record["environment"]["machine"] == cpu_name()
    assert device.question(case).differences(record) == []
    assert "device" in host.question(case).differences(record)
    other = record | {"environment": {**record["environment"], "accelerator": "Another"}}
    assert device.question(case).differences(other) == ["accelerator"]
    assert "accelerator" not in asdict(host.run(case))["environment"]


def assert_runs_there(words: list[str], device: str = NAME) -> None:
    """A command does its work on the device that it is given."""
    with counted() as counts:
        assert main([*words, "--device", device]) == 0
    assert (counts.launches.total() > 10) == (device == NAME), words


def trained_alike() -> None:
    recipe = Recipe(epochs=2, lr=0.1, shift=1, flip=True)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "digits-cnn", (RECIPES["digits-cnn"][0], recipe))
        for device in ("cpu", NAME):
            assert_runs_there(["train", "digits-cnn", "--out", f"{folder}/{device}"], device)
        one, other = (Path(folder, device, "digits-cnn-0.safetensors") for device in ("cpu", NAME))
        assert one.read_bytes() == other.read_bytes()


def assert_passes(method: Pruner[Any]) -> None:
    outcomes = check(method, NAME)
    assert {outcome.status for outcome in outcomes} <= {"ok", "skipped"}, outcomes


def pruned_and_saved() -> None:
    """By the functions for engineers: on the device, and its file on the host."""
    x, y = images(24, 0)
    found = [
        prune(small().to(device), (x, y), sparsity=0.3, method="filter-l1", recovery="repair", of="params")
        for device in ("cpu", NAME)
    ]
    assert next(found[1].parameters()).device.type == NAME
    assert all(torch.equal(a, b.cpu()) for a, b in zip(*(one.state_dict().values() for one in found), strict=True))
    assert file_bytes(found[0].state_dict(), {}) == file_bytes(found[1].state_dict(), {})


def there() -> Task:
    """The same task, whose network is on the device."""
    return replace(task(), module=lambda: small().to(NAME))


def commands_alike() -> None:
    """`prune` writes the files of the host, also of a network that is there; others work where they are told to."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("wfbench.deploy.advice.CANDIDATES", {"weights": (("magnitude", "none"),)})
        files = [Path(name, f"{of.__name__}.py") for of in (task, there)]
        for file in files:
            file.write_text(f"from tests.test_shadow import {file.stem}\n\nTASKS = [{file.stem}()]\n")
            words = ["prune", "small", "--task-path", str(file), "--method", "filter-l1", "--of", "params"]
            words += ["--sparsity", "0.3", "--budget", "6", "--out", str(file.with_suffix(".safetensors"))]
            assert_runs_there(words, "cpu" if file.stem == "task" else NAME)
        one, other = (file.with_suffix(".safetensors").read_bytes() for file in files)
        assert one == other
        assert_runs_there(["recommend", "small", "--task-path", str(files[0]), "--budget", "10"])
        assert_runs_there(["doctor", "small", "--task-path", str(files[0]), "--results", name])
        assert Network(task().dense()).device.type == "cpu"  # nobody moves the task's own network


def taken_up_again() -> None:
    """Steps that were kept are gone on from, on the device."""
    method = METHODS["gradual[steps=2]-woodfisher-joint"]
    case = Case(task(), 6, 0, 0, Target(0.5), method, RECOVERIES["none"])
    with TemporaryDirectory() as folder, steps_in(Path(folder)):
        assert_same(case, Runner(NAME))
        assert len(list(Path(folder).rglob("*.safetensors"))) == 2
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FittedGradual, "_step", None)  # nothing is computed again
            assert_same(case, Runner(NAME))


def exported_alike() -> None:
    x = images(3, 1)[0]
    with TemporaryDirectory() as folder:
        export_program(f"{folder}/small.pt2", small().to(NAME), (1, 6, 6))
        export_onnx(f"{folder}/small.onnx", small().to(NAME), (1, 6, 6))
        assert torch.equal(torch.export.load(f"{folder}/small.pt2").module()(x), small()(x))


def compared_alike() -> None:
    """What is told of a network there: its costs, its shapes, its statistics, and what can be used."""
    x = images(9, 1)[0]
    pruned = prune(small(), x, sparsity=0.5, method="magnitude")
    found = [compare_networks(small().to(device), deepcopy(pruned).to(device), x) for device in ("cpu", NAME)]
    assert len({repr(replace(one, latency=[])) for one in found}) == 1
    nets = [Network(small().to(device)) for device in ("cpu", NAME)]
    assert shapes_of(nets[0], x[:1]) == shapes_of(nets[1], x[:1])
    assert torch.equal(gains(nets[0], x), gains(nets[1], x))
    with pytest.raises(WfbenchError, match='device "cuda" cannot be used here'):
        usable("cuda")


@pytest.mark.parametrize("alike", [commands_alike, taken_up_again, compared_alike])
@pytest.mark.filterwarnings("ignore:the statistics of the network")  # of no training at all
def test_what_is_there_is_told_and_written_as_on_the_host(alike: Check) -> None:
    alike()


@pytest.mark.slow
def test_networks_there_are_exported() -> None:
    exported_alike()


@pytest.mark.filterwarnings("ignore:the statistics of the network")  # of three steps of training
def test_training_checks_and_pruning_of_modules_take_a_device() -> None:
    trained_alike()
    assert_passes(METHODS["wanda"])
    pruned_and_saved()
    with pytest.raises(WfbenchError, match='device "nowhere" cannot be used here'):
        check(METHODS["wanda"], "nowhere")


BUDGETS = {
    "magnitude": (100, 9),
    "filter-l1": (224, 38),
    "woodfisher-joint": (5080, 350),
    "obc": (1850, 37),
    "sparsegpt": (690, 24),
    "obs-filter": (690, 73),
    "woodfisher-filter": (766, 86),
    "woodfisher-filter-independent": (715, 80),
    "woodfisher-filter[stages=2]": (766, 86),
}
"""Most launches and waits of a case: fitting, pruning, and what is checked of the result."""


@pytest.mark.parametrize("name", BUDGETS)
def test_hot_loops_keep_to_their_launches_and_waits(name: str) -> None:
    method = REGISTRY.pruner(name)
    target = targets(method)[0]
    device = Runner(NAME)  # on which no other case has left rows
    device.prune(Case(task(), 6, 0, 0, targets(METHODS["tp-l2"])[0], METHODS["tp-l2"], RECOVERIES["none"]))
    with counted() as counts:
        device.prune(Case(task(), 5, 0, 0, target, method, RECOVERIES["none"]))
    launches, waits = BUDGETS[name]
    assert counts.launches.total() <= launches, counts.launches.most_common(5)
    assert counts.waits.total() <= waits, counts.waits.most_common(5)


def test_a_gram_matrix_on_an_accelerator_is_few_launches() -> None:
    rows = torch.randn(70, 2**16).to(NAME)
    with pytest.MonkeyPatch.context() as patch, counted() as counts:
        patch.delitem(KINDS, NAME)
        found = gram(rows)
        assert torch.equal(gram(rows[:10].clone()), found[:10, :10])
    torch.testing.assert_close(found.cpu(), gram(rows.cpu()), rtol=1e-12, atol=1e-9)
    assert counts.launches.total() <= 40  # two products and two copies a 2^15 columns, twice


@pytest.mark.parametrize(
    ("name", "file", "function", "kind"),
    [
        ("snip", "wfbench/network.py", "Network.logits", ".to(self.device)"),
        ("woodfisher", "wfbench/curvature/per_sample.py", "per_sample_gradients", "device="),
        ("snip", "wfbench/modules.py", "bytes_of", ".cpu()"),
        ("random", "baselines/random_scores.py", "Random.scores", ".to(weight.device)"),
        ("random", "wfbench/harness/dense.py", "Dense.__init__", ".to(device)"),
    ],
)
def test_a_planted_fault_of_each_kind_is_caught(name: str, file: str, function: str, kind: str) -> None:
    """`python -m tests.planted` has all of them."""
    plant = next(plant for plant in plants(file) if (plant.function, plant.kind) == (function, kind))
    case = Case(task(), 6, 0, 0, Target(0.5), METHODS[name], RECOVERIES["none"])
    assert_same(case, Runner(NAME))
    with planted(plant), pytest.raises((AssertionError, TypeError, RuntimeError)):
        assert_same(case, Runner(NAME))


@dataclass(frozen=True)
class Strays(Pruner[None]):
    """Its results are on one device, wherever the network is."""

    name: ClassVar[str] = "strays"
    to: str = "cpu"

    def fit(self, net: Network, data: None) -> Fitted:
        fitted = METHODS["magnitude"].fit(net, data)

        class Straying:
            to = self.to

            def prune(self, target: Target) -> Pruned:
                found = fitted.prune(target)
                state, mask = ({name: one.to(self.to) for name, one in of.items()} for of in (found.state, found.mask))
                return Pruned(state, mask)

        return Straying()


def test_a_method_that_leaves_its_device_is_caught() -> None:
    for to in (NAME, "cpu"):
        with pytest.raises(CheckFailed, match=f"is torch.float32 on {to}"):
            device_and_dtype_kept(Trial(Strays(to=to), task(), NAME))


def planting() -> dict[str, Check]:
    """Checks by name, each on a device that has seen nothing, for `tests.planted` to see which notice a fault."""

    def of(case: Case) -> Check:
        return lambda: assert_same(case, Runner(NAME))

    first = ("woodfisher-joint", "snip", "woodfisher-filter", "sparsegpt", "kfac", "snows", "random", "random-filter")
    then = ("woodfisher-logits", "woodfisher-exact", "woodfisher-minibatch", "woodfisher-staged", "obd-hessian", "obc")
    last = ("obs-filter", "fpgm", "kfac-filter", "group-fisher", "woodfisher-filter-independent", *WRAPPED)
    last = ("woodfisher-unlabeled", "lobs", *last)
    checks = {
        f"{name} {target.pattern.name}": of(Case(task(), 6, 0, 0, target, METHODS[name], RECOVERING[at % 10]))
        for at, name in enumerate((*first, *then, *last))
        for target in targets(METHODS[name])[:1]
    }
    for build in NETWORKS:
        for name, recovery in (("woodfisher-joint", "repair"), ("kfac", "correction"), ("sparsegpt", "none")):
            checks[f"{name} {build.__name__}"] = of(other_case(build, name, recovery))
    checks |= {f"random-filter {build.__name__}": of(channel_case(build)) for build in (Reading, headed)}
    unlabelled = Task("unlabelled", small(), images(24, 0)[0], images(6, 1)[0])
    checks["unlabelled"] = of(Case(unlabelled, 6, 0, 0, Target(0.5), METHODS["lamp"], RECOVERIES["none"]))
    for sampling in (RANDOM, Sampling("k-shot"), Sampling(wrong_labels=0.5)):
        checks[f"splits {sampling}"] = partial(test_splits_on_the_device_are_drawn_from_as_on_the_host, sampling)
    checks["pinned"] = test_what_is_sent_to_cuda_is_pinned
    checks["samples"] = test_samples_may_be_on_the_host_or_with_the_network
    checks["copies"] = test_copies_made_on_the_device_are_those_of_the_host
    checks["generator"] = test_the_generator_of_the_device_is_seeded_and_put_back
    told = (pruned_and_saved, trained_alike, commands_alike, taken_up_again, compared_alike, exported_alike)
    checks |= {check.__name__: check for check in told}
    checks["check"] = lambda: assert_passes(METHODS["wanda"])
    checks["strays"] = test_a_method_that_leaves_its_device_is_caught
    checks["probes"] = probes_alike
    hot = ("filter-l1", "woodfisher-filter", "woodfisher-filter-independent", "woodfisher-filter[stages=2]")
    checks |= {f"waits of {name}": partial(test_hot_loops_keep_to_their_launches_and_waits, name) for name in hot}
    return checks
