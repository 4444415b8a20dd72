"""From a module and samples to a pruned network in use: `wfbench.prune`, `recommend`, comparison, sparse files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import wfbench
from tests.cases import blob_network, blobs
from tests.test_filters import Images, images
from wfbench import Dataset, Network, Unlabeled, WfbenchError
from wfbench.channels.latency import BATCHES
from wfbench.cli import main
from wfbench.deploy import advice, direct
from wfbench.deploy.advice import Trial, ranked
from wfbench.deploy.comparison import NOT_FASTER
from wfbench.deploy.packed import KEY, pack, unpack
from wfbench.export import export_program
from wfbench.harness.reuse import checkpoint_digest
from wfbench.recoveries.names import RECOVERIES

X, Y = blobs(24, 5)
TASK = """
from tests.cases import blob_network, blobs
from wfbench import Task
TASKS = [Task("clouds", blob_network(), train=blobs(24, 5)[0])]
"""


def zeros(module: nn.Module) -> float:
    weights = Network(module).weights.values()
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def logits(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module(x)


SAMPLES: dict[str, Any] = {
    "tensor": X,
    "float64 array": X.double().numpy(),
    "dataset of inputs": TensorDataset(X),
    "our dataset": Dataset(X),
    "unlabelled samples": Unlabeled(X),
    "pair": (X, Y),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_of_every_kind_give_the_same_network(kind: str) -> None:
    dense = blob_network().train()
    before = checkpoint_digest(dense)
    found = wfbench.prune(dense, SAMPLES[kind], 0.5, "magnitude", "repair")
    wanted = wfbench.prune(blob_network(), X, 0.5, "magnitude", "repair")
    assert torch.equal(logits(found, X), logits(wanted, X))
    assert zeros(found) == 0.5
    assert not found.training
    assert all(parameter.requires_grad for parameter in found.parameters())
    assert dense.training
    assert checkpoint_digest(dense) == before


def test_the_network_is_that_of_the_method_and_the_recovery_worked_out_step_by_step() -> None:
    """Same samples in the same order, the method's mask, then its recovery: no flow of the harness between."""
    net, data = Network(blob_network()), wfbench.draw(Dataset(X), len(X), 0)
    target = wfbench.Target(0.5)
    pruned = RECOVERIES["repair"].apply(net, wfbench.discover().pruner("lamp").fit(net, None).prune(target), data)
    found = wfbench.prune(blob_network(), X, 0.5, "lamp", RECOVERIES["repair"])
    assert all(torch.equal(tensor, pruned.state[name]) for name, tensor in found.state_dict().items())


def test_the_defaults_are_those_that_are_documented() -> None:
    asked = [direct.case_of(wfbench.Task("t", blob_network(), train=X), 0.5, of=of) for of in (None, "weights", "macs")]
    names = [(case.method.name, case.recovery.name, case.target.of, case.budget) for case in asked]
    assert names == [("obs-distilled", "none", of, 24) for of in ("weights", "weights", "macs")]
    chosen = direct.case_of(wfbench.Task("t", blob_network(), train=X), 0.5, "filter-l1")
    assert (chosen.recovery.name, chosen.target.of, chosen.target.pattern.name) == ("none", "macs", "filter")
    page = " ".join((Path(__file__).parent.parent / "docs" / "engineer.md").read_text().split())
    assert "The method is `obs-distilled`, for weights and for channels, which recovers by itself" in page


def test_the_default_prunes_weights_and_channels() -> None:
    sparse = wfbench.prune(blob_network(), X, 0.5)
    assert zeros(sparse) == pytest.approx(0.5, abs=1 / 56)
    small = wfbench.prune(blob_network(), X, 0.5, of="macs")
    assert [tuple(w.shape) for w in Network(small).weights.values()] == [(4, 4), (3, 4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "best"}, 'unknown method "best"'),
        ({"recovery": "sleep"}, 'unknown recovery "sleep"'),
        ({"sparsity": 1.5}, r"sparsity 1.5 is outside \[0, 1\)"),
        ({"method": "magnitude", "of": "filters"}, "of filters is for methods that remove whole channels; magnitude"),
        ({"method": "woodfisher"}, "woodfisher needs labels, and samples train has none"),
        ({"samples": DataLoader(TensorDataset(X))}, "samples are a DataLoader; give a tensor or an array of inputs"),
        ({"samples": X[:0]}, "there are no samples"),
        ({"samples": X[:, :3]}, "has no result"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WfbenchError, match=message):
        wfbench.prune(**{"module": blob_network(), "samples": X, "sparsity": 0.5, **change})


def test_a_comparison_counts_what_is_there() -> None:
    dense, x = Images(norms=True).eval(), images(9, 3)[0]
    sparse, small = (wfbench.prune(dense, x, 0.5, method) for method in ("magnitude", "filter-l1"))
    found = wfbench.compare_networks(dense, sparse, x)
    weights = sum(w.numel() for w in Network(dense).weights.values())
    assert (found.weights, found.zeros) == ((weights, weights), (0, round(weights / 2)))
    assert found.params == (sum(p.numel() for p in dense.parameters()),) * 2
    assert [timing["batch"] for timing in found.latency] == list(BATCHES)
    same = float((logits(sparse, x).argmax(1) == logits(dense, x).argmax(1)).double().mean())
    assert found.agreement is not None
    assert (found.agreement.agreement, found.agreement.total) == (same, 9)
    assert NOT_FASTER in str(found)
    assert "agreement on 9 inputs" in str(found)
    fewer = wfbench.compare_networks(dense, small, x)
    assert fewer.params[1] == sum(p.numel() for p in small.parameters()) < fewer.params[0]
    assert fewer.macs[1] <= fewer.macs[0] / 2
    assert NOT_FASTER not in str(fewer)


STATES = {
    "zeros": torch.zeros(3, 5),
    "none": torch.ones(3, 5),
    "some": torch.tensor([[0.0, 1.5, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, -2.0]]),
    "half precision": torch.tensor([0, 0, 0, 0, 0, 0, 0, 1], dtype=torch.bfloat16),
    "float64": torch.tensor([0, 0, 1e-300, 0], dtype=torch.float64),
    "not a number": torch.tensor([0, 0, 0, float("nan")]),
    "counter": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}


def test_packed_tensors_come_back_as_they_were_and_are_never_larger() -> None:
    stored, shapes = pack(STATES)
    assert sum(t.nbytes for t in stored.values()) < sum(t.nbytes for t in STATES.values())
    assert {"none", "counter", "empty"} <= stored.keys()
    assert shapes["some"] == [2, 9]
    assert stored["some.kept"].tolist() == [0b01000000, 0, 0b01000000]  # places 1 and 17
    assert stored["some.values"].tolist() == [1.5, -2.0]
    found = unpack(stored, shapes)
    assert found.keys() == STATES.keys()
    for name, tensor in STATES.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].nan_to_num(3.0), tensor.nan_to_num(3.0))


def test_a_sparse_file_is_really_smaller_and_loads_into_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(4, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 3)).eval()
    pruned = wfbench.prune(dense, X, 0.9, "magnitude")
    wfbench.save_sparse(tmp_path / "sparse", pruned)
    whole = sum(tensor.nbytes for tensor in pruned.state_dict().values())
    assert (tmp_path / "sparse").stat().st_size < whole / 6
    loaded = nn.Sequential(nn.Linear(4, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 3))
    loaded.load_state_dict(wfbench.load_sparse(str(tmp_path / "sparse")))
    assert torch.equal(logits(loaded.eval(), X), logits(pruned, X))
    with pytest.raises(WfbenchError, match="there is no file"):
        wfbench.load_sparse(tmp_path / "nowhere")


def test_a_program_of_torch_export_needs_no_class_of_ours(tmp_path: Path) -> None:
    small = wfbench.prune(blob_network(), X, 0.5, "filter-l1")
    export_program(str(tmp_path / "small.pt2"), small, (4,))
    program = torch.export.load(tmp_path / "small.pt2").module()
    for n in (1, 5):
        torch.testing.assert_close(program(X[:n]), logits(small, X[:n]))
    assert [path.name for path in tmp_path.iterdir()] == ["small.pt2"]


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if float(x.sum()) > 0 else x


def test_a_network_that_torch_export_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(WfbenchError, match=r"Odd cannot be exported by torch\.export: "):
        export_program(tmp_path / "odd.pt2", Odd(), (4,))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = (("random", "none"), ("magnitude", "repair"), ("lamp", "repair"))
    monkeypatch.setattr(advice, "CANDIDATES", {"weights": pairs, "channels": (("filter-l1", "repair"),)})


def test_recommendations_are_scored_on_what_was_held_out(few: None) -> None:
    """One candidate's folds worked out by hand: calibrated on four fifths, scored on the last."""
    said = wfbench.recommend(blob_network(), X, 0.8)
    data = wfbench.draw(Dataset(X), 24, 0).inputs
    scores = []
    for fold in range(5):
        held = list(range(24 * fold // 5, 24 * (fold + 1) // 5))
        rest = [i for i in range(24) if i not in held]
        pruned = wfbench.prune(blob_network(), data[rest], 0.8, "magnitude", "repair")
        right = logits(pruned, data[held]).argmax(1) == logits(blob_network(), data[held]).argmax(1)
        scores.append(float(right.double().mean()))
    found = {(one.method, one.recovery): one for one in said.ranked}["magnitude", "repair"]
    assert found.score == pytest.approx(np.mean(scores))
    half = 2.7764451 * np.std(scores, ddof=1) / np.sqrt(5)  # Student's t, four degrees of freedom
    assert found.low == pytest.approx(max(0, np.mean(scores) - half))
    assert (said.measure, said.samples, said.best) == ("agreement", 24, said.ranked[0])
    assert [one.score for one in said.ranked] == sorted((one.score for one in said.ranked), reverse=True)
    assert f'wfbench.prune(module, samples, 0.8, "{said.best.method}", "{said.best.recovery}")' in str(said)
    assert "agreement [95 %]" in str(said)


def test_labels_only_score_and_dear_methods_are_left_out_where_a_cheap_one_loses_nothing(few: None) -> None:
    said = wfbench.recommend(blob_network(), (X, Y), 0.0)
    assert (said.measure, said.best.method) == ("accuracy", "random")
    assert said.untried == ("magnitude, repair", "lamp, repair")
    assert "not tried, as a cheaper one lost nothing: magnitude, repair, lamp, repair" in str(said)
    channels = wfbench.recommend(blob_network(), X, 0.5, of="macs")
    assert 'of="macs")' in channels.command


def test_the_ranking_by_hand() -> None:
    def trial(name: str, scores: list[float], seconds: float, reason: str = "") -> Trial:
        return Trial(name, "none", "agreement", scores, [1.0] * 5, [seconds] * 5, [1.0] * 5, reason)

    trials = [
        trial("worse", [0.2, 0.3, 0.2, 0.3, 0.2], 1.0),
        trial("dear", [0.9, 0.8, 0.9, 0.8, 0.9], 9.0),
        trial("cheap", [0.9, 0.8, 0.9, 0.8, 0.9], 1.0),
        trial("level", [0.8, 0.9, 0.8, 0.8, 0.9], 1.0),
        trial("broken", [0.9], 1.0, reason="no norm"),
        trial("untried", [], 1.0),
    ]
    said = ranked(trials, 50, 0.9, "weights", lambda best: best.method)
    assert [one.method for one in said.ranked] == ["cheap", "dear", "level", "worse"]
    assert [one.level for one in said.ranked] == [True, True, True, False]
    assert (said.command, said.untried) == ("cheap", ("untried, none",))
    assert [(one.method, one.reason) for one in said.failed] == [("broken", "no norm")]
    assert "failed: no norm" in str(said)
    with pytest.raises(WfbenchError, match=r"no method has a result at 0\.9 of weights: broken: no norm"):
        ranked(trials[4:5], 50, 0.9, "weights", lambda best: best.method)


def test_too_few_samples_to_hold_some_out_are_refused() -> None:
    with pytest.raises(WfbenchError, match="9 samples are too few to hold some out 5 times; give at least 10"):
        wfbench.recommend(blob_network(), X[:9])


def test_every_candidate_is_a_method_that_needs_no_labels_and_reaches_its_pattern() -> None:
    registry = wfbench.discover()
    for kind, of in (("weights", "weights"), ("channels", "macs")):
        for method, recovery in advice.CANDIDATES[kind]:
            task = wfbench.Task("t", blob_network(), train=X)
            assert direct.case_of(task, 0.5, method, recovery, of, registry=registry).track != "labeled"


def test_the_command_recommends_and_what_it_says_runs(
    few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    assert main(["recommend", "clouds", "--budget", "20", "--task-path", "mine.py", "--sparsity", "0.5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["measure"], said["samples"]) == ("agreement", 20)
    assert len(said["ranked"]) + len(said["untried"]) == 3
    assert main(said["command"].split()[1:]) == 0
    shown = capsys.readouterr().out
    assert "agreement with the dense network on inputs not drawn" in shown
    assert "accuracy" not in shown
    assert NOT_FASTER in shown
    assert main(["recommend", "clouds", "--budget", "9", "--task-path", "mine.py"]) == 2


def test_the_command_stores_zeros_as_bits_and_prints_both_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(TASK)
    command = [
        "prune",
        "clouds",
        "--task-path",
        str(tmp_path / "mine.py"),
        "--sparsity",
        "0.9",
        "--method",
        "magnitude",
    ]
    assert main([*command, "--sparse", "--out", str(tmp_path / "sparse"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["measure"], said["budget"], said["accuracy"]) == ("agreement-drawn", 24, None)
    assert said["comparison"]["bytes"] == (tmp_path / "sparse").stat().st_size
    assert said["comparison"]["zeros"] == 50
    with safe_open(tmp_path / "sparse", "pt") as file:
        about = json.loads(file.metadata()[KEY])
    assert (about["format"], about["packed"]) == (2, {"0.weight": [8, 4], "3.weight": [3, 8]})
    assert main([*command, "--out", str(tmp_path / "plain"), "--program", str(tmp_path / "p.pt2")]) == 0
    assert "on the calibration inputs themselves" in capsys.readouterr().out
    ours, theirs = (wfbench.load_pruned(tmp_path / name, blob_network()) for name in ("sparse", "plain"))
    assert torch.equal(logits(ours, X), logits(theirs, X))
    torch.testing.assert_close(torch.export.load(tmp_path / "p.pt2").module()(X), logits(theirs, X))
