"""The conformance kit: every method that ships passes, every leaky one fails the check meant for it."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.leaky import LEAKS, LabelsThroughOrder, ReadsSplit
from wfbench import Network, Pruner, ScorePruner, Unlabeled, WfbenchError
from wfbench.cli import main
from wfbench.conformance.checks import CHECKS, Outcome, _verdict, check, parametrize_with_checks
from wfbench.conformance.trial import CheckFailed, Trial, problems, trial_of
from wfbench.errors import BrokenRule
from wfbench.harness.plugins import discover
from wfbench.harness.runner import Runner
from wfbench.network import Params

REGISTRY = discover()
NAMES = [*sorted(REGISTRY.pruners), "magnitude-as-lobs-global", "random-as-woodfisher"]

ALONE = ("claims-a-track", "clock-in-figures", "never-above-90", "adds-nothing")
"""What no other check sees."""


@parametrize_with_checks([REGISTRY.pruner(name) for name in NAMES])
def test_methods_that_ship_pass(pruner: Pruner, check: object) -> None:
    """And refuses nothing: what is skipped says nothing about it."""
    try:
        check(pruner)
    except pytest.skip.Exception as skipped:
        if "refuses" in str(skipped):
            pytest.fail(str(skipped))
        raise


@pytest.mark.parametrize(
    ("meant", "leaky"),
    [pytest.param(meant, leaky, id=f"{meant}-{leaky.name}") for meant, found in LEAKS.items() for leaky in found],
)
def test_a_leaky_method_fails_the_check_meant_for_it(meant: str, leaky: Pruner) -> None:
    (one,) = (found for found in CHECKS if found.__name__ == meant)
    status, reason = _verdict(one, trial_of(leaky), {})
    assert status == "failed", reason
    assert reason
    if leaky.name in ALONE:
        assert [outcome.check for outcome in check(leaky) if outcome.status == "failed"] == [meant]


def test_every_check_catches_something() -> None:
    assert {one.__name__ for one in CHECKS} == set(LEAKS)


def test_a_sound_method_reads_what_its_labels_allow() -> None:
    """The leak is in the type: the same method passes as a labelled one would, once it stops reading labels."""

    class Sound(LabelsThroughOrder):
        name: ClassVar[str] = "sound"

        def scores(self, net: Network, data: Unlabeled) -> Params:
            return {name: weight.abs() for name, weight in net.weights.items()}

    assert all(outcome.status != "failed" for outcome in check(Sound()))


def test_splits_are_sealed_even_for_a_method_that_swallows_the_error() -> None:
    class Swallows(ReadsSplit):
        name: ClassVar[str] = "swallows"

        def scores(self, net: Network, data: None) -> Params:
            try:
                return super().scores(net, data)
            except WfbenchError:
                return {name: weight.abs() for name, weight in net.weights.items()}

    task = problems()["convolutional"]
    with pytest.raises(BrokenRule, match="swallows read check-convolutional train in fit"):
        Runner().prune(Trial(Swallows(), task).case(0.5))
    assert len(task.train_set.take(range(3)).inputs) == 3


def test_a_method_that_no_check_could_run_is_flagged() -> None:
    class Refuses(ScorePruner[None]):
        name: ClassVar[str] = "refuses"

        def scores(self, net: Network, data: None) -> Params:
            raise WfbenchError("only for transformers")

    (outcome,) = check(Refuses())
    assert (outcome.check, outcome.status) == ("runs", "failed")
    assert "only for transformers" in outcome.reason
    mark = parametrize_with_checks([Refuses()])
    ((pruner, runs), *_) = mark.args[1]
    with pytest.raises(CheckFailed, match="only for transformers"):
        runs(pruner)


def test_a_method_for_linear_layers_alone_is_checked_on_the_perceptron() -> None:
    class LinearOnly(ScorePruner[None]):
        name: ClassVar[str] = "linear-only"

        def scores(self, net: Network, data: None) -> Params:
            if any(weight.ndim > 2 for weight in net.weights.values()):
                raise WfbenchError("convolutions are not supported")
            return {name: weight.abs() for name, weight in net.weights.items()}

    assert {o.status for o in check(LinearOnly()) if o.check != "sample_order_invariant"} == {"ok"}


def test_the_kit_leaves_the_global_generators_as_they_were() -> None:
    np.random.seed(7)
    torch.manual_seed(7)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()
    check(REGISTRY.pruner("lobs"))
    assert np.random.get_state()[1].tolist() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_the_kit_leaves_its_problems_as_they_were() -> None:
    before = [tensor.clone() for task in problems().values() for tensor in (*task.train, *task.test)]
    check(REGISTRY.pruner("lobs"))
    for leaky in (LEAKS["labels_unseen"][0], LEAKS["at_most_n_samples"][0], LEAKS["evaluation_unseen"][0]):
        check(leaky)
    after = [tensor for task in problems().values() for tensor in (*task.train, *task.test)]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


MINE = """
from dataclasses import dataclass
from wfbench import ScorePruner

@dataclass(frozen=True)
class Mine(ScorePruner[None]):
    name = "mine"

    def scores(self, net, data):
        return {name: BODY for name, weight in net.weights.items()}
"""


def test_the_command_checks_names_files_and_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.py").write_text(MINE.replace("BODY", "weight.abs()"))
    assert main(["check", str(tmp_path / "good.py"), "magnitude", "random-as-magnitude"]) == 0
    assert "3 methods, 48 checks, 0 failed" in capsys.readouterr().out
    (tmp_path / "bad.py").write_text(MINE.replace("BODY", "weight[0]").replace('"mine"', '"bad"'))
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    assert main(["check", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    failed = {(o["method"].rpartition("/")[2], o["check"]) for o in found if o["status"] == "failed"}
    assert {("broken.py", "loads"), ("bad", "runs")} <= failed
    assert not any(method == "mine" for method, _ in failed)
    assert main(["check", "no-such-method"]) == 2
    assert 'unknown method "no-such-method"' in capsys.readouterr().err
    monkeypatch.setattr("wfbench.conformance.checks.check", lambda pruner, device: [Outcome(pruner.name, "runs", "ok")])
    assert main(["check", "--json"]) == 0
    assert [found["method"] for found in json.loads(capsys.readouterr().out)] == sorted(REGISTRY.pruners)
