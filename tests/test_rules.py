"""The rules of the benchmark, by number."""

import dataclasses
import json
import operator
import random
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.cases import DEVICES, REGISTRY, blob_network, blob_task, blobs, case_of, tiny_network
from tests.leaky import LEAKS
from wfbench import (
    Case,
    Labeled,
    Network,
    Pruned,
    Pruner,
    Record,
    ScorePruner,
    Target,
    Task,
    Unlabeled,
    WoodFisher,
    WoodFisherUnlabeled,
    draw,
    run,
)
from wfbench.conformance.trial import science
from wfbench.errors import BrokenRule
from wfbench.harness.isolation import seeded
from wfbench.harness.runner import Runner
from wfbench.licence import handed
from wfbench.network import Params
from wfbench.pruner import Fitted, ScoreFitted
from wfbench.recoveries.base import Recovery
from wfbench.recoveries.names import RECOVERIES
from wfbench.tasks import checkpoints, fashion
from wfbench.tasks.cache import cache_folder
from wfbench.tasks.evaluate import evaluate, standard_error

METHODS = ("magnitude", "woodfisher", "woodfisher-unlabeled")
"""One of each licence; every method goes through the conformance kit, in test_checks.py."""
SHORT = {
    name: dataclasses.replace(found, steps=10) if name.endswith("-200") else found
    for name, found in RECOVERIES.items()
    if not name.endswith("-2000")
}
"""The recoveries, those by descent with fewer steps."""
PAIRS = [(method, recovery) for method in METHODS for recovery in SHORT]


@cache
def recorded(method: str, recovery: str) -> Record:
    return run(dataclasses.replace(case_of(method), recovery=SHORT[recovery]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("method", "recovery"), PAIRS)
def test_rule_1_the_same_case_twice_has_the_same_bits(method: str, recovery: str, device: str) -> None:
    case = dataclasses.replace(case_of(method), recovery=SHORT[recovery])
    first = recorded(method, recovery) if device == "cpu" else run(case, device)
    assert first.status == "ok"
    assert science(first) == science(run(case, device))


@pytest.mark.parametrize("method", ["woodfisher", "woodfisher-unlabeled"])
def test_rule_2_methods_share_the_draw_and_budgets_nest(method: str) -> None:
    seen: list[Tensor] = []
    pruner = REGISTRY.pruner(method)

    class Spy(type(pruner)):  # type: ignore[misc]
        name: ClassVar[str] = "spy"

        def fit(self, net: Network, data: Labeled | Unlabeled) -> object:
            seen.append(data.inputs.clone())
            return super().fit(net, data)

    for budget in (4, 16):
        assert run(case_of(Spy(), budget=budget, seed=2)).status == "ok"
    assert torch.equal(seen[0], seen[1][:4])
    x, _ = blobs(300, 0)
    rows = {tuple(one.tolist()) for one in x}
    assert all(tuple(one.tolist()) in rows for one in seen[1])


@pytest.mark.parametrize(("method", "recovery"), PAIRS)
def test_rule_3_counts_are_what_the_licences_allow(method: str, recovery: str) -> None:
    record = recorded(method, recovery)
    licences = {REGISTRY.pruner(method).licence, RECOVERIES[recovery].licence}
    assert record.n_inputs == (8 if licences & {Labeled, Unlabeled} else 0)
    assert record.n_labels == (8 if Labeled in licences else 0)
    expected = "labeled" if Labeled in licences else "unlabeled" if Unlabeled in licences else "data-free"
    assert record.track == expected


@pytest.mark.parametrize("licence", [Labeled, Unlabeled, type(None)])
def test_rule_3_a_method_is_handed_what_its_type_says(licence: type) -> None:
    handed: list[object] = []

    class Sees(ScorePruner[None]):
        name: ClassVar[str] = "sees"

        def scores(self, net: Network, data: None) -> Params:
            handed.append(data)
            return {name: weight.abs() for name, weight in net.weights.items()}

    Sees.licence = licence
    run(case_of(Sees(), budget=8))
    (data,) = handed
    assert type(data) is licence
    if data is not None:
        assert len(data.inputs) == 8  # type: ignore[attr-defined]


def leaks(recovery: Recovery, task: Task) -> list[str]:
    """What a recovery depends on that it may not: labels, or samples beyond the budget."""
    x, y = (part.clone() for part in task.train)
    drawn = draw((x, y), 8, 0).inputs
    target = Target(0.5)
    case = Case(task, 8, 0, 0, target, REGISTRY.pruner("magnitude"), recovery)
    before, found = run(case), []
    assert before.status == "ok", before.reason
    for what in ("labels", "samples"):
        outside = ~(x[:, None] == drawn).all(2).any(1)
        task.train[0][outside] += 1.0 if what == "samples" else 0.0
        task.train[1][:] = (y + 1) % 3 if what == "labels" else y
        after = run(case)
        task.train[0][:], task.train[1][:] = x, y
        found += [what] * ((before.accuracy, before.loss) != (after.accuracy, after.loss))
    return found


@pytest.mark.parametrize("name", SHORT)
def test_rule_3_a_recovery_sees_the_budget_and_no_label_without_the_licence(name: str) -> None:
    assert leaks(SHORT[name], blob_task()) == (["labels"] if SHORT[name].licence is Labeled else [])


@pytest.mark.parametrize("peeked", ["labels", "samples"])
def test_rule_3_fails_on_a_recovery_that_peeks(peeked: str) -> None:
    task = blob_task()

    class Peeks(Recovery):
        name: ClassVar[str] = "peeks"
        licence: ClassVar[type] = Unlabeled

        def apply(self, net: Network, pruned: Pruned, data: Unlabeled) -> Pruned:
            hidden = task.train[0].sum() if peeked == "samples" else task.train[1][:10].sum()
            bias = pruned.state["3.bias"].clone()
            bias[0] += 0.01 * hidden
            return dataclasses.replace(pruned, state={**pruned.state, "3.bias": bias})

    assert leaks(Peeks(), task) == [peeked]


@pytest.mark.parametrize("name", SHORT)
def test_rule_3_a_recovery_is_handed_what_its_type_says(name: str) -> None:
    handed: list[object] = []
    recovery = SHORT[name]

    class Spy(type(recovery)):  # type: ignore[misc]
        def apply(self, net: Network, pruned: Pruned, data: object) -> Pruned:
            handed.append(data)
            return super().apply(net, pruned, data)

    record = run(dataclasses.replace(case_of("magnitude"), recovery=Spy(**vars(recovery))))
    assert record.status == "ok"
    assert [type(data) for data in handed] == [recovery.licence]
    counts = {Labeled: (8, 8), Unlabeled: (8, 0), type(None): (0, 0)}[recovery.licence]
    assert (record.n_inputs, record.n_labels) == counts


def test_rule_4_evaluation_data_are_no_calibration_data() -> None:
    """By the samples before `transform`, which maps each value by itself; tasks of the same splits have them once.

    Of photographs of ImageNet see `test_imagenet`.
    """
    known: list[tuple[Tensor, ...]] = []
    for task in [*REGISTRY.chosen([]), *(REGISTRY.task(name) for name in CIFAR_JPEG[:1] if jpeg_is_here())]:
        if task.name.startswith("fashion") and not fashion_is_here():
            continue
        splits = tuple(split()[0] for split in (task.train, task.validation, task.test))
        if not any(all(map(operator.is_, splits, others)) for others in known):
            known.append(splits)
            train, validation, test = ({hash(one.tobytes()) for one in split.numpy()} for split in splits)
            assert len(train) > len(splits[0]) / 2
            assert not train & test, task.name
            assert not validation & test, task.name
            assert not train & validation, task.name
    assert len(known) == 1 + fashion_is_here() + jpeg_is_here()


CIFAR_JPEG = ("cifar10-jpeg-resnet20", "cifar10-jpeg-resnet56")


def jpeg_is_here() -> bool:
    return (cache_folder() / "cifar10-jpeg").exists()


def fashion_is_here() -> bool:
    return fashion.raw_folder().exists() or fashion.DEBIAN.exists()


@pytest.mark.parametrize("sparsity", [0.0, 0.31, 0.5, 0.77, 0.95])
@pytest.mark.parametrize("method", METHODS)
def test_rule_5_sparsity_is_counted_on_the_weights(method: str, sparsity: float) -> None:
    net = Network(blob_network())
    for scope in ("global", "layer"):
        if sparsity == 0.95 and scope == "layer":
            sparsity = 0.9  # 95 % of 24 weights is all but one
        pruned = fitted(method, net).prune(Target(sparsity, scope=scope))
        groups = [list(net.weights)] if scope == "global" else [[name] for name in net.weights]
        for group in groups:
            zeros = sum(int((pruned.state[name] == 0).sum()) for name in group)
            weights = sum(net.weights[name].numel() for name in group)
            assert abs(zeros - sparsity * weights) <= 1


def fitted(method: str, net: Network) -> Fitted:
    pruner = REGISTRY.pruner(method)
    return pruner.fit(net, handed(pruner.licence, Labeled(*blobs(8, 1))))


@pytest.mark.parametrize("double", LEAKS["exact_sparsity"], ids=lambda double: double.name)
def test_rule_5_a_missed_target_is_a_broken_rule(double: Pruner) -> None:
    with pytest.raises(BrokenRule, match=r"the target is sparsity 0\.(95|75)|returned no state or mask"):
        run(case_of(double, sparsity=0.95 if double.name == "never-above-90" else 0.75))


@pytest.mark.parametrize("batch", [1, 7, 50, 203, 500])
def test_rule_6_metrics_equal_brute_force_with_a_partial_last_batch(batch: int) -> None:
    task = blob_task()
    module = task.dense()
    x, y = blobs(203, 2)
    right, loss = 0, 0.0
    for one, label in zip(x, y, strict=True):
        logits = module(one[None])[0].detach().double()
        right += int(logits.argmax()) == int(label)
        loss -= float(logits[label] - torch.logsumexp(logits, 0)) / 203
    scores = evaluate(module, task.test_set, batch)
    assert (scores.correct, scores.total) == (right, 203)
    assert scores.accuracy == right / 203
    assert scores.loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("replicate", [0, 1, 2])
def test_rule_7_the_dense_row_reproduces_the_registered_accuracy(replicate: int) -> None:
    task = REGISTRY.task("digits-cnn")
    scores = evaluate(task.dense(replicate), task.test_set)
    registered = checkpoints.registry()["digits-cnn"][replicate].accuracy
    assert abs(scores.correct - registered * scores.total) <= 2
    assert registered >= 0.97


@pytest.mark.parametrize("name", ["fashion-mlpnet", "fashion-resnet20", "fashion-mobilenetv1"])
def test_rule_7_on_fashion(name: str) -> None:
    if not fashion_is_here():
        pytest.skip("Fashion-MNIST is not here; run `wfbench fetch fashion-mlpnet`")
    task = REGISTRY.task(name)
    for replicate in range(task.replicates):
        scores = evaluate(task.dense(replicate), task.test_set)
        assert abs(scores.correct - task.accuracies[replicate] * scores.total) <= 2
        assert task.accuracies[replicate] >= {"fashion-mlpnet": 0.86, "fashion-resnet20": 0.92}.get(name, 0.90)


@pytest.mark.parametrize("name", CIFAR_JPEG)
def test_rule_7_on_cifar10_as_jpeg(name: str) -> None:
    """Here on 1000 pictures, to four standard errors; on all of them it is `wfbench doctor`'s."""
    if not jpeg_is_here():
        pytest.skip("the JPEG pictures of CIFAR-10 are not in the cache folder")
    task = REGISTRY.task(f"{name}[1000]")
    whole = REGISTRY.task(name)
    for replicate in range(task.replicates):
        scores = evaluate(task.dense(replicate), task.test_set)
        assert abs(scores.accuracy - whole.accuracies[replicate]) < 4 * standard_error(scores)
        assert whole.accuracies[replicate] >= 0.87


def test_rule_7_a_wrong_registered_accuracy_is_a_broken_rule() -> None:
    task = dataclasses.replace(blob_task(), accuracies=(0.2,))
    with pytest.raises(BrokenRule, match="registered"):
        run(case_of("magnitude", task=task))


@pytest.mark.parametrize("method", METHODS)
def test_rule_8_sparsity_0_returns_the_dense_weights_bit_for_bit(method: str) -> None:
    module = blob_network()
    module[0].weight.data[0, 0] = -0.0
    pruned = fitted(method, Network(module)).prune(Target(0.0))
    assert pruned.state.keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert pruned.state[name].numpy().tobytes() == tensor.numpy().tobytes(), name


# Rule 9, the dense oracles: test_inverse.py, test_rows.py, test_obs.py, and for each baseline test_baselines.py


def test_rule_10_the_order_of_cases_changes_no_science_field() -> None:
    task = blob_task()
    cases = [
        case_of(method, budget=budget, seed=seed, sparsity=sparsity, recovery=recovery, task=task)
        for method in ("random", "woodfisher", "woodfisher-full-joint", "woodfisher-unlabeled", "staged-lobs-global")
        for budget in (4, 16)
        for seed in (0, 1)
        for sparsity, recovery in ((0.4, "none"), (0.8, "none"), (0.8, "repair"))
    ]
    sharing = Runner()
    together = {case.label(): science(sharing.run(case)) for case in cases}
    shuffled, other = list(cases), Runner()
    random.Random(0).shuffle(shuffled)
    mixed = {case.label(): science(other.run(case)) for case in shuffled}
    assert mixed == together
    for case in cases[::7]:
        assert science(run(case)) == together[case.label()]


def test_rule_10_the_evaluation_batch_moves_at_most_two_images() -> None:
    task = REGISTRY.task("digits-cnn")
    found = {evaluate(task.dense(), task.test_set, batch).correct for batch in (1, 32, 50, 397)}
    assert max(found) - min(found) <= 2


def test_a_changed_dense_network_is_a_broken_rule_and_does_not_outlive_it() -> None:
    runner, task = Runner(), blob_task()
    before = science(runner.run(case_of("magnitude", task=task)))
    with pytest.raises(BrokenRule, match="changed the dense network"):
        runner.run(case_of(LEAKS["dense_network_untouched"][0], task=task))
    assert science(runner.run(case_of("magnitude", task=task))) == before


def test_global_generators_are_seeded_for_the_method_and_restored() -> None:
    drawn: list[tuple[float, float, float]] = []

    class Draws(ScorePruner[None]):
        name: ClassVar[str] = "draws"

        def scores(self, net: Network, data: None) -> Params:
            drawn.append((float(torch.rand(1)), random.random(), float(np.random.rand())))
            return {name: weight.abs() for name, weight in net.weights.items()}

    task = blob_task()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    expected = (float(torch.rand(1)), random.random(), float(np.random.rand()))
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    for seed in (0, 0, 1):
        run(case_of(Draws(), seed=seed, task=task))
    found = (float(torch.rand(1)), float(np.random.rand()))
    assert found == (expected[0], expected[2])  # not Python's: the run-time type checks of these tests draw from it
    random.seed(5)
    with seeded(case_of(Draws(), task=task)):
        random.random()
    assert random.random() == expected[1]
    assert drawn[0] == drawn[1] != drawn[2]


class Explodes(ScorePruner[None]):
    name: ClassVar[str] = "explodes"

    def scores(self, net: Network, data: None) -> Params:
        raise RuntimeError("no luck")


def test_failures_are_records_with_a_reason() -> None:
    record = run(case_of(Explodes()))
    assert (record.status, record.reason) == ("failed", "fit: RuntimeError: no luck")
    assert (record.accuracy, record.loss, record.seconds, record.n_inputs) == (None, None, None, 0)
    assert "NaN" not in record.as_json()


def test_nan_in_the_checkpoint_or_in_the_rows_is_a_failed_record() -> None:
    module = blob_network()
    module[0].weight.data[1, 1] = torch.nan
    task = Task("broken", module, train=blobs(30, 0), test=blobs(30, 1))
    record = run(case_of("magnitude", task=task))
    assert record.status == "failed"
    assert record.reason == "0.weight of the dense network contains NaN or infinite values"
    x, y = blobs(30, 0)
    task = Task("holes", blob_network(), train=(x * torch.nan, y), test=blobs(30, 1))
    record = run(case_of("woodfisher", task=task))
    assert record.status == "failed"
    assert "per-sample gradients contain NaN" in str(record.reason)


def test_the_unlabelled_family_reads_inputs_alone() -> None:
    net = Network(tiny_network())
    data = Unlabeled(torch.randn(6, 2, dtype=torch.float64))
    for fisher in ("sampled", "exact"):
        WoodFisherUnlabeled(fisher=fisher).fit(net, data).prune(Target(0.5))
    assert WoodFisherUnlabeled.licence is Unlabeled
    assert WoodFisher.licence is Labeled


class Steps(ScorePruner[None]):
    """Half of the way, then all of it."""

    name: ClassVar[str] = "steps"

    def fit(self, net: Network, data: None) -> object:
        fitted = ScoreFitted(net, {name: weight.abs() for name, weight in net.weights.items()})

        class Twice:
            def prune(self, target: Target) -> Pruned:
                halves = [fitted.prune(Target(target.sparsity * share)) for share in (0.5, 1.0)]
                path = tuple(
                    (target.sparsity * share, found.state) for share, found in zip((0.5, 1.0), halves, strict=True)
                )
                return dataclasses.replace(halves[1], path=path)

        return Twice()

    def scores(self, net: Network, data: None) -> Params:
        raise NotImplementedError


def test_the_accuracy_of_every_step_is_in_the_record() -> None:
    record = run(case_of(Steps()))
    half, whole = (run(case_of("magnitude", sparsity=sparsity)) for sparsity in (0.25, 0.5))
    assert record.steps == [
        {"sparsity": 0.25, "accuracy": half.accuracy},
        {"sparsity": 0.5, "accuracy": whole.accuracy},
    ]
    assert record.accuracy == whole.accuracy


def test_chance_is_what_the_commonest_class_gives() -> None:
    labels = blobs(203, 2)[1]
    assert run(case_of("magnitude")).chance == int(labels.bincount().max()) / 203


def test_records_leave_out_what_they_do_not_have_and_say_what_they_were_made_with() -> None:
    record = run(case_of("magnitude"))
    written = json.loads(record.as_json())
    assert not {"predicted_change", "macs", "tried", "steps"} & written.keys()
    assert written["mean_leverage"] is None
    assert {"commit", "torch", "device", "threads", "checkpoint", "train", "test"} <= written["environment"].keys()
    written = json.loads(run(case_of("woodfisher")).as_json())
    assert {"predicted_change", "realised_change", "effective_rank", "damping", "damping_ratio"} <= written.keys()
