"""Gradual pruning: the schedule, what every step keeps, and going on in the middle."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.cases import blob_network, blob_task, blobs
from wfbench import Case, Labeled, Network, Pruned, Target, Unlabeled, WfbenchError, run
from wfbench.composed.gradual import Gradual, cubic
from wfbench.composed.steps import Steps, steps_in
from wfbench.conformance.checks import check
from wfbench.harness.plugins import discover
from wfbench.recoveries.base import NoRecovery
from wfbench.writing import Unwritable

REGISTRY = discover()
MAGNITUDE = REGISTRY.pruner("magnitude")


def data(n: int = 60) -> Labeled:
    return Labeled(*blobs(n, 0))


def test_the_schedule_is_cubic() -> None:
    assert [cubic(step, 4, 0.2, 0.8) for step in range(5)] == pytest.approx([0.2, 0.546875, 0.725, 0.790625, 0.8])
    assert cubic(7, 7, 0.05, 0.9) == 0.9


@pytest.mark.parametrize("method", ["magnitude", "woodfisher", "woodfisher-joint", "obd", "lobs"])
def test_every_step_meets_the_schedule_and_keeps_what_went(method: str) -> None:
    pruner = Gradual(REGISTRY.pruner(method), steps=4, start=0.1)
    assert pruner.name == f"gradual-{method}"
    net = Network(blob_network())
    target = Target(0.8, scope=pruner.scope)
    pruned = pruner.fit(net, data()).prune(target)
    gone: dict[str, torch.Tensor] = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in net.weights.items()}
    sizes = sum(w.numel() for w in net.weights.values())
    for step, (sparsity, state) in enumerate(pruned.path, 1):
        assert sparsity == cubic(step, 4, 0.1, 0.8)
        zero = {name: state[name] == 0 for name in gone}
        assert sum(int(z.sum()) for z in zero.values()) == pytest.approx(
            sparsity * sizes, abs=1 if pruner.scope == "global" else 2
        )
        assert all(bool(zero[name][before].all()) for name, before in gone.items())
        gone = zero
    assert all(torch.equal(pruned.state[name], tensor) for name, tensor in pruned.path[-1][1].items())
    record = run(Case(blob_task(), 60, 0, 0, target, pruner, NoRecovery()))
    assert record.status == "ok", record.reason
    assert len(record.steps) == 4
    assert record.steps[-1] == {"sparsity": 0.8, "accuracy": record.accuracy}
    assert (record.track, record.n_labels) == ("labeled", 60)


def test_training_brings_back_what_one_shot_loses() -> None:
    one_shot = run(Case(blob_task(), 200, 0, 0, Target(0.85), MAGNITUDE, NoRecovery()))
    pruner = Gradual(MAGNITUDE, steps=4, epochs=4, last_epochs=8, rate=0.05)
    gradual = run(Case(blob_task(), 200, 0, 0, Target(0.85), pruner, NoRecovery()))
    assert gradual.loss < one_shot.loss


def test_one_step_of_sgd_is_what_torch_does_on_the_kept_weights() -> None:
    """One removal, one pass of one batch: the rate is the first one, momentum has no past."""
    net, samples = Network(blob_network().double()), Labeled(data(20).inputs.double(), data(20).labels)
    pruner = Gradual(MAGNITUDE, steps=1, last_epochs=1, rate=0.1, decay=0.0, momentum=0.0, batch=32)
    found = pruner.fit(net, samples).prune(Target(0.5)).state
    start = MAGNITUDE.fit(net, None).prune(Target(0.5))
    module = net.module()
    module.load_state_dict(dict(start.state))
    module.train().requires_grad_(True)
    nn.functional.cross_entropy(module(samples.inputs), samples.labels).backward()
    for name, parameter in module.named_parameters():
        expected = (parameter - 0.1 * parameter.grad).detach() * start.mask.get(name, torch.tensor(True))
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)


class Killed(Exception):
    pass


class Dies(type(MAGNITUDE)):  # type: ignore[misc]
    """Magnitude, until it has been asked so many times."""

    def fit(self, net: Network, data: None) -> Any:
        CALLS.append(1)
        if len(CALLS) == LIMIT[0]:
            raise Killed
        return super().fit(net, data)


CALLS: list[int] = []
LIMIT = [0]


def test_a_killed_run_goes_on_in_the_middle_with_the_same_bits(tmp_path: Path) -> None:
    net, samples, target = Network(blob_network()), data(), Target(0.8)

    def pruned() -> Pruned:
        CALLS.clear()
        torch.manual_seed(3)  # as the harness does for a case
        return Gradual(Dies(), steps=5).fit(net, samples).prune(target)

    LIMIT[0] = 0
    whole = pruned()
    assert len(CALLS) == 5
    with steps_in(tmp_path):
        LIMIT[0] = 4
        with pytest.raises(Killed):
            pruned()
        LIMIT[0] = 0
        again = pruned()
        assert len(CALLS) == 2  # the fourth and fifth
        other = Gradual(Dies(), steps=5, rate=0.02)
        CALLS.clear()
        torch.manual_seed(3)
        other.fit(net, samples).prune(target)
        assert len(CALLS) == 5  # other options share nothing
    for one, two in zip((*whole.path, (0.8, whole.state)), (*again.path, (0.8, again.state)), strict=True):
        assert one[0] == two[0]
        assert all(torch.equal(one[1][name], tensor) for name, tensor in two[1].items())
    assert all(torch.equal(whole.mask[name], mask) for name, mask in again.mask.items())


def test_a_step_that_is_not_what_was_kept_is_done_again(tmp_path: Path) -> None:
    with steps_in(tmp_path):
        steps = Steps("work")
        assert steps.load(1) is None
        steps.keep(1, {"a": torch.arange(3), "b": torch.tensor(0.5).bfloat16()}, {"x": 0.5})
        steps.keep(2, {"a": torch.arange(3), "b": torch.tensor(0.5).bfloat16()}, {"x": 0.5})
        tensors, figures = steps.load(1)
        assert (tensors["a"].tolist(), tensors["b"].item(), figures) == ([0, 1, 2], 0.5, {"x": 0.5})
        one, two = (tmp_path / "work" / f"{step}.safetensors" for step in (1, 2))
        kept = one.read_bytes()
        for at in range(len(kept)):
            changed = bytearray(kept)
            changed[at] ^= 1 << at % 8
            one.write_bytes(changed)
            found = steps.load(1)  # a space of the header's padding says nothing
            assert found is None or (chr(kept[at]) == " " and found[0]["a"].tolist() == [0, 1, 2]), at
        for other in (two.read_bytes(), kept[:-3], b""):
            one.write_bytes(other)
            assert steps.load(1) is None
        Steps("another").keep(1, {"a": torch.arange(3)}, {})
        one.write_bytes((tmp_path / "another" / "1.safetensors").read_bytes())
        assert steps.load(1) is None
    Steps("work").keep(1, {"a": torch.arange(3)}, {})
    assert Steps("work").load(1) is None


def test_a_disk_that_is_full_of_steps_is_no_failure_of_the_method(tmp_path: Path) -> None:
    """No record says that the method failed."""
    case = Case(blob_task(), 60, 0, 0, Target(0.5), Gradual(MAGNITUDE, steps=2), NoRecovery())
    (tmp_path / "steps").write_text("in the way")
    with steps_in(tmp_path / "steps"), pytest.raises(Unwritable, match=r"cannot be made \(Not a directory\)"):
        run(case)


def test_a_method_that_takes_weights_back_is_an_error() -> None:
    with pytest.raises(WfbenchError, match=r"random takes weights of 0\.weight back"):
        Gradual(REGISTRY.pruner("random"), steps=4).fit(Network(blob_network()), data()).prune(Target(0.5))


@pytest.mark.parametrize("options", [{"steps": 0}, {"batch": 0}, {"start": 1.0}])
def test_options_out_of_range_are_errors(options: dict[str, float]) -> None:
    with pytest.raises(WfbenchError, match=r"must be at least 1|outside \[0, 1\)"):
        Gradual(MAGNITUDE, **options)


def test_the_method_sees_what_its_licence_allows_and_no_more_than_it_asks_for() -> None:
    seen: list[Any] = []

    class Watches(type(REGISTRY.pruner("obd"))):  # type: ignore[misc]
        def fit(self, net: Network, data: Unlabeled) -> Any:
            seen.append(data)
            return super().fit(net, data)

    Gradual(Watches(), steps=2, seen=7).fit(Network(blob_network()), data()).prune(Target(0.5))
    assert [(type(one), len(one)) for one in seen] == [(Unlabeled, 7)] * 2


def test_gradual_methods_pass_the_kit() -> None:
    for name in ("gradual[steps=3]-magnitude", "gradual[steps=2]-woodfisher[damping=1e-3]"):
        pruner = REGISTRY.pruner(name)
        assert pruner.name == name
        assert [outcome for outcome in check(replace(pruner)) if outcome.status == "failed"] == []
