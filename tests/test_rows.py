"""Curvature rows against one backward pass a sample, and the estimators against their definitions."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.cases import DEVICES, NETWORKS, blob_network, blobs, trained_looking
from tests.oracles import looped_rows
from wfbench import Labeled, Network, Unlabeled, WfbenchError, fisher_rows
from wfbench.curvature import rows as rows_module
from wfbench.curvature.cotangents import cotangents, probe_signs
from wfbench.curvature.per_sample import TILE
from wfbench.curvature.rows import gradients, probes_of
from wfbench.memo import Memo


def labelled(module: nn.Module, shape: tuple[int, ...], n: int) -> Labeled:
    x = torch.randn(n, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    classes = module(x[:1]).shape[1]
    return Labeled(x, torch.arange(n) % classes)


def difference(module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """`e_y − p` for each sample: `[n, 1, c]`."""
    logits = module(x).detach()
    return (nn.functional.one_hot(labels, logits.shape[1]) - logits.softmax(1))[:, None]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("over", ["prunable", "movable"])
@pytest.mark.parametrize("name", NETWORKS)
def test_empirical_rows_equal_a_loop_over_samples(name: str, over: str, device: str) -> None:
    build, shape = NETWORKS[name]
    module = trained_looking(build)
    net, data = Network(module.to(device)), labelled(module.cpu(), shape, 3)
    names = list(net.weights if over == "prunable" else net.movable)
    for part in module.modules():
        part.inplace = False  # the oracle differentiates the module itself
    expected = looped_rows_allowing_unread(module, names, data)
    rows = fisher_rows(net, data, over=over)
    torch.testing.assert_close(rows.cpu(), expected / math.sqrt(3), rtol=1e-8, atol=1e-12)


def looped_rows_allowing_unread(module: nn.Module, names: list[str], data: Labeled) -> Tensor:
    rows = []
    parameters = dict(module.named_parameters())
    for x, y in zip(data.inputs, data.labels, strict=True):
        value = -nn.functional.cross_entropy(module(x[None]), y[None])
        found = torch.autograd.grad(
            value, [parameters[name] for name in names], allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return torch.stack(rows)


def test_mini_batch_rows_are_mean_gradients() -> None:
    module = blob_network().double()
    data = labelled(module, (4,), 6)
    single = fisher_rows(Network(module), data) * math.sqrt(6)
    expected = single.reshape(3, 2, -1).mean(1) / math.sqrt(3)
    torch.testing.assert_close(fisher_rows(Network(module), data, batch=2), expected, rtol=1e-10, atol=1e-12)


def test_exact_rows_are_every_class_weighted_by_its_probability() -> None:
    module = blob_network().double()
    net, x = Network(module), torch.randn(5, 4, dtype=torch.float64)
    p = module(x).softmax(1).detach()
    cotangents = p.sqrt()[..., None] * (torch.eye(3, dtype=torch.float64) - p[:, None])
    expected = looped_rows(module, list(net.weights), x, cotangents) / math.sqrt(5)
    torch.testing.assert_close(fisher_rows(net, Unlabeled(x), "exact"), expected, rtol=1e-8, atol=1e-12)


def test_exact_fisher_is_the_generalised_gauss_newton_matrix() -> None:
    """`RᵀR = mean Jᵀ(diag p − ppᵀ)J`; its rank is at most n(c − 1)."""
    module = blob_network().double()
    net, x = Network(module), torch.randn(4, 4, dtype=torch.float64)
    p = module(x).softmax(1).detach()
    eye = torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    jacobian = looped_rows(module, list(net.weights), x, eye).reshape(4, 3, -1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("ncp,ncd,ndq->pq", jacobian, hessian, jacobian) / 4
    rows = fisher_rows(net, Unlabeled(x), "exact")
    torch.testing.assert_close(rows.T @ rows, expected, rtol=1e-8, atol=1e-12)
    assert torch.linalg.matrix_rank(rows) <= 8


def test_sampled_rows_are_rows_of_single_classes() -> None:
    module = blob_network().double()
    net, x = Network(module), torch.randn(6, 4, dtype=torch.float64)
    p = module(x).softmax(1).detach()
    eye = torch.eye(3, dtype=torch.float64)
    every = looped_rows(module, list(net.weights), x, eye - p[:, None]).reshape(6, 3, -1)
    rows = fisher_rows(net, Unlabeled(x), "sampled", draws=4).reshape(6, 4, -1) * math.sqrt(24)
    distance = (rows[:, :, None] - every[:, None]).norm(dim=-1)
    assert distance.min(dim=2).values.max() < 1e-9


def test_sampled_fisher_converges_to_the_exact_one_at_the_monte_carlo_rate() -> None:
    module = blob_network().double()
    net, x = Network(module), torch.randn(8, 4, dtype=torch.float64)
    exact = fisher_rows(net, Unlabeled(x), "exact")
    errors = []
    for draws in (4, 16, 64, 240):
        found = [fisher_rows(net, Unlabeled(x), "sampled", draws=draws, seed=seed) for seed in range(20)]
        errors.append(sum(float((rows.T @ rows - exact.T @ exact).square().sum()) for rows in found) / 20)
    slope = (math.log(errors[-1]) - math.log(errors[0])) / (math.log(240) - math.log(4))
    assert -1.25 < slope < -0.75  # squared error falls as 1/draws


@pytest.mark.parametrize("kind", ["exact", "logits"])
def test_probes_are_signed_sums_of_the_rows_of_every_class(kind: str) -> None:
    module = blob_network().double()
    x = torch.randn(TILE + 3, 4, dtype=torch.float64)
    every = fisher_rows(Network(module), Unlabeled(x), kind).reshape(TILE + 3, 3, -1)
    expected = torch.einsum("nsc,ncp->nsp", probe_signs(range(TILE + 3), 4, [3], 5), every).flatten(0, 1) / 2
    rows = fisher_rows(Network(module), Unlabeled(x), kind, probes=4, seed=5)
    torch.testing.assert_close(rows, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["exact", "logits"])
def test_over_all_sign_patterns_probes_have_the_mean_of_the_curvature(kind: str) -> None:
    """And of a network that is sure, they keep the small rows of every class to the last digits."""
    logits = torch.tensor([[0.3, -2.0, 46.0, 1.0], [0.0, 0.5, 0.25, -3.0]], dtype=torch.float64)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4).expand(2, -1, -1)
    every, probed = cotangents(kind, logits, None, None), cotangents(kind, logits, None, signs)
    torch.testing.assert_close(probed, signs @ every, rtol=1e-9, atol=0 if kind == "exact" else 1e-14)
    torch.testing.assert_close((probed.mT @ probed / 16)[1], (every.mT @ every)[1], rtol=1e-12, atol=1e-15)


def test_signs_are_fair_and_of_independent_probes() -> None:
    signs = probe_signs(range(500), 4, [25], 0).permute(1, 0, 2).reshape(4, -1)
    assert signs.unique().tolist() == [-1, 1]
    off = signs @ signs.T / signs.shape[1] - torch.eye(4)
    assert off.abs().max() < 4 / signs.shape[1] ** 0.5
    assert signs.mean(1).abs().max() < 4 / signs.shape[1] ** 0.5


def test_probes_nest_in_samples_and_in_their_number() -> None:
    module = trained_looking(NETWORKS["resnet20"][0]).float()
    x = torch.randn(TILE + 8, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    whole = gradients(Network(module), Unlabeled(x), "logits", probes=3)
    few = gradients(Network(module), Unlabeled(x[:7].clone()), "logits", probes=2)
    assert few.count == 14
    assert torch.equal(few.rows.reshape(7, 2, -1), whole.rows.reshape(TILE + 8, 3, -1)[:7, :2])


def test_every_logit_has_a_row_where_rows_and_entries_are_few_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Network(blob_network()), torch.zeros(667, 4)
    assert probes_of(net, Unlabeled(x[:666])) is None  # 1998 rows
    assert probes_of(net, Unlabeled(x)) == 1
    monkeypatch.setattr(rows_module, "MAX_ENTRIES", 30 * sum(w.numel() for w in net.weights.values()))
    assert [probes_of(net, Unlabeled(x[:n])) for n in (10, 11, 100, 300)] == [None, 23, 2, 1]
    assert probes_of(net, Unlabeled(x[:10]), "movable") == 25


@pytest.mark.parametrize("kind", ["empirical", "sampled", "exact"])
def test_a_smaller_budget_has_the_same_bits(kind: str) -> None:
    """Rule 2's other half: rows of 7 samples are the first of the rows of 70, computed alone or shared."""
    build, shape = NETWORKS["digits_cnn"] if kind == "exact" else (NETWORKS["resnet20"][0], (1, 12, 12))
    module = trained_looking(build).float()
    x = torch.randn(70, *shape, generator=torch.Generator().manual_seed(2))
    data = Labeled(x, torch.arange(70) % 10)
    sharing = Network(module)
    whole = gradients(sharing, data, kind)
    for n in (1, 7, TILE, TILE + 1):
        few = Labeled(x[:n].clone(), data.labels[:n].clone())
        alone = gradients(Network(module), few, kind)
        shared = gradients(sharing, few, kind)
        assert torch.equal(alone.rows, whole.rows[: len(alone.rows)]), n
        assert torch.equal(alone.rows, shared.rows), n
        assert shared.rows.data_ptr() == whole.rows.data_ptr()
        assert alone.count == shared.count
        assert torch.equal(alone.gram, shared.gram), n


def test_what_is_found_out_once_is_asked_for_once_whatever_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for again in every pass, it would be in a record's seconds as often, as what was saved."""
    asked, module = list[str](), blob_network()
    take = Memo.take

    def noted(self: Memo, key: tuple[str, ...], make: Callable[[], object]) -> object:
        asked.append(key[0])
        return take(self, key, make)

    monkeypatch.setattr(Memo, "take", noted)
    counts = []
    for n in (1, 3 * TILE):
        asked.clear()
        fisher_rows(Network(module), Unlabeled(blobs(n, 0)[0]), "sampled")
        counts.append(Counter(asked))
    assert counts[0] == counts[1]
    assert counts[1]["apart"] == 1


def test_other_samples_are_not_taken_for_a_prefix() -> None:
    net = Network(blob_network())
    x, y = blobs(20, 0)
    gradients(net, Labeled(x, y))
    other = Labeled(x[1:9].clone(), y[1:9].clone())
    relabelled = Labeled(x[:8].clone(), (y[:8] + 1) % 3)
    for data in (other, relabelled):
        assert torch.equal(gradients(net, data).rows, gradients(Network(blob_network()), data).rows)
        net.memo.clear()
        gradients(net, Labeled(x, y))


def test_label_draws_nest_in_the_number_of_draws() -> None:
    net, x = Network(blob_network().double()), torch.randn(9, 4, dtype=torch.float64)
    one = fisher_rows(net, Unlabeled(x), "sampled", draws=1)
    three = fisher_rows(net, Unlabeled(x), "sampled", draws=3).reshape(9, 3, -1)[:, 0] * math.sqrt(3)
    torch.testing.assert_close(one, three)


def test_a_confident_network_keeps_its_small_gradients() -> None:
    """At p_y = 1 − 1e-20 the cotangent `p_y − 1` rounds to 0 in float64; the sum of the others does not."""
    module = nn.Sequential(nn.Linear(1, 2, bias=False)).double()
    module[0].weight.data = torch.tensor([[46.0], [0.0]], dtype=torch.float64)
    rows = fisher_rows(Network(module), Labeled(torch.ones(1, 1, dtype=torch.float64), torch.tensor([0])))
    expected = math.exp(-46)
    torch.testing.assert_close(rows, torch.tensor([[expected, -expected]], dtype=torch.float64), rtol=1e-12, atol=0)


def test_rows_of_the_logits_do_not_hang_on_how_sure_the_network_is() -> None:
    """Jacobian of `z_c − mean z`, here `x(e_c − ½)` whatever the weights; labels and their order play no part."""
    x = torch.tensor([[2.0]], dtype=torch.float64)
    for sure in (0.0, 46.0):
        module = nn.Sequential(nn.Linear(1, 2, bias=False)).double()
        module[0].weight.data = torch.tensor([[sure], [0.0]], dtype=torch.float64)
        rows = fisher_rows(Network(module), Unlabeled(x), "logits")
        torch.testing.assert_close(rows, torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "logits", "draws": 2}, "draws=2 belongs to"),
        ({"kind": "empirical", "draws": 2}, "draws=2 belongs to"),
        ({"kind": "sampled", "batch": 2}, "batch=2 belongs to"),
        ({"kind": "empirical", "batch": 3}, "does not divide the 8 samples"),
        ({"kind": "sampled", "draws": 251}, "2008 rows, more than 2000"),
        ({"kind": "sampled", "probes": 2}, "probes=2 belongs to"),
        ({"kind": "logits", "probes": 0}, "probes=0 must be at least 1"),
        ({"kind": "exact", "probes": 251}, "2008 rows, more than 2000"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    x, y = blobs(8, 0)
    with pytest.raises(WfbenchError, match=message):
        fisher_rows(Network(blob_network()), Labeled(x, y), **options)


def test_exact_rows_beyond_the_limit_point_to_probes() -> None:
    x, _ = blobs(700, 0)
    with pytest.raises(WfbenchError, match="use fewer samples, probes"):
        fisher_rows(Network(blob_network()), Unlabeled(x), "exact")


def test_unlabelled_data_have_no_empirical_fisher() -> None:
    with pytest.raises(WfbenchError, match="reads labels"):
        fisher_rows(Network(blob_network()), Unlabeled(blobs(4, 0)[0]))


def test_nan_inputs_are_an_error() -> None:
    x, y = blobs(4, 0)
    x[2, 1] = torch.nan
    with pytest.raises(WfbenchError, match="NaN"):
        fisher_rows(Network(blob_network()), Labeled(x, y))


class ChangesItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        middle = self.first(x)
        out = self.second(middle)
        middle += 1
        return out


def test_an_input_changed_in_place_is_an_error() -> None:
    x, y = blobs(4, 0)
    with pytest.raises(WfbenchError, match="second is changed in place"):
        fisher_rows(Network(ChangesItsInput()), Labeled(x, y))
