"""What a network does not allow is a failed row that names the layer and the remedy; what it allows is right."""

import re

import pytest
import torch
from torch import nn

from tests import odd_networks as odd
from wfbench import RECOVERIES, Case, Filter, Network, Target, Task, discover, run
from wfbench.channels.coupled import masked, shrunk
from wfbench.harness.runner import Runner
from wfbench.tasks.models import cifar_resnet

REGISTRY = discover()
SHAPE = (2, 6, 6)


def case_of(build: type[nn.Module], method: str, sparsity: float = 0.2) -> Case:
    torch.manual_seed(0)
    x, y = torch.randn(30, *SHAPE), torch.arange(30) % 3
    task = Task(build.__name__.lower(), build().eval(), train=(x[:20], y[:20]), test=(x[20:], y[20:]))
    return Case(task, 6, 0, 0, Target(sparsity, Filter(SHAPE), of="macs"), REGISTRY.pruner(method), RECOVERIES["none"])


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (
            odd.Shuffled,
            r"without its removed channels, as one of a \(shape .*; write its forward .* without fixed sizes",
        ),
        (odd.FixedView, "without its removed channels, as one of a .* flatten.1. in place of view.-1, 64."),
        (odd.ChannelBuffer, r"one of a .* \(the buffer scale has 8 entries too: make it a parameter"),
        (
            odd.Permuted,
            "without a channel of a .* on the way to head its channels are reordered or mixed, as by permute",
        ),
        (odd.AcrossChannels, "without a channel of a .* on the way to head .* mixed, .* a norm across channels; leave"),
        (
            odd.Gated,
            "the channels of a are cut up or padded after it: head has 8 inputs .* reach to 16; give",
        ),
        (odd.PaddedShortcut, "the channels of a are cut up or padded after it: a has 4 outputs .* padded shortcuts"),
        (odd.Einsum, "the channels of a are cut up or padded after it: mixing has 5 inputs .*einsum"),
        (odd.Recurrent, "the channels of a are read by lstm, and a LSTM cannot lose inputs; give"),
        (odd.PlainList, "task: blocks of PlainList is a plain list with a Conv2d .*; make it a torch.nn.ModuleList"),
    ],
)
def test_what_a_network_does_not_allow_is_a_failed_row(build: type[nn.Module], reason: str) -> None:
    record = run(case_of(build, "filter-l1"))
    assert record.status == "failed"
    assert re.search(reason, str(record.reason)), record.reason
    assert record.accuracy is None


@pytest.mark.parametrize("build", [odd.Positions, odd.Chunked, odd.Split, odd.PixelShuffled, odd.Attention])
@pytest.mark.parametrize("method", ["filter-l1", "woodfisher-filter"])
def test_channels_that_cannot_go_stay_and_the_others_go(build: type[nn.Module], method: str) -> None:
    """The smaller network is held against the dense one with zeros."""
    case, runner = case_of(build, method), Runner()
    pruned, _ = runner.prune(case)
    record = runner.run(case)
    assert (record.status, record.reason) == ("ok", None)
    assert 0.2 <= float(record.achieved_sparsity or 0) < 0.5
    net, x = runner._dense_of(case).network, case.task.test_set.take([0, 1, 2]).inputs
    removed = {name: list(gone) for name, gone in pruned.removed_channels.items() if gone}
    assert removed
    assert not {"qkv"} & removed.keys()
    assert build is odd.Positions or build is odd.Attention or "a" not in removed
    torch.testing.assert_close(shrunk(net, pruned.state, x[:1], removed)(x), net.logits(pruned.state, x))


def test_channels_inside_of_blocks_go_where_a_padded_shortcut_moves_those_of_the_stream() -> None:
    """The graph takes channel c of a stage for channel c of the next, where zeros in front make it another."""
    torch.manual_seed(0)
    net, pattern = Network(cifar_resnet(1).eval()), Filter((3, 8, 8))
    x = torch.randn(3, 3, 8, 8)
    groups = {group.name: group for group in pattern.groups(net)}
    assert list(groups) == [f"layer{stage}.0.conv1" for stage in (1, 2, 3)]
    gone = {name: [1, group.size - 1] for name, group in groups.items()}
    state = masked(net.state(), list(groups.values()), gone)
    torch.testing.assert_close(shrunk(net, state, x[:1], gone)(x), net.logits(state, x))


def test_a_target_beyond_the_channels_that_can_go_says_which_stay() -> None:
    reason = str(run(case_of(odd.Chunked, "filter-l1", 0.6)).reason)
    assert "cannot be met" in reason
    assert "the channels of a are cut up or padded after it: a has 8 outputs" in reason
