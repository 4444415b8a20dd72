"""Masks of one method with updates of another."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch

from suites.suite_attribution import CONTROLS, CROSSED, MASKS, SUITE, UPDATES
from tests.cases import blob_network, blobs
from tests.oracles import constrained_minimum, curvature
from tests.test_tables import record, text_of
from wfbench import NM, Labeled, Network, Target, Unlabeled, WfbenchError, fisher_rows
from wfbench.composed.transplant import Transplant
from wfbench.conformance.checks import check
from wfbench.draws import RANDOM
from wfbench.harness.plugins import discover
from wfbench.harness.suite import Suite
from wfbench.network import flatten

REGISTRY = discover()


def pruned(name: str, sparsity: float = 0.5, n: int = 30) -> tuple[Network, Labeled, torch.Tensor, torch.Tensor]:
    """Network, data, weights and mask."""
    net = Network(blob_network().double())
    x, y = blobs(n, 4)
    data = Labeled(x.double(), y)
    pruner = REGISTRY.pruner(name)
    handed = {Labeled: data, Unlabeled: Unlabeled(data.inputs), type(None): None}[pruner.licence]
    found = pruner.fit(net, handed).prune(Target(sparsity, scope=pruner.scope))
    weights, mask = ({key: of[key] for key in net.weights} for of in (found.state, found.mask))
    return net, data, flatten(weights), flatten(mask)


@pytest.mark.parametrize(
    ("both", "method"),
    [
        ("magnitude+kept", "magnitude"),
        ("woodfisher+woodfisher", "woodfisher"),
        ("obc+obc", "obc"),
        ("magnitude+snows", "snows"),
    ],
)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8])
def test_a_methods_mask_with_its_own_update_is_the_method(both: str, method: str, sparsity: float) -> None:
    *_, weights, mask = pruned(both, sparsity)
    *_, expected, expected_mask = pruned(method, sparsity)
    assert torch.equal(mask, expected_mask)
    torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("update", "kind"), [("woodfisher-joint", "empirical"), ("woodfisher-unlabeled-joint", "sampled")]
)
def test_the_joint_update_is_the_dense_constrained_minimum_for_any_mask(update: str, kind: str) -> None:
    net, data, weights, mask = pruned(f"magnitude+{update}")
    rows = fisher_rows(net, data, kind)
    blocks = [weight.numel() for weight in net.weights.values()]
    _, expected = constrained_minimum(
        curvature(rows, 1e-5, blocks), flatten(net.weights), (~mask).nonzero()[:, 0].tolist()
    )
    torch.testing.assert_close(weights, torch.where(mask, expected, 0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "track"),
    [
        ("magnitude+kept", "data-free"),
        ("magnitude+obc", "unlabeled"),
        ("obc+kept", "unlabeled"),
        ("magnitude+woodfisher", "labeled"),
        ("woodfisher+obc", "labeled"),
    ],
)
def test_the_licence_is_the_stronger_of_the_two(name: str, track: str) -> None:
    assert REGISTRY.pruner(name).track == track


def test_an_unlabelled_part_of_a_labelled_whole_sees_no_labels() -> None:
    seen: list[object] = []
    of = REGISTRY.pruner("obc")

    class Watched(type(of)):  # type: ignore[misc]
        name = "watched"

        def fit(self, net: Network, data: Unlabeled) -> object:
            seen.append(data)
            return super().fit(net, data)

    net = Network(blob_network())
    of_labels = Transplant(Watched(), REGISTRY.pruner("woodfisher-joint"))
    of_labels.fit(net, Labeled(*blobs(8, 1))).prune(Target(0.5, scope="layer"))
    assert [type(data) for data in seen] == [Unlabeled]


@pytest.mark.parametrize("name", ["magnitude+woodfisher-joint", "lobs-global+obc", "woodfisher-joint+kept"])
def test_transplants_pass_the_kit(name: str) -> None:
    assert [outcome for outcome in check(REGISTRY.pruner(name)) if outcome.status == "failed"] == []


@pytest.mark.parametrize("by", ["magnitude", "random"])
def test_controls_meet_the_pattern_of_the_method_that_they_match(by: str) -> None:
    """2:4 on the CPU: the groups are those of the pattern, the choice within them is the control's own."""
    net, data = Network(blob_network()), Unlabeled(blobs(8, 1)[0])
    method = REGISTRY.pruner(f"{by}-as-wanda")
    target = Target(0.5, NM(), method.scope)
    found = method.fit(net, data).prune(target)
    NM().achieved(target, net, found, data.inputs[:1])
    expected = REGISTRY.pruner("magnitude").fit(net, None).prune(target).mask
    assert all(torch.equal(found.mask[name], expected[name]) for name in expected) == (by == "magnitude")
    with pytest.raises(WfbenchError, match=f"{by}-as-filter-l1: filter-l1 removes channels"):
        REGISTRY.pruner(f"{by}-as-filter-l1")


def test_unknown_parts_are_named() -> None:
    with pytest.raises(WfbenchError, match='unknown method "magic"'):
        REGISTRY.pruner("magnitude+magic")
    with pytest.raises(WfbenchError, match="wanda has no update for masks that are not its own"):
        REGISTRY.pruner("magnitude+wanda")
    with pytest.raises(WfbenchError, match='unknown method "magix"'):
        REGISTRY.pruner("magix+kept")


def holes(suite: Suite) -> list[tuple[object, ...]]:
    """Combinations that the suite declares and does not hold exactly once."""
    held = Counter(
        (case.method.name, case.recovery.name, case.target.sparsity, case.budget, case.seed)
        for case in suite.cases(REGISTRY)
        if case.sampling == RANDOM
    )
    methods = [f"{mask}+{update}" for mask in MASKS for update in UPDATES]
    methods += [
        f"{by}-as-{mask}" for mask in MASKS if mask not in ("magnitude", "random") for by in ("magnitude", "random")
    ]
    wanted = itertools.product(methods, CROSSED.recoveries, CROSSED.sparsities, CROSSED.budgets, range(CROSSED.seeds))
    return [cell for cell in wanted if held[cell] != 1]


def test_rule_18_every_mask_meets_every_update_and_recovery_and_its_controls_once() -> None:
    assert holes(SUITE) == []
    assert len(set(CONTROLS)) == len(CONTROLS) == 2 * (len(MASKS) - 2)


def test_rule_18_fails_on_a_suite_with_a_hole() -> None:
    assert holes(Suite("attribution", (replace(CROSSED, methods=CROSSED.methods[1:]), *SUITE.grids[1:])))


def test_the_attribution_table_has_masks_down_and_updates_across() -> None:
    records = [
        record(seed, accuracy, method=f"{mask}+{update}")
        for seed in range(3)
        for (mask, update), accuracy in {("a", "x"): 0.5, ("a", "y"): 0.6, ("b", "x"): 0.7, ("b", "y"): 0.8}.items()
    ]
    lines = [line for line in text_of(records, "-attribution").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["mask", "x", "y"]
    assert cells[2:] == [["a", "50.0 ± 0.0", "60.0 ± 0.0"], ["b", "70.0 ± 0.0", "80.0 ± 0.0"]]
