"""What curvature methods say about themselves, against dense matrices."""

import math

import pytest
import torch

from tests.cases import blob_network, blob_task, blobs
from wfbench import Case, Labeled, Network, Target, Unlabeled, fisher_rows, run
from wfbench.curvature.diagnostics import effective_rank
from wfbench.harness.plugins import discover
from wfbench.network import flatten
from wfbench.recoveries.base import NoRecovery

REGISTRY = discover()
ROWS = ["woodfisher", "woodfisher-joint", "woodfisher-full-joint", "woodfisher-unlabeled", "woodfisher-exact", "chita"]
FIGURES = ("mean_leverage", "effective_rank", "damping", "damping_ratio", "predicted_change", "realised_change")


def problem(n: int = 15) -> tuple[Network, Labeled]:
    x, y = blobs(n, 6)
    return Network(blob_network().double()), Labeled(x.double(), y)


@pytest.mark.parametrize(
    ("eigenvalues", "rank"),
    [([1.0, 0, 0], 1), ([2.0, 2, 2, 2], 4), ([0.0, 0], 0), ([-1e-20, 3, 3], 2), ([0.5, 0.25, 0.25], 2**1.5)],
)
def test_effective_rank(eigenvalues: list[float], rank: float) -> None:
    assert effective_rank(torch.tensor(eigenvalues, dtype=torch.float64)) == pytest.approx(rank)


@pytest.mark.parametrize("method", ROWS)
def test_diagnostics_of_row_methods_equal_dense_matrices(method: str) -> None:
    net, data = problem()
    pruner = REGISTRY.pruner(method)
    seen = data if pruner.licence is Labeled else Unlabeled(data.inputs)
    rows = fisher_rows(net, data, getattr(pruner, "fisher", "empirical"))
    found = pruner.fit(net, seen).prune(Target(0.6))
    fisher, figures = rows.T @ rows, found.diagnostics
    damping = pruner.damping
    eigenvalues = torch.linalg.eigvalsh(fisher).clamp(min=0)
    shares = eigenvalues[eigenvalues > 1e-14 * eigenvalues[-1]] / eigenvalues.sum()
    assert figures["effective_rank"] == pytest.approx(math.exp(-float((shares * shares.log()).sum())), rel=1e-6)
    assert figures["damping"] == damping
    assert figures["damping_ratio"] == pytest.approx(damping / float(fisher.diagonal().mean()), rel=1e-9)
    blocked = fisher.clone()
    if getattr(pruner, "block_size", None) is not None:  # blocks of 2000 are whole layers here
        ends = [weight.numel() for weight in net.weights.values()]
        blocked = torch.block_diag(fisher[: ends[0], : ends[0]], fisher[ends[0] :, ends[0] :])
    damped = blocked + damping * torch.eye(len(fisher), dtype=torch.float64)
    leverage = float((blocked @ torch.linalg.inv(damped)).trace()) / len(fisher)
    assert figures["mean_leverage"] == pytest.approx(leverage, rel=1e-6)
    delta = flatten({name: found.state[name] - weight for name, weight in net.weights.items()})
    predicted = float(delta @ fisher @ delta) / 2
    if pruner.licence is Labeled:
        variables = {name: weight.clone().requires_grad_() for name, weight in net.weights.items()}
        gradient = torch.autograd.grad(net.loss(variables, data), list(variables.values()))
        predicted += float(torch.cat([part.flatten() for part in gradient]) @ delta)
    assert figures["predicted_change"] == pytest.approx(predicted, rel=1e-6)


@pytest.mark.parametrize("method", ["kfac", "kfac-sampled", "kfac-exact"])
def test_diagnostics_of_kronecker_factors_equal_the_dense_product(method: str) -> None:
    net, data = problem()
    pruner = REGISTRY.pruner(method)
    torch.manual_seed(0)
    fitted = pruner.fit(net, data if pruner.licence is Labeled else Unlabeled(data.inputs))
    found = fitted.prune(Target(0.6))
    matrices = [torch.kron(b, a) for b, a in fitted.factors.values()]
    inverses = [torch.kron(fitted.outputs[name], fitted.inputs[name]) for name in net.weights]
    dense, inverse = torch.block_diag(*matrices), torch.block_diag(*inverses)
    eigenvalues = torch.linalg.eigvalsh(dense).clamp(min=0)
    shares = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    figures = found.diagnostics
    assert figures["effective_rank"] == pytest.approx(math.exp(-float((shares * shares.log()).sum())), rel=1e-5)
    assert figures["mean_leverage"] == pytest.approx(float((dense @ inverse).trace()) / len(dense), rel=1e-9)
    assert figures["damping_ratio"] == pytest.approx(1e-5 / float(dense.diagonal().mean()), rel=1e-9)
    delta = flatten({name: found.state[name] - weight for name, weight in net.weights.items()})
    assert figures["predicted_change"] == pytest.approx(float(delta @ dense @ delta) / 2, rel=1e-9)


@pytest.mark.parametrize("method", [*ROWS, "kfac", "kfac-sampled", "mfac", "obert", "woodtaylor"])
def test_every_curvature_record_holds_every_figure(method: str) -> None:
    pruner = REGISTRY.pruner(method)
    record = run(Case(blob_task(), 8, 0, 0, Target(0.5), pruner, NoRecovery()))
    assert record.status == "ok", record.reason
    assert all(math.isfinite(getattr(record, figure)) for figure in FIGURES)
    assert record.magnitude_overlap is not None


@pytest.mark.parametrize("labeled", [True, False])
def test_the_realised_change_is_measured_on_the_methods_own_samples(labeled: bool) -> None:
    from tests.test_damping import held_out
    from wfbench import draw

    pruner = REGISTRY.pruner("woodfisher" if labeled else "woodfisher-unlabeled")
    task = blob_task()
    record = run(Case(task, 70, 1, 0, Target(0.5), pruner, NoRecovery()))
    data = draw(task.train_set, 70, 1)
    seen = data if labeled else Unlabeled(data.inputs)
    net = Network(task.dense())
    state = pruner.fit(net, seen).prune(Target(0.5)).state
    assert record.realised_change == pytest.approx(held_out(net, dict(state), seen), rel=1e-4, abs=1e-7)
    assert run(Case(task, 70, 1, 0, Target(0.5), REGISTRY.pruner("magnitude"), NoRecovery())).realised_change is None


def test_a_small_removal_changes_the_loss_as_predicted() -> None:
    """Without labels, the exact Fisher and two weights of 56: second order is all there is to the KL divergence."""
    net, data = problem(60)
    found = REGISTRY.pruner("woodfisher-exact[damping=1e-3]").fit(net, Unlabeled(data.inputs)).prune(Target(2 / 56))
    realised = net.change(found.state, Unlabeled(data.inputs))
    assert found.diagnostics["predicted_change"] == pytest.approx(realised, rel=0.2)
