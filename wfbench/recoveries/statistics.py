"""Whether the running statistics of a network's BatchNorms are those of the samples at hand; told without labels."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from wfbench.data import Unlabeled
from wfbench.draws import folds
from wfbench.execution.precision import precise
from wfbench.network import Network
from wfbench.pruned import Pruned
from wfbench.recoveries.base import BatchNormReestimation

FOLDS = 4
MOST = 64
ERRORS = 3.0
"""Standard errors that the gain must be above zero."""


def gains(net: Network, inputs: Shaped[Tensor, "n *input"]) -> Float[Tensor, " n"]:
    """By how many nats each sample's prediction is surer under statistics of the folds that do not hold it.

    The entropy of the dense network's prediction, less that with statistics re-estimated on the other folds. Where the
    statistics are right, those of a few samples only blur the prediction; where they are off, as after a change of the
    data, those of the samples themselves sharpen it. float64.
    """
    dense, n = Pruned.dense(net), len(inputs)
    found = torch.empty(n, dtype=torch.float64)
    for fold in folds(n, FOLDS):
        held = torch.zeros(n, dtype=torch.bool)
        held[list(fold)] = True
        again = BatchNormReestimation().apply(net, dense, Unlabeled(inputs[~held]))
        with torch.no_grad():
            found[held] = (_entropy(net, dense, inputs[held]) - _entropy(net, again, inputs[held])).cpu()
    return found


def statistics_off(net: Network, inputs: Shaped[Tensor, "n *input"]) -> str | None:
    """What to do about statistics that are not those of the samples; None where nothing says that they are off.

    Asked of at most 64 samples. Fewer than two a fold say nothing, nor does a network without running statistics.
    """
    inputs = inputs[:MOST]
    norms = (one for one in net.module().modules() if isinstance(one, nn.modules.batchnorm._BatchNorm))
    if len(inputs) < 2 * FOLDS or not any(one.running_mean is not None for one in norms):
        return None
    with precise(net.device):
        found = gains(net, inputs)
    mean, error = float(found.mean()), float(found.std() / len(found) ** 0.5)
    if not mean > ERRORS * error:
        return None
    return (
        "the statistics of the network's BatchNorms do not seem to be those of these samples: re-estimated on some of "
        f"them, the dense network is surer of the others (by {mean:.3g} ± {error:.1g} nats a sample); begin with a "
        'network whose statistics are re-estimated, or use recovery "batchnorm", for what matches the dense outputs '
        "inherits the fault"
    )


def _entropy(net: Network, state: Pruned, inputs: Tensor) -> Float[Tensor, " n"]:
    """Of the predicted classes, mean over a sample's places."""
    logs = net.logits(state.state, inputs).double().log_softmax(1)
    return -(logs.exp() * logs).sum(1).reshape(len(inputs), -1).mean(1)
