"""Any method in stages: against its parts one by one, on weights and on whole channels."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.cases import blob_network, blobs
from tests.test_filters import EVERY, problem
from wfbench import Labeled, Network, Pruned, Target, Unlabeled, WfbenchError
from wfbench.channels.coupled import shrunk
from wfbench.composed.staged import Staged, restored, shares
from wfbench.conformance.checks import check
from wfbench.harness.plugins import discover
from wfbench.recoveries.base import BatchNormReestimation
from wfbench.recoveries.repair import LeastSquaresRepair
from wfbench.sparsity import Scope
from wfbench.woodfisher.restored import WoodFisherStaged

REGISTRY = discover()
SMALL = [name for name in EVERY if name not in ("mobilenetv1", "mlpnet")]


def same_bits(one: Pruned, two: Pruned) -> None:
    assert one.state.keys() == two.state.keys()
    assert all(torch.equal(one.state[name], tensor) for name, tensor in two.state.items())
    assert all(torch.equal(one.mask[name], mask) for name, mask in two.mask.items())
    gone = [{name: at for name, at in found.removed_channels.items() if at} for found in (one, two)]
    assert gone[0] == gone[1]


def samples(shape: tuple[int, ...], n: int = 12) -> Unlabeled:
    return Unlabeled(torch.randn((n, *shape), generator=torch.Generator().manual_seed(1)))


def test_every_stage_keeps_the_same_share() -> None:
    assert shares(3, 1 - 0.4**3) == pytest.approx([0.6, 1 - 0.4**2, 1 - 0.4**3])
    assert shares(7, 0.9)[-1] == 0.9


@pytest.mark.parametrize("method", ["magnitude", "obc", "woodfisher-joint"])
def test_one_stage_is_the_method_repaired_and_its_norms_re_estimated(method: str) -> None:
    pruner, net = REGISTRY.pruner(method), Network(blob_network())
    labeled = Labeled(*blobs(20, 0))
    data: Any = labeled if pruner.licence is Labeled else Unlabeled(labeled.inputs)
    target = Target(0.7, scope=pruner.scope)
    found = Staged(pruner, stages=1).fit(net, data).prune(target)
    alone = pruner.fit(net, None if pruner.licence is type(None) else data).prune(target)
    same_bits(
        found,
        BatchNormReestimation().apply(
            net, LeastSquaresRepair().apply(net, alone, Unlabeled(labeled.inputs)), Unlabeled(labeled.inputs)
        ),
    )


def test_two_stages_are_two_times_the_method_on_what_there_is() -> None:
    pruner, net = REGISTRY.pruner("obc"), Network(blob_network())
    data, goal = Unlabeled(blobs(20, 0)[0]), Target(1 - 0.6**2, scope="layer")
    first = restored(net, pruner.fit(net, data).prune(Target(0.4, scope="layer")), data)
    module = net.module()
    module.load_state_dict(dict(first.state))
    second = restored(net, pruner.fit(Network(module), data).prune(goal), data)
    same_bits(Staged(pruner, stages=2).fit(net, data).prune(goal), second)


def test_magnitude_in_stages_is_woodfisher_in_stages_without_updates() -> None:
    net, data = Network(blob_network()), Unlabeled(blobs(20, 0)[0])
    for scope in ("global", "layer"):
        target = Target(0.8, scope=scope)  # type: ignore[arg-type]
        found = Staged(REGISTRY.pruner("magnitude"), stages=4).fit(net, data).prune(target)
        same_bits(found, WoodFisherStaged(stages=4, steps=0).fit(net, data).prune(target))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "resnet20"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_channels_meet_the_target_and_the_networks_agree_after_every_stage(name: str, scope: Scope) -> None:
    """`achieved` and `measured` raise where the target, the mask or rule 11 is broken."""
    one = problem(name)
    target = Target(0.5, one.pattern, scope, "params")
    data = samples(one.pattern.shape)
    for method in ("filter-l1", "obs-filter"):
        found = Staged(REGISTRY.pruner(method), stages=3).fit(one.net, data).prune(target)
        assert one.pattern.achieved(target, one.net, found, data.inputs) >= 0.5 - 1e-9
        assert one.pattern.measured(one.net, found, data.inputs)["removed_channels"] > 0


@pytest.mark.parametrize("name", SMALL)
def test_two_stages_of_channels_are_two_times_the_method_on_the_smaller_network(name: str) -> None:
    """Each stage by hand, on a network that is really smaller; outputs agree though numbering differs."""
    one = problem(name)
    pruner, data = REGISTRY.pruner("filter-l2"), samples(one.pattern.shape)
    whole = one.costs.total({}, "filters")
    target = Target(1 - 0.75**2, one.pattern, "layer", "filters")
    found = Staged(pruner, stages=2).fit(one.net, data).prune(target)

    first = restored(one.net, pruner.fit(one.net, None).prune(replace(target, sparsity=0.25)), data)
    gone = {group: list(at) for group, at in first.removed_channels.items()}
    small = Network(shrunk(one.net, first.state, one.pattern.example(one.net), gone))
    left = one.pattern.costs(small).total({}, "filters")
    rest = replace(target, sparsity=max(0.0, 1 - 0.75**2 * whole / left))
    second = pruner.fit(small, None).prune(rest)
    for group in one.groups:
        kept = [channel for channel in range(group.size) if channel not in gone[group.name]]
        gone[group.name] += [kept[at] for at in second.removed_channels.get(group.name, ())]
    assert {group: list(at) for group, at in found.removed_channels.items()} == {
        g: sorted(at) for g, at in gone.items()
    }


def test_without_repair_it_is_the_method_with_its_curvature_taken_anew() -> None:
    """The recomputation schedule by hand: each time a fresh fit to the network as it is."""
    pruner, net = REGISTRY.pruner("woodfisher-joint"), Network(blob_network())
    data, module, target = Labeled(*blobs(20, 0)), net.module(), Target(0.8)
    for share in shares(3, 0.8):
        by_hand = pruner.fit(Network(module), data).prune(Target(share))
        module.load_state_dict(dict(by_hand.state))
    found = REGISTRY.pruner("staged[stages=3][restore=false]-woodfisher-joint").fit(net, data).prune(target)
    same_bits(found, by_hand)
    once = pruner.fit(net, data).prune(target)
    assert any(not torch.equal(found.state[name], once.state[name]) for name in net.weights)


def test_what_the_small_network_computes_is_put_where_it_belongs() -> None:
    """Without repair in between, the masked network computes what the last small one does."""
    one = problem("plain")
    data = samples(one.pattern.shape)
    found = (
        Staged(REGISTRY.pruner("obs-filter"), 3, restore=False)
        .fit(one.net, data)
        .prune(Target(0.5, one.pattern, of="params"))
    )
    gone = {group: list(at) for group, at in found.removed_channels.items()}
    small = shrunk(one.net, found.state, one.pattern.example(one.net), gone)
    torch.testing.assert_close(one.net.logits(found.state, data.inputs), small(data.inputs), rtol=1e-4, atol=1e-5)
    dense = one.net.state()
    moved = [
        name for name, tensor in found.state.items() if not torch.equal(tensor[tensor != 0], dense[name][tensor != 0])
    ]
    assert moved  # the readers took up what went


def test_sparsity_0_is_the_dense_network() -> None:
    net = Network(blob_network())
    found = Staged(REGISTRY.pruner("magnitude")).fit(net, Unlabeled(blobs(5, 0)[0])).prune(Target(0.0))
    assert all(torch.equal(found.state[name], tensor) for name, tensor in net.state().items())


def test_names_licences_and_options() -> None:
    for name, licence in (("magnitude", Unlabeled), ("woodfisher", Labeled), ("obs-filter", Unlabeled)):
        pruner = REGISTRY.pruner(f"staged-{name}")
        assert (pruner.name, pruner.licence, pruner.scope) == (f"staged-{name}", licence, REGISTRY.pruner(name).scope)
    assert REGISTRY.pruner("staged[stages=3]-magnitude").stages == 3  # type: ignore[attr-defined]
    with pytest.raises(WfbenchError, match="stages=0"):
        Staged(REGISTRY.pruner("magnitude"), stages=0)
    with pytest.raises(WfbenchError, match=r"random takes weights of .* back"):
        Staged(REGISTRY.pruner("random")).fit(Network(blob_network()), Unlabeled(blobs(5, 0)[0])).prune(Target(0.5))


@pytest.mark.parametrize("name", ["staged[stages=3]-magnitude", "staged[stages=2]-obs-filter", "staged[stages=2]-lobs"])
def test_staged_methods_pass_the_kit(name: str) -> None:
    assert [outcome for outcome in check(REGISTRY.pruner(name)) if outcome.status == "failed"] == []
