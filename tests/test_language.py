"""SmolLM2 on texts: archives of packages, documents split, and a small Llama through the same code."""

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import REGISTRY
from tests.oracles import rows_by_autograd
from tests.test_places import texts
from wfbench import RECOVERIES, Case, Labeled, Network, Target, Task, WfbenchError, fisher_rows, run
from wfbench.published import smollm2
from wfbench.published.packages import Archive
from wfbench.tasks.evaluate import evaluate


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    monkeypatch.setenv("WFBENCH_CACHE", str(tmp_path))
    (tmp_path / "packages").mkdir()
    path = tmp_path / "packages" / "one-1.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one/a.txt", "first")
        archive.writestr("one/b.bin", "second")
    return Archive("one==1", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), "MIT")


def test_files_are_read_from_a_verified_archive(wheel: Archive, tmp_path: Path) -> None:
    assert wheel.read(lambda path: path.suffix == ".txt") == {"one/a.txt": b"first"}
    assert wheel.fetch() == wheel.path  # it is there, so nothing is downloaded
    source = wheel.path.with_name("one-1.tar.gz")
    with tarfile.open(source, "w:gz") as archive:
        for name, text in (("one-1/docs/a.txt", b"first"), ("one-1/a.txt", b"other")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    packed = Archive("one==1", source.name, hashlib.sha256(source.read_bytes()).hexdigest(), "MIT")
    assert packed.read(lambda path: "docs" in path.parts) == {"one-1/docs/a.txt": b"first"}
    assert (wheel.unpack(lambda path: path.name == "b.bin", tmp_path) / "b.bin").read_text() == "second"
    with pytest.raises(WfbenchError, match=r"one-1.whl is damaged \(wrong SHA-256\); delete it and run"):
        replace(wheel, sha256="0" * 64).read(lambda path: True)
    wheel.path.unlink()
    with pytest.raises(WfbenchError, match=r"one-1.whl is missing; run `wfbench fetch` .* or put the file of one==1"):
        wheel.read(lambda path: True)


def test_a_package_that_cannot_be_downloaded_is_named(wheel: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    wheel.path.unlink()
    with pytest.raises(WfbenchError, match=r"one==1 could not be downloaded .*put one-1.whl at .*packages/one-1.whl"):
        wheel.fetch()


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("django-5.2.8/docs/topics/auth.txt", True),
        ("django-5.2.8/docs/index.txt", True),
        ("django-5.2.8/docs/releases/1.0.txt", False),
        ("django-5.2.8/docs/conf.py", False),
        ("django-5.2.8/django/data.txt", False),
    ],
)
def test_documents_are_the_documentation(path: str, read: bool) -> None:
    assert smollm2.is_document(PurePosixPath(path)) is read


def letters(text: str) -> dict[str, list[int]]:
    return {"input_ids": [ord(one) for one in text]}


def test_documents_are_split_and_labels_are_the_next_tokens() -> None:
    documents = {f"{at:02}": "".join(chr(3000 * at + i) for i in range(60 * at)) for at in range(1, 41)}
    found = smollm2.split(documents, letters)
    owners = {name: {int(one) // 3000 for one in x.flatten()} for name, (x, _) in found.items()}
    assert set().union(*owners.values()) == {at for at in range(1, 41) if 60 * at > smollm2.LENGTH}
    assert sum(map(len, owners.values())) == len(set().union(*owners.values()))
    for name, (x, y) in found.items():
        most = smollm2.DOCUMENTS[name][1]
        assert torch.equal(y, x + 1)  # the letters of a document are consecutive
        assert x.shape[1] == smollm2.LENGTH
        for row, owner in zip(x, (x[:, 0] // 3000).tolist(), strict=True):
            assert int((x[:, 0] // 3000 == owner).sum()) == min(most, 60 * owner // (smollm2.LENGTH + 1))
            assert {int(one) // 3000 for one in row} == {owner}


@pytest.fixture(scope="module")
def llama() -> smollm2.NextTokens:
    transformers = pytest.importorskip("transformers", reason="the extra `language` is not installed")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=5, num_hidden_layers=2, tie_word_embeddings=True, **sizes)
    return smollm2.NextTokens(transformers.LlamaModel(config)).eval()


def test_a_llama_gives_the_logits_of_its_own_head(llama: smollm2.NextTokens) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `language` is not installed")
    whole = transformers.LlamaForCausalLM(llama.body.config).eval()
    whole.model = llama.body
    whole.tie_weights()
    tokens = texts(3).inputs
    with torch.no_grad():
        torch.testing.assert_close(llama(tokens).mT, whole(tokens).logits, rtol=0, atol=1e-6)
    net = Network(llama)
    assert list(net.left_out) == ["body.embed_tokens.weight"]
    assert len(net.weights) == 2 * 7


def test_rows_of_a_llama_are_those_of_autograd(llama: smollm2.NextTokens) -> None:
    net, data = Network(llama), texts(3)
    rows = fisher_rows(net, data) * 3**0.5
    for row, wanted in zip(rows, rows_by_autograd(net, data), strict=True):
        torch.testing.assert_close(row, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "lobs", "woodfisher", "kfac"])
def test_methods_prune_a_llama(llama: smollm2.NextTokens, method: str) -> None:
    splits: dict[str, Any] = {name: pair(texts(30, seed)) for name, seed in (("train", 2), ("test", 3))}
    task, pruner = Task("texts", llama, **splits), REGISTRY.pruner(method)
    record = run(Case(task, 4, 0, 0, Target(0.5, scope=pruner.scope), pruner, RECOVERIES["none"]))
    assert record.status == "ok", record.reason
    assert record.achieved_sparsity == pytest.approx(0.5, abs=1e-3)
    assert record.dense_loss == evaluate(llama, task.test_set).loss != record.loss


def pair(data: Labeled) -> tuple[Tensor, Tensor]:
    return data.inputs, data.labels
