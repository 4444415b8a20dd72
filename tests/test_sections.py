"""MiniLM on descriptions of packages: what the list says, what is split, and a small BERT through the same code."""

import hashlib
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.cases import REGISTRY
from tests.oracles import rows_by_autograd
from wfbench import RECOVERIES, Case, Labeled, Network, Target, Task, WfbenchError, fisher_rows, run
from wfbench.published import debian, minilm
from wfbench.tasks.evaluate import evaluate

STANZA = (
    "Package: {name}\nSource: {source}\nMaintainer: Section: games\nDescription: {text}\n more\nSection: {section}\n"
)


def listed(*packages: tuple[str, str, str, str]) -> str:
    keys = ("name", "source", "section", "text")
    return "\n".join(STANZA.format(**dict(zip(keys, one, strict=True))) for one in packages)


def packages(each: int) -> str:
    """So many of every section, the text telling both."""
    of = [(section, at) for at in range(each) for section in (*debian.SECTIONS, "kernel")]
    return listed(*((f"{section}{at}", f"{section}{at} (1.0)", section, f"{section} {at}") for section, at in of))


def test_descriptions_of_a_list_are_split_by_section() -> None:
    found = debian.split(packages(200))
    for name, size in debian.SIZES.items():
        assert len(found[name]) == size * len(debian.SECTIONS)
        assert all(debian.SECTIONS[label] == text.split()[0] for text, label in found[name])
    texts = [text for pairs in found.values() for text, _ in pairs]
    assert len(set(texts)) == len(texts)
    with pytest.raises(WfbenchError, match="more than the 100 training samples of section admin"):
        debian.split(packages(100))


def test_one_package_of_a_source_is_described_and_no_text_twice() -> None:
    found = debian.described(
        listed(
            ("d", "b (2.0)", "admin", "of a source that is there"),
            ("b", "b", "web", "the first of its source"),
            ("a", "other", "kernel", "another"),
            ("c", "c", "web", "the first of its source"),
        )
    )
    assert [*found] == [("kernel", "another"), ("web", "the first of its source")]


def test_the_list_is_taken_from_apt_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt, text = tmp_path / "apt", packages(1).encode()
    apt.mkdir()
    (tmp_path / "helper").write_text('#!/bin/sh\ncat "$2"\n')
    (tmp_path / "helper").chmod(0o755)
    monkeypatch.setattr(debian, "APT", apt)
    monkeypatch.setattr(debian, "HELPER", str(tmp_path / "helper"))
    monkeypatch.setattr(debian, "SHA256", hashlib.sha256(text).hexdigest())
    monkeypatch.setenv("WFBENCH_CACHE", str(tmp_path / "cache"))
    (apt / "mirror_dists_bookworm_main_binary-amd64_Packages").write_bytes(b"of another release")
    with pytest.raises(WfbenchError, match=r"run `apt-get update` on Debian 12, or put dists/.*/Packages.xz of a mir"):
        debian.fetch()
    (apt / "other_dists_bookworm_main_binary-amd64_Packages").write_bytes(text)
    assert lzma.decompress(debian.fetch().read_bytes()) == text
    debian.path().write_bytes(lzma.compress(b"of another release"))
    with pytest.raises(WfbenchError, match=r"Packages.xz is not .* of Debian 12.15 \(wrong SHA-256\)"):
        debian.fetch()


def test_the_head_is_the_logistic_regression_that_validation_chooses() -> None:
    random = np.random.Generator(np.random.PCG64(0))
    centres = random.normal(size=(3, 4))
    splits = [(centres[y] + random.normal(size=(60, 4)), y) for y in (np.arange(60) % 3, np.arange(60) % 3)]
    head, recipe = minilm.fitted_head(*splits)
    x, y = (torch.from_numpy(part) for part in splits[0])
    weight, bias = head.weight.detach().double().requires_grad_(), head.bias.detach().double()
    loss = recipe["C"] * functional.cross_entropy(functional.linear(x, weight, bias), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss + weight.square().sum() / 2, weight)
    assert float(gradient.abs().max()) < 1e-2 * float(weight.detach().abs().max())
    assert recipe["C"] in minilm.STRENGTHS


@pytest.fixture(scope="module")
def bert() -> minilm.Sentences:
    transformers = pytest.importorskip("transformers", reason="the extra `language` is not installed")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2}
    body = transformers.BertModel(transformers.BertConfig(vocab_size=30, **sizes), add_pooling_layer=False)
    return minilm.Sentences(body, torch.nn.Linear(16, 3)).eval()


def descriptions(n: int, seed: int) -> Labeled:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 30, (n, 6), generator=generator)
    lengths = torch.randint(2, 7, (n, 1), generator=generator)
    return Labeled(tokens * (torch.arange(6) < lengths), torch.randint(3, (n,), generator=generator))


def test_what_fills_up_is_not_read(bert: minilm.Sentences) -> None:
    x = descriptions(5, 0).inputs
    with torch.no_grad():
        found = bert(x)
        for row, tokens in zip(found, x, strict=True):
            hidden = bert.body(input_ids=tokens[tokens != 0][None]).last_hidden_state[0]
            wanted = bert.head(functional.normalize(hidden.mean(0), dim=0))
            torch.testing.assert_close(row, wanted, rtol=0, atol=1e-6)


def test_rows_of_a_bert_are_those_of_autograd(bert: minilm.Sentences) -> None:
    net, data = Network(bert), descriptions(3, 1)
    assert len(net.weights) == 2 * 6 + 1
    rows = fisher_rows(net, data) * 3**0.5
    for row, wanted in zip(rows, rows_by_autograd(net, data), strict=True):
        torch.testing.assert_close(row, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("method", ["wanda", "woodfisher", "kfac"])
def test_methods_prune_a_bert(bert: minilm.Sentences, method: str) -> None:
    train, test = ((data.inputs, data.labels) for data in (descriptions(30, 2), descriptions(30, 3)))
    task, pruner = Task("descriptions", bert, train=train, test=test), REGISTRY.pruner(method)
    record = run(Case(task, 4, 0, 0, Target(0.5, scope=pruner.scope), pruner, RECOVERIES["none"]))
    assert record.status == "ok", record.reason
    assert record.achieved_sparsity == pytest.approx(0.5, abs=1e-3)
    assert record.dense_loss == evaluate(bert, task.test_set).loss != record.loss


def test_minilm_tells_what_is_registered_of_a_part() -> None:
    """Of every fifteenth description; `wfbench doctor` looks at all of them."""
    pytest.importorskip("transformers", reason="the extra `language` is not installed")
    if not (minilm.MODEL.path.exists() and debian.path().exists()):
        pytest.skip("`wfbench fetch debian-minilm-l6` was not run")
    x, y = (part[::15] for part in minilm.samples()["test"])
    network = minilm.dense()
    with torch.no_grad():
        assert abs(int((network(x).argmax(1) == y).sum()) - 27) <= 1
    tables = ("word", "position", "token_type")
    assert [*Network(network).left_out] == [f"body.embeddings.{name}_embeddings.weight" for name in tables]
