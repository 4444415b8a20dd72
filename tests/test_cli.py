"""The program: what it prints, and how it refuses."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import case_of
from wfbench import run
from wfbench.cli import main
from wfbench.tasks import checkpoints


def test_list_names_methods_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    methods = {entry["name"]: entry for entry in found["methods"]}
    assert methods["woodfisher"]["licence"] == "labeled"
    assert methods["woodfisher-unlabeled"]["licence"] == "unlabeled"
    assert methods["magnitude"]["licence"] == "data-free"
    assert methods["magnitude-layer"]["scope"] == "layer"
    baselines = "magnitude magnitude-layer lamp random lobs lobs-global kfac kfac-sampled kfac-exact diag-fisher obd"
    later = "obd-hessian obc sparsegpt wanda chita snows taylor snip mfac obert"
    assert {*baselines.split(), *later.split()} <= methods.keys()
    for entry in methods.values():
        assert entry["patterns"] in (["unstructured"], ["unstructured", "n:m"], ["unstructured", "filter"], ["filter"])
        assert entry["licence"] in ("labeled", "unlabeled", "data-free")
        assert entry["source"]
        assert entry["fidelity"]
    assert next(task["name"] for task in found["tasks"]) == "digits-cnn"
    assert main(["list"]) == 0
    assert "woodfisher" in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m wfbench list | head -1"
    found = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stderr) == (0, "")


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "check", "fetch", "train", "tables", "report", "compare", "doctor", "plan"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert "usage: wfbench" in capsys.readouterr().out


def test_tables_regenerates_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.jsonl").write_text(run(case_of("magnitude")).as_json() + "\n")
    assert main(["tables", "--results", str(tmp_path)]) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
    assert {"README.md", "mine.md", "mine.csv"} <= set(first)
    assert main(["tables", "--results", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()} == first
    assert str(tmp_path / "tables" / "mine.md") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tables", "--results", "/nowhere"], "no record files (*.jsonl) in /nowhere; run a suite first"),
        (["fetch", "mnist"], 'unknown task "mnist"; `wfbench list` shows what there is'),
        (["list", "--task-path", "/nowhere"], "neither a Python file nor a folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_fetch_says_where_things_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "digits-cnn"]) == 0
    assert f"3 verified checkpoint(s) in {checkpoints.FOLDER}" in capsys.readouterr().out


def test_train_writes_a_registered_checkpoint_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "digits-cnn", "--seed", "7", "--out", str(tmp_path)]) == 0
    (entry,) = checkpoints.registry(tmp_path)["digits-cnn"]
    assert (entry.seed, entry.file) == (7, "digits-cnn-7.safetensors")
    assert entry.recipe["epochs"] == 60
    assert entry.accuracy >= 0.97
    from wfbench.tasks.models import digits_cnn

    assert not checkpoints.load(digits_cnn, entry, tmp_path).training
    assert "test 0.9" in capsys.readouterr().out


def test_doctor_passes_and_points_at_a_bad_record_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the embedded task alone; rule 7 is of all."""
    monkeypatch.setattr("wfbench.tasks.fashion.TASKS", ())
    (tmp_path / "smoke.jsonl").write_text('{"half":')
    assert main(["doctor", "--json", "--results", str(tmp_path)]) == 1
    checks = {entry["check"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert checks["dense accuracy of digits-cnn, checkpoint 2"]["ok"]
    wrong = checks[f"records in {tmp_path / 'smoke.jsonl'}"]
    assert [entry for entry in checks.values() if not entry["ok"]] == [wrong]
    assert "line 1 is cut short" in wrong["found"]


def test_the_module_is_the_program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["wfbench", "tables", "--results", "/nowhere"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("wfbench", run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("wfbench: no record files")
