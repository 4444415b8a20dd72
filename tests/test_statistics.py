"""Networks whose running statistics are not those of the samples are told apart from those whose are."""

import copy

import pytest
import torch
from torch import nn

from tests.cases import blob_network, blobs
from wfbench import Network, discover, draw, prune, recommend
from wfbench.recoveries.statistics import FOLDS, gains, statistics_off

TASK = discover().task("digits-cnn")


def off(module: nn.Module) -> nn.Module:
    """Means moved by 0.3 deviations, variances half as large again."""
    found = copy.deepcopy(module)
    for norm in found.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var *= 1.5  # type: ignore[operator]
            norm.running_mean += 0.3 * norm.running_var.sqrt()  # type: ignore[operator, union-attr]
    return found


@pytest.mark.parametrize("replicate", range(3))
@pytest.mark.parametrize("n", [10, 50])
def test_statistics_that_are_off_are_noticed_and_right_ones_are_not(replicate: int, n: int) -> None:
    module = TASK.dense(replicate)
    inputs = draw(TASK.train_set, n, replicate).inputs
    assert statistics_off(Network(module), inputs) is None
    assert "the dense network is surer of the others" in str(statistics_off(Network(off(module)), inputs))


def test_a_gain_is_the_entropy_less_that_with_statistics_of_the_other_folds() -> None:
    """Against torch's own training mode, which takes a batch's statistics, with nothing kept from before."""
    module, inputs = TASK.dense(), draw(TASK.train_set, 9, 0).inputs
    found = gains(Network(module), inputs)
    for fold in range(FOLDS):
        held = torch.arange(9 * fold // FOLDS, 9 * (fold + 1) // FOLDS)
        rest = [i for i in range(9) if i not in held]
        again = copy.deepcopy(module)
        for norm in again.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 1.0
        again.train()(inputs[rest])
        entropies = [
            torch.distributions.Categorical(logits=net.eval()(inputs[held]).double()).entropy()
            for net in (module, again)
        ]
        torch.testing.assert_close(found[held], (entropies[0] - entropies[1]).detach(), rtol=1e-4, atol=1e-6)


def test_nothing_is_said_of_few_samples_or_without_statistics() -> None:
    inputs = draw(TASK.train_set, 2 * FOLDS - 1, 0).inputs
    assert statistics_off(Network(off(TASK.dense())), inputs) is None
    assert statistics_off(Network(blob_network()), blobs(20, 0)[0]) is None


def test_who_prunes_or_asks_what_to_use_is_told() -> None:
    inputs = draw(TASK.train_set, 12, 0).inputs
    with pytest.warns(UserWarning, match="re-estimated on some of them"):
        prune(off(TASK.dense()), inputs, 0.5, "magnitude")
    said = recommend(off(TASK.dense()), inputs, 0.5)
    assert str(said).endswith("inherits the fault")
    assert recommend(TASK.dense(), inputs, 0.5).warning is None
