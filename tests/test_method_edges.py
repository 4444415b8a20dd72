"""Methods and recoveries at their edges: nothing left, half precision, one sample, norms that permute, what is out."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.cases import blob_task, blobs, case_of
from wfbench import RECOVERIES, Labeled, Network, Pruned, Unlabeled, run
from wfbench.harness.measures import magnitude_overlap
from wfbench.licence import handed
from wfbench.recoveries.descent import FeatureDistillation, FineTuning, LogitDistillation


@pytest.mark.parametrize("method", ["sparsegpt", "wanda", "magnitude-layer", "obc", "lobs"])
def test_a_sparsity_that_leaves_a_layer_empty_is_refused_by_name(method: str) -> None:
    """32 and 24 weights: 0.995 of either is all of it."""
    record = run(case_of(method, sparsity=0.995))
    assert record.status == "failed"
    assert "0 of 32 weights in 0.weight" in str(record.reason)


def test_the_overlap_of_nothing_is_none() -> None:
    net = Network(blob_task().dense())
    nothing = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in net.weights.items()}
    assert magnitude_overlap(net, Pruned.of(net, net.weights, nothing)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("recovery", [FineTuning(steps=20), LogitDistillation(steps=20), FeatureDistillation(steps=20)])
def test_half_precision_is_moved_as_float32(dtype: torch.dtype, recovery: Any) -> None:
    """Near what the same network in float32 gives, in its own precision, and zero outside the mask."""
    x, y = blobs(32, 0)
    found = []
    for kind in (dtype, torch.float32):
        net = Network(blob_task().dense().to(dtype).to(kind))
        mask = {name: weight.abs() > weight.abs().median() for name, weight in net.weights.items()}
        pruned = Pruned.of(net, net.weights, mask)
        data = handed(recovery.licence, Labeled(x.to(dtype).to(kind), y))
        recovered = recovery.apply(net, pruned, data)
        assert recovered.state["0.weight"].dtype == kind
        assert not torch.equal(recovered.state["0.weight"], pruned.state["0.weight"])
        found.append(recovered.state["0.weight"].float())
    torch.testing.assert_close(*found, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("recovery", ["batchnorm", "finetune-200"])
def test_one_sample_has_no_variance(recovery: str) -> None:
    record = run(case_of("magnitude", budget=1, recovery=recovery))
    assert record.status == "failed"
    assert "1 has one value a channel to take its variance of" in str(record.reason)


def test_one_sample_with_places_has_one() -> None:
    """Of an image's channel the mean and the variance over its places."""
    torch.manual_seed(0)
    net = Network(nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 2)))
    x = torch.randn(1, 1, 4, 4)
    found = RECOVERIES["batchnorm"].apply(net, Pruned.dense(net), Unlabeled(x))
    values = net.module()[0](x).detach()
    torch.testing.assert_close(found.state["1.running_mean"], values.mean((0, 2, 3)))
    torch.testing.assert_close(found.state["1.running_var"], values.var((0, 2, 3)))


class Permuting(nn.LayerNorm):
    """A norm over channels that stand in second place, as ConvNeXt's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def test_correction_finds_the_channels_of_a_norm_that_permutes() -> None:
    """The mean and deviation of every channel are the dense network's again, at 5 by 5 places of 5 channels too."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 5, 2, bias=False), Permuting(5), nn.Flatten(), nn.Linear(125, 3)).double()
    net, x = Network(module), torch.randn(20, 1, 6, 6).double()
    pruned = Pruned.of(net, net.weights, {name: weight > 0 for name, weight in net.weights.items()})
    state = RECOVERIES["correction"].apply(net, pruned, Unlabeled(x)).state
    wanted, found = (net.module(of)[:2](x).detach() for of in (net.state(), state))
    torch.testing.assert_close(found.mean((0, 2, 3)), wanted.mean((0, 2, 3)))
    torch.testing.assert_close(found.std((0, 2, 3)), wanted.std((0, 2, 3)))


class Transposed(nn.Module):
    """GPT-2's `Conv1D`: a linear layer of another class, its weight the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Reading(nn.Module):
    """An embedding of 5 by 4, attention over 4, a `Conv1D`, and a head of 6 by 3."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.attention = nn.Embedding(5, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.wide, self.head = Transposed(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        read = self.embedding(x.long())
        found: Tensor = self.head(self.wide(self.attention(read, read, read)[0]).mean(1))
        return found


def test_a_network_says_what_of_it_is_not_prunable() -> None:
    net = Network(Reading())
    assert list(net.weights) == ["attention.out_proj.weight", "head.weight"]
    assert net.left_out == {"embedding.weight": 20, "attention.in_proj_weight": 48, "wide.weight": 24}
    share = 92 / (20 + 48 + 12 + 16 + 4 + 24 + 6 + 18 + 3)
    names = "attention.in_proj_weight, wide.weight, embedding.weight"
    assert net.describe_left_out() == f"{100 * share:.1f} % of the parameters are not prunable: {names}"
    assert net.describe_left_out(1).endswith("attention.in_proj_weight and 2 more")
    assert Network(blob_task().dense()).describe_left_out() == ""
