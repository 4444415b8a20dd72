"""`wfbench prune`, and the files it writes."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.test_filters import Images, case_of, image_task, images
from wfbench import Network, WfbenchError, load_pruned, run
from wfbench.cli import main
from wfbench.commands.prune import case_of as case_of_options
from wfbench.deploy.packed import KEY
from wfbench.export import PACKED, export_onnx, pruned_network, save
from wfbench.harness.case import Case
from wfbench.harness.plugins import discover
from wfbench.harness.record import fields_of
from wfbench.harness.reuse import checkpoint_digest
from wfbench.recoveries.base import NoRecovery
from wfbench.recoveries.names import RECOVERIES
from wfbench.sparsity import Target
from wfbench.tasks.evaluate import evaluate

TASK = """
from tests.test_filters import image_task

TASKS = [image_task(norms) for norms in (True, False)]
"""

LIAR = """
from wfbench import Pruned, Pruner


class Liar(Pruner[None]):
    name = "liar"

    def fit(self, net, data):
        return self

    def prune(self, target):
        return Pruned({}, {})
"""


@pytest.fixture
def task_path(tmp_path: Path) -> str:
    path = tmp_path / "my_task.py"
    path.write_text(TASK)
    return str(path)


def digits_case(method: str = "filter-l1", replicate: int = 1, recovery: str = "none", of: str | None = None) -> Case:
    options = {"budget": 20, "seed": 0, "of": of, "scope": None, "sparsity": 0.5, "device": "cpu"}
    paths = {"baseline_path": [], "task_path": [], "task": "digits-cnn"}
    chosen = {"method": method, "replicate": replicate, "recovery": recovery}
    return case_of_options(argparse.Namespace(**options, **paths, **chosen))


def logits(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module(x)


def digits_inputs(n: int) -> Tensor:
    return discover().task("digits-cnn").validation_set.take(range(n)).inputs


@pytest.mark.parametrize("method", ["magnitude", "filter-l1"])
@pytest.mark.parametrize("recovery", ["none", "distill-200"])
def test_what_is_saved_is_what_was_scored(method: str, recovery: str, tmp_path: Path) -> None:
    case, path = digits_case(method, recovery=recovery), tmp_path / "small.safetensors"
    outcome = pruned_network(case)
    save(path, outcome.module, outcome.about)
    loaded = load_pruned(path)
    assert not any(layer.training for layer in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    x = digits_inputs(7)
    assert torch.equal(logits(loaded, x), logits(outcome.module, x))
    assert evaluate(loaded, case.task.test_set).accuracy == outcome.record.accuracy
    if method == "filter-l1":
        assert sum(parameter.numel() for parameter in loaded.parameters()) == outcome.record.params
        assert load_file(path)["conv1.conv.weight"].shape[0] < 16
    else:
        weights = Network(loaded).weights.values()
        zero, count = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
        assert zero / count == pytest.approx(0.5, abs=1 / count)


def test_a_case_pruned_for_a_file_has_the_record_of_a_suite() -> None:
    case = digits_case(recovery="batchnorm")
    ours, suites = json.loads(pruned_network(case).record.as_json()), json.loads(run(case).as_json())
    for name in fields_of("time"):
        del ours[name], suites[name]
    assert ours == suites


def test_the_file_says_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    outcome = pruned_network(digits_case(recovery="batchnorm"))
    save(path, outcome.module, outcome.about)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[KEY])
    assert (about["format"], about["task"], about["replicate"], about["method"]) == (1, "digits-cnn", 1, "filter-l1")
    assert (about["budget"], about["seed"], about["recovery"], about["options"]) == (20, 0, "batchnorm", {})
    target = {name: about[name] for name in ("sparsity", "pattern", "scope", "of")}
    assert target == {"sparsity": 0.5, "pattern": "filter", "scope": "global", "of": "macs"}
    assert about["checkpoint"] == checkpoint_digest(discover().task("digits-cnn").dense(1))
    assert about["checkpoint"].startswith(outcome.record.environment["checkpoint"])
    assert sum(map(len, about["removed_channels"].values())) == outcome.record.removed_channels
    assert (about["shape"], about["version"]) == ([1, 8, 8], "0.1.0")
    again = tmp_path / "again.safetensors"
    save(again, outcome.module, outcome.about)
    assert again.read_bytes() == path.read_bytes()


def test_a_network_can_be_loaded_without_gradients(tmp_path: Path) -> None:
    outcome = pruned_network(digits_case())
    save(tmp_path / "small", outcome.module, outcome.about)
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path / "small")(digits_inputs(2)), outcome.module(digits_inputs(2)))


@pytest.mark.parametrize("norms", [True, False])
def test_a_task_of_ones_own_needs_its_network(norms: bool, tmp_path: Path) -> None:
    path, case = tmp_path / "small", case_of(task=image_task(norms))
    outcome = pruned_network(case)
    save(path, outcome.module, outcome.about)
    with pytest.raises(WfbenchError, match=r'of the task "corners-.*", which is not known here; give module='):
        load_pruned(path)
    dense = Images(norms).train()
    before = checkpoint_digest(dense)
    x = images(5, 3)[0]
    assert torch.equal(logits(load_pruned(str(path), dense), x), logits(outcome.module, x))
    assert dense.training
    assert checkpoint_digest(dense) == before


@pytest.mark.parametrize(
    "other", [lambda: Images(False), lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), lambda: nn.Linear(36, 3)]
)
@pytest.mark.parametrize("method", ["magnitude", "filter-l1"])
def test_another_network_than_was_pruned_is_refused(method: str, other: object, tmp_path: Path) -> None:
    case = case_of()
    if method == "magnitude":
        case = Case(image_task(), 20, 0, 0, Target(0.5), discover().pruner(method), NoRecovery())
    outcome = pruned_network(case)
    save(tmp_path / "small", outcome.module, outcome.about)
    assert callable(other)
    with pytest.raises(WfbenchError, match=r"does not fit this .*; give the network that was pruned"):
        load_pruned(tmp_path / "small", other())


def test_files_that_are_none_of_ours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WfbenchError, match=r"there is no file .*nowhere"):
        load_pruned(tmp_path / "nowhere")
    (tmp_path / "text").write_text("weights")
    with pytest.raises(WfbenchError, match="text is no safetensors file, or is damaged"):
        load_pruned(tmp_path / "text")
    tensors, whole = {"weight": torch.zeros(2)}, {"task": "t", "replicate": 0, "shape": [2], "removed_channels": {}}
    for metadata in (None, {"made": "elsewhere"}, {KEY: "{"}, {KEY: "[]"}, {KEY: json.dumps(whole)}):
        save_file(tensors, tmp_path / "other", metadata=metadata)
        with pytest.raises(WfbenchError, match="other was not saved by `wfbench prune`"):
            load_pruned(tmp_path / "other")
    save_file(tensors, tmp_path / "later", metadata={KEY: json.dumps({**whole, "format": PACKED + 1})})
    with pytest.raises(WfbenchError, match="later has format 3, this wfbench reads 2"):
        load_pruned(tmp_path / "later")
    with pytest.raises(WfbenchError, match="is a folder; name a file"):
        save(tmp_path, nn.Linear(2, 2), {})


@pytest.mark.parametrize("method", ["magnitude", "filter-l1"])
def test_onnx_gives_the_same_logits_for_any_batch(method: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    outcome = pruned_network(digits_case(method))
    path = tmp_path / "small.onnx"
    export_onnx(path, outcome.module, (1, 8, 8))
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for n in (1, 2, 9):
        x = digits_inputs(n)
        (found,) = session.run(["logits"], {"input": x.numpy()})
        wanted = logits(outcome.module, x)
        assert found.shape == (n, 10)
        assert float((torch.from_numpy(found) - wanted).abs().max() / wanted.abs().max()) < 1e-4


def test_onnx_says_which_packages_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("wfbench.export.find_spec", lambda name: None if name == "onnxscript" else SimpleNamespace())
    with pytest.raises(WfbenchError, match=r'onnxscript missing, needed for ONNX; pip install "wfbench\[onnx\]"'):
        export_onnx(tmp_path / "small.onnx", nn.Linear(2, 2), (2,))
    assert main([*arguments(tmp_path), "--onnx", str(tmp_path / "small.onnx")]) == 2
    assert not list(tmp_path.iterdir())


def test_a_network_that_onnx_cannot_express_is_named(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if float(x.sum()) > 0 else x

    with pytest.raises(WfbenchError, match="Odd cannot be exported to ONNX: "):
        export_onnx(tmp_path / "odd.onnx", Odd(), (2,))


def arguments(folder: Path, **changed: str) -> list[str]:
    chosen = {"method": "filter-l1", "sparsity": "0.5", "budget": "20", "out": str(folder / "small"), **changed}
    return ["prune", chosen.pop("task", "digits-cnn"), *(part for k, v in chosen.items() for part in (f"--{k}", v))]


def test_the_command_prints_a_table_and_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    assert main([*arguments(tmp_path), "--onnx", str(tmp_path / "small.onnx")]) == 0
    shown = capsys.readouterr().out
    rows = {line[:23].strip(): line[23:].split() for line in shown.splitlines()}
    assert rows["accuracy"][0] == "98.99"
    assert rows["parameters"][0] == "9,978"
    assert rows["MACs"][0] == "309,248"
    assert int(rows["MACs"][1].replace(",", "")) <= 309_248 / 2
    assert {"sparsity of macs", "latency [ms], batch 1"} <= rows.keys()
    assert "no samples used" in shown
    assert str(tmp_path / "small.onnx") in shown
    assert {path.name for path in tmp_path.iterdir()} == {"small", "small.onnx"}
    assert not load_pruned(tmp_path / "small").training


def test_the_command_prints_the_record_as_json(task_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(task_path).parent
    command = arguments(folder, task="corners-plain", method="wanda", recovery="distill-200", scope="layer", seed="3")
    assert main([*command, "--task-path", task_path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["task"], found["method"], found["of"], found["pattern"]) == (
        "corners-plain",
        "wanda",
        "weights",
        "unstructured",
    )
    assert (found["scope"], found["seed"], found["n_inputs"], found["n_labels"]) == ("layer", 3, 20, 0)
    assert (found["status"], found["files"]) == ("ok", [str(folder / "small")])
    assert (
        evaluate(load_pruned(folder / "small", Images(False)), image_task(False).test_set).accuracy
        == (found["accuracy"])
    )


def test_what_a_sparsity_counts_follows_the_method() -> None:
    assert digits_case("magnitude").target.of == "weights"
    assert digits_case("filter-l1").target.of == "macs"
    of_macs = digits_case("magnitude", of="macs").target
    assert (of_macs.of, of_macs.pattern.name) == ("macs", "unstructured")
    assert digits_case("staged-obs-filter", of="macs").target.pattern.name == "filter"
    assert digits_case("wanda").target.scope == discover().pruner("wanda").scope
    assert digits_case("filter-l1", recovery="repair").recovery is RECOVERIES["repair"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"out": "/nowhere/small"}, "there is no folder /nowhere for small; make it, or choose another"),
        ({"onnx": "/nowhere/small.onnx"}, "there is no folder /nowhere"),
        ({"method": "magnitude", "of": "filters"}, "of filters is for methods that remove whole channels; magnitude"),
        ({"of": "weights"}, "of weights is for methods that remove single weights; filter-l1 reaches filter"),
        ({"sparsity": "1.5"}, "sparsity 1.5 is outside [0, 1)"),
        ({"sparsity": "0.999"}, "sparsity 0.999 of macs cannot be met"),
        ({"budget": "100000"}, "budget 100000 is more than the 1200 training samples"),
        ({"budget": "0"}, "budget 0 is not a number of samples"),
        ({"replicate": "9"}, "digits-cnn has checkpoints 0 to 2, not 9"),
        ({"task": "mnist"}, 'unknown task "mnist"; `wfbench list` shows what there is'),
        ({"method": "best"}, 'unknown method "best"'),
        ({"device": "abacus"}, 'device "abacus" cannot be used here'),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    changed: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, **changed)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_folder_is_tried_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("wfbench.writing.TemporaryFile", refused)
    monkeypatch.setattr("wfbench.commands.prune.pruned_network", pytest.fail)
    assert main(arguments(tmp_path)) == 2
    assert f"nothing can be written to {tmp_path} (Permission denied)" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*arguments(tmp_path), "--onnx", str(tmp_path / "small")]) == 2
    assert "two of them are one file; give each a file of its own" in capsys.readouterr().err


def test_a_broken_rule_saves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "liar.py"
    path.write_text(LIAR)
    command = [*arguments(tmp_path, method="liar"), "--baseline-path", str(path)]
    assert main(command) == 2
    assert "a rule of the benchmark is broken, nothing is saved: liar returned no state" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


def test_prune_has_help_and_needs_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["prune", "--help"])
    assert stopped.value.code == 0
    assert "whole channels are taken out" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["prune", "digits-cnn", "--method", "magnitude", "--sparsity", "0.5"])
    assert stopped.value.code == 2
    assert "--out" in capsys.readouterr().err
