"""Samples with several places, as texts: labels [n, *places], logits [n, classes, *places], the loss their mean."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.cases import REGISTRY, blob_task, blobs
from tests.oracles import rows_by_autograd
from wfbench import (
    RECOVERIES,
    Case,
    Dataset,
    Labeled,
    Network,
    Sampling,
    Target,
    Task,
    Unlabeled,
    WfbenchError,
    draw,
    fisher_rows,
    run,
)
from wfbench import network as network_module
from wfbench.curvature.cotangents import probe_signs
from wfbench.curvature.rows import gradients
from wfbench.output import files
from wfbench.recoveries.descent import LogitDistillation
from wfbench.report import frames, html
from wfbench.tasks.evaluate import agreement, evaluate
from wfbench.walk import second_moments

CLASSES, PLACES = 5, 8


class Reader(nn.Module):
    """Token ids to logits of the next one: each place sees the mean of what stands before it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(CLASSES, 4)
        self.inner = nn.Linear(4, 3)
        self.out = nn.Linear(3, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x.cumsum(1) / torch.arange(1, x.shape[1] + 1).to(x)[:, None]
        return self.out(torch.tanh(self.inner(x))).mT


def reader() -> Reader:
    torch.manual_seed(0)
    return Reader().double().eval()


def texts(n: int, seed: int = 0) -> Labeled:
    rows = torch.randint(CLASSES, (n, PLACES + 1), generator=torch.Generator().manual_seed(seed))
    return Labeled(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


def reading_task(**changed: Any) -> Task:
    splits = {name: (one.inputs, one.labels) for name, one in (("train", texts(40)), ("test", texts(33, 1)))}
    return Task(**{"name": "texts", "module": reader().float(), **splits, **changed})


def jacobians(net: Network, x: Tensor) -> Tensor:
    """Of every logit of every place, by autograd, one after the other: `[n, places, classes, p]`."""
    weights = {name: weight.clone().requires_grad_() for name, weight in net.weights.items()}
    found = []
    for one in x:
        logits = net.logits(weights, one[None])[0]
        for place in range(PLACES):
            for c in range(CLASSES):
                parts = torch.autograd.grad(logits[c, place], list(weights.values()), retain_graph=True)
                found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found).reshape(len(x), PLACES, CLASSES, -1)


@pytest.fixture(scope="module")
def net() -> Network:
    return Network(reader())


@pytest.fixture(scope="module")
def data() -> Labeled:
    return texts(4)


def test_empirical_rows_are_gradients_of_each_samples_mean_loss(net: Network, data: Labeled) -> None:
    torch.testing.assert_close(fisher_rows(net, data) * 2, rows_by_autograd(net, data), rtol=1e-10, atol=1e-14)


def test_exact_rows_are_the_gauss_newton_matrix_of_the_mean_loss(net: Network, data: Labeled) -> None:
    """And those of logits that of their squared change, sampled ones and probes unbiased estimates of the same."""
    x, jacobian = Unlabeled(data.inputs), jacobians(net, data.inputs)
    p = net.logits({}, data.inputs).mT.softmax(2)
    hessian = torch.diag_embed(p) - p[..., None] * p[..., None, :]
    matrices = {
        "exact": torch.einsum("nlcp,nlcd,nldq->pq", jacobian, hessian, jacobian) / (4 * PLACES),
        "logits": (centred := jacobian - jacobian.mean(2, keepdim=True)).flatten(0, 2).T
        @ centred.flatten(0, 2)
        / (4 * PLACES),
    }
    for kind, wanted in matrices.items():
        rows = fisher_rows(net, x, kind)
        assert len(rows) == 4 * PLACES * CLASSES
        torch.testing.assert_close(rows.T @ rows, wanted, rtol=1e-10, atol=1e-14)
        few = fisher_rows(net, x, kind, probes=3)
        every = rows.reshape(4, PLACES, CLASSES, -1).transpose(1, 2)
        signs = probe_signs(range(4), 3, (CLASSES, PLACES), 0)
        combined = torch.einsum("nscl,nclp->nsp", signs, every).flatten(0, 1)
        torch.testing.assert_close(few, combined / 3**0.5, rtol=1e-9, atol=1e-14)
    drawn = fisher_rows(net, x, "sampled", draws=500)
    off = (drawn.T @ drawn - matrices["exact"]).norm() / matrices["exact"].norm()
    assert 0 < off < 0.15  # about 1/√500, over the labels of 24 places


def test_samples_of_many_logits_go_a_few_at_a_time(
    net: Network, data: Labeled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows, change and scores, to rounding, and in every budget the same bits."""
    many, other = texts(7), {name: 0.5 * weight for name, weight in net.weights.items()}

    def found() -> tuple[Any, ...]:
        fresh = Network(reader())
        rows = {kind: fisher_rows(fresh, many, kind, probes=probes) for kind, probes in KINDS}
        scores = evaluate(fresh.module(), Dataset((many.inputs, many.labels)))
        return rows, fresh.change(other, many), fresh.change(other, Unlabeled(many.inputs)), scores

    whole = found()
    monkeypatch.setattr(network_module, "LOGITS", 2 * CLASSES * PLACES)
    parts = found()
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-10, atol=1e-14)
    assert parts[1:3] == pytest.approx(whole[1:3], rel=1e-12)
    assert parts[3].loss == pytest.approx(whole[3].loss, rel=1e-12)
    assert (parts[3].correct, parts[3].total) == (whole[3].correct, whole[3].total)
    for kind, probes in KINDS:
        large, small = (gradients(Network(reader()), of, kind, probes=probes) for of in (many, many.take(slice(3))))
        assert torch.equal(large.prefix(3).rows, small.rows)


KINDS: Any = (("empirical", None), ("sampled", None), ("logits", 2))


def test_scores_are_those_of_a_loop_over_places(net: Network) -> None:
    data, module = texts(53), net.module()
    right, losses = [], []
    with torch.no_grad():
        for x, y in zip(data.inputs, data.labels, strict=True):
            logits = module(x[None])[0].T
            right.append(sum(int(logits[place].argmax() == y[place]) for place in range(PLACES)))
            losses.append(-sum(float(logits[place].log_softmax(0)[y[place]]) for place in range(PLACES)) / PLACES)
    found = evaluate(module, Dataset((data.inputs, data.labels)))
    assert (found.correct, found.total, found.places) == (sum(right), 53 * PLACES, PLACES)
    assert found.commonest == int(data.labels.flatten().bincount().max())
    assert found.loss == pytest.approx(sum(losses) / 53, rel=1e-12)
    assert found.perplexity == pytest.approx(float(torch.tensor(losses, dtype=torch.float64).mean().exp()), rel=1e-12)
    spread = [torch.tensor(each, dtype=torch.float64).std(correction=0) / 53**0.5 for each in (right, losses)]
    assert found.errors == pytest.approx((float(spread[0]) / PLACES, float(spread[1])), rel=1e-6)


def test_agreement_and_change_are_means_over_places(net: Network, data: Labeled) -> None:
    changed = {name: 0.5 * weight for name, weight in net.weights.items()}
    with torch.no_grad():
        before, after = (net.logits(of, data.inputs).mT.log_softmax(2) for of in ({}, changed))
    kl = float((before.exp() * (before - after)).sum(2).mean())
    assert net.change(changed, Unlabeled(data.inputs)) == pytest.approx(kl, rel=1e-12)
    rise = float(net.loss(changed, data) - net.loss({}, data))
    assert net.change(changed, data) == pytest.approx(rise, rel=1e-10)
    found = agreement(net.module({**net.state(), **changed}), net.module(), Dataset(data.inputs))
    same = int((before.argmax(2) == after.argmax(2)).sum())
    assert (found.same, found.total, found.loss) == (same, 4 * PLACES, pytest.approx(kl, rel=1e-12))
    divergence = LogitDistillation().loss(net, Unlabeled(data.inputs))
    assert float(sum(divergence({**net.state(), **changed}, torch.arange(4)))) == pytest.approx(kl, rel=1e-12)


def test_layer_wise_hessians_are_those_of_the_stacked_places(net: Network, data: Labeled) -> None:
    moments = second_moments(net, data.inputs)
    for name, read in net.layer_inputs(data.inputs).items():
        stacked = torch.cat([one[place][None] for one in read for place in range(PLACES)])
        torch.testing.assert_close(moments[name][0], stacked.T @ stacked / (4 * PLACES), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sizes", [[8], [3, 3, 2]])
@pytest.mark.parametrize("kind", ["kfac", "kfac-exact"])
def test_kfac_factors_are_means_over_places(
    net: Network, kind: str, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many samples go at a time. Outputs: of each place's loss, as if it were a sample of its own."""
    data = texts(8)
    monkeypatch.setattr(network_module, "LOGITS", sizes[0] * CLASSES * PLACES)
    fitted = REGISTRY.pruner(kind).fit(Network(reader()), data if kind == "kfac" else Unlabeled(data.inputs))
    b, a = fitted.factors["out.weight"]
    read = net.layer_inputs(data.inputs)["out.weight"].flatten(0, 1)
    torch.testing.assert_close(a, read.T @ read / len(read), rtol=1e-10, atol=0)
    p = net.logits({}, data.inputs).mT.softmax(2).flatten(0, 1)
    if kind == "kfac":
        pulled = functional.one_hot(data.labels.flatten(), CLASSES) - p
        wanted = pulled.T @ pulled / len(p)
    else:
        wanted = (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    torch.testing.assert_close(b, wanted, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("recovery", ["none", "repair"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "obc", "lobs", "woodfisher", "kfac-sampled"])
def test_methods_run_on_texts(method: str, recovery: str) -> None:
    pruner, task = REGISTRY.pruner(method), reading_task()
    record = run(Case(task, 8, 0, 0, Target(0.3, scope=pruner.scope), pruner, RECOVERIES[recovery]))
    assert record.status == "ok", record.reason
    before = evaluate(task.dense(), task.test_set)
    assert (record.dense_accuracy, record.dense_loss) == (before.accuracy, before.loss)
    assert record.loss != record.dense_loss


def test_registered_perplexity_is_held_to_a_thousandth() -> None:
    scores = evaluate(reader().float(), reading_task().test_set)
    reading_task(accuracies=(scores.accuracy,), perplexities=(scores.perplexity,)).check_registered(0, scores)
    with pytest.raises(WfbenchError, match=r"texts, checkpoint 0: perplexity \d\.\d+, registered is"):
        reading_task(perplexities=(1.002 * scores.perplexity,)).check_registered(0, scores)
    with pytest.raises(WfbenchError, match=r"of 264 right, registered accuracy is"):
        reading_task(accuracies=(scores.accuracy + 0.01,)).check_registered(0, scores)
    assert reading_task(perplexities=(2.0,)).scored_on(10).perplexities == ()


def test_labels_of_places_come_sample_by_sample_too() -> None:
    data = texts(9)
    pairs = Dataset([*zip(data.inputs, data.labels, strict=True)])
    assert pairs.labelled
    assert pairs.fingerprint == Dataset((data.inputs, data.labels)).fingerprint
    assert torch.equal(draw(pairs, 3, 0).labels, draw((data.inputs, data.labels), 3, 0).labels)  # type: ignore[union-attr]
    for sampling in (Sampling("k-shot"), Sampling(wrong_labels=0.5)):
        with pytest.raises(WfbenchError, match=r"labels of shape \[\d, 8\]; this draw is for one label a sample"):
            draw(pairs, 5, 0, sampling)
    ragged = Dataset([(data.inputs[0], data.labels[0]), (data.inputs[1], data.labels[1, :3])], "mine")
    with pytest.raises(WfbenchError, match=r"mine\[0\], label, has the shape \[8\], mine\[1\], label, \[3\]"):
        ragged.take([0, 1])


def test_labels_of_other_places_than_the_logits_are_refused() -> None:
    short = texts(20, 1)
    case = Case(
        reading_task(train=(short.inputs, short.labels[:, 1:])),
        *(8, 0, 0, Target(0.3), REGISTRY.pruner("magnitude"), RECOVERIES["none"]),
    )
    reason = str(run(case).reason)
    assert "labels of shape [20, 7], and the network gives logits [5, 8] a sample; give class indices" in reason
    assert reason.endswith("labels [n, 8]")
    x, y = blobs(300, 0)
    plain = replace(case, task=replace(blob_task(), train=(x, y[:, None])))
    assert str(run(plain).reason).endswith("labels [n]")


def test_tables_and_report_show_perplexity_of_texts_alone() -> None:
    magnitude, none = REGISTRY.pruner("magnitude"), RECOVERIES["none"]
    cases = [Case(task, 8, seed, 0, Target(0.3), magnitude, none) for task in (reading_task(),) for seed in (0, 1)]
    records = [
        json.loads(run(case).as_json()) for case in (*cases, Case(blob_task(), 8, 0, 0, Target(0.3), magnitude, none))
    ]
    assert [record.get("places") for record in records] == [PLACES, PLACES, None]
    losses = torch.tensor([record["loss"] for record in records[:2]], dtype=torch.float64)
    dense = torch.tensor(records[0]["dense_loss"], dtype=torch.float64).exp()
    found = files.render("s", records)
    page = found["tables/s-perplexity.md"].decode()
    assert f"## texts, 8 samples (dense {float(dense):.4g})" in page
    assert f"| {float(losses.exp().mean()):.4g} " in page
    assert "blobs" not in page.split("## texts")[1].split("Made")[0]
    assert b"s-perplexity.md" in files.index(found)
    assert "tables/s-perplexity.md" not in files.render("s", records[2:])
    told = frames.with_perplexity(frames.frame_of(records))
    shown = html.columns(told)["perplexity"]
    assert [shown["of"][at] for at in shown["at"]].count(None) == 1
