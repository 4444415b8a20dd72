"""The suite for the first person with a card: its cases run on the processor too; without either they are skipped."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as benchmarks
from suites.suite_gpu import SUITE
from tests.cases import REGISTRY
from tests.test_suites import suites
from wfbench.data import Labeled, Unlabeled
from wfbench.recoveries.names import RECOVERIES

CASES = SUITE.cases(REGISTRY)


def test_there_is_a_case_of_each_kind() -> None:
    assert {case.target.pattern.name for case in CASES} == {"unstructured", "n:m", "filter"}
    assert {case.method.licence for case in CASES} == {type(None), Unlabeled, Labeled}
    assert {case.recovery.name for case in CASES} == {name for name in RECOVERIES if not name.endswith("2000")}
    assert {case.method.scope for case in CASES} == {"global", "layer"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_is_skipped_with_a_reason(tmp_path: Path) -> None:
    found = suites("-m", "gpu", "--results", str(tmp_path))
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"{len(CASES) + 1} skipped" in found.stdout
    assert "skipped: -m gpu runs on a CUDA device: torch sees no CUDA device; --device cpu" in found.stdout
    assert not list(tmp_path.iterdir())


def test_its_cases_run_on_the_processor(tmp_path: Path) -> None:
    some = "batchnorm or n:m or thinet or snows or kfac"
    found = suites("-m", "gpu", "--device", "cpu", "-k", some, "--results", str(tmp_path))
    assert found.returncode == 0, found.stdout + found.stderr
    records = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records] == ["ok"] * 9
    assert all(record["environment"]["device"] == "cpu" for record in records)


def test_the_engines_benchmark_runs_on_the_device_it_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks, "P", 4000)
    monkeypatch.setattr(benchmarks, "gemm_rate", lambda device: 1e9)
    benchmarks.engine(torch.device("cpu"), "50", 1)
    assert "Inverse, blocks of 50, p = 4000" in capsys.readouterr().out
    drawn: list[torch.device] = []
    monkeypatch.setattr(benchmarks, "table", lambda title, rows: None)
    monkeypatch.setattr(benchmarks, "interleaved", lambda repeats, device, **actions: drawn.append(device) or TIMES)
    for part in (benchmarks.inverse_at_2000, benchmarks.inverse_at_50, benchmarks.full_matrix):
        part(torch.device("meta"), (4,), 1, 1e9)
    assert drawn == [torch.device("meta")] * 4


TIMES = dict.fromkeys(("ours", "textbook64", "textbook32", "solve", "batched", "gemm", "free"), 1.0)
