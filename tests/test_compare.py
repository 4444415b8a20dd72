"""Two result sets side by side."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.test_tables import many, record
from wfbench import WfbenchError
from wfbench.cli import main
from wfbench.report.compare import compare


def folder(path: Path, records: list[dict[str, Any]]) -> Path:
    path.mkdir()
    (path / "s.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def changed(records: list[dict[str, Any]], method: str, by: float) -> list[dict[str, Any]]:
    return [
        {**one, "accuracy": one["accuracy"] + by * (1 + 0.1 * one["seed"])}
        if one["method"] == method and one["accuracy"] is not None
        else one
        for one in records
    ]


def test_the_same_results_differ_in_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = folder(tmp_path / "a", many()), folder(tmp_path / "b", many()[::-1])
    found = compare(a, b)
    assert (found.pairs, found.identical, found.only_in_a, found.only_in_b) == (144, 144, 0, 0)
    assert not found.changes["significant"].any()
    assert main(["compare", str(a), str(b)]) == 0
    assert "144 cases in both, 144 of them with the same accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(("by", "status"), [(-0.05, 1), (0.05, 0)])
def test_a_significant_change_comes_first_and_a_worse_one_is_exit_1(by: float, status: int, tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", many()), folder(tmp_path / "b", changed(many(), "bb", by))
    first = compare(a, b).changes.iloc[0]
    assert (first["method"], bool(first["significant"])) == ("bb", True)
    assert first["difference"] == pytest.approx(1.1 * by)
    assert first["pairs"] == 12
    assert main(["compare", str(a), str(b)]) == status


def one_group(method: str, accuracies: list[float], **more: Any) -> list[dict[str, Any]]:
    return [record(seed, accuracy, method=method, environment={}, **more) for seed, accuracy in enumerate(accuracies)]


def test_significance_and_interval_are_one_statement_by_hand(tmp_path: Path) -> None:
    """Three groups: 7 pairs are needed at first; `down` goes by Holm's third of 5 %, and leaves half of 5 % to each."""
    base = {"down": [0.5] * 8, "mixed": [0.5] * 8, "few": [0.5] * 5, "same": [0.5] * 8}
    after = {
        "down": [0.4, 0.41, 0.42, 0.43, 0.44, 0.45, 0.46, 0.47],
        "mixed": [0.49, 0.49, 0.49, 0.49, 0.49, 0.49, 0.49, 0.59],
        "few": [0.4, 0.4, 0.4, 0.4, 0.4],
        "same": [0.5] * 8,
    }
    a, b = (
        folder(tmp_path / name, [one for method in base for one in one_group(method, sets[method])])
        for name, sets in (("a", base), ("b", after))
    )
    found = compare(a, b).changes.set_index("method")
    assert found.index.tolist() == ["down", "few", "mixed", "same"]
    down, few, mixed, same = (found.loc[name] for name in found.index)
    assert down["holm_p"] == pytest.approx(3 * 2 / 256)
    assert down["difference"] == pytest.approx(-0.065)
    # 2.5 % of 256, a half on each side: the third mean from outside, after -0.1 and -0.095, and after -0.03 and -0.035
    assert (down["low"], down["high"]) == pytest.approx((-0.09, -0.04))
    assert down["significant"]
    assert (few["pairs"], few["changed"], few["needed"]) == (5, 5, 7)
    assert math.isnan(few["low"])
    assert not few["significant"]
    assert mixed["low"] < 0 < mixed["high"]
    assert not mixed["significant"]
    assert (same["changed"], same["holm_p"], same["low"], same["high"]) == (0, 1, 0, 0)


def test_options_that_differ_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {"damping": 1e-3, "inner": {"steps": 3, "is": "X"}}
    new = {"damping": 1e-5, "inner": {"steps": 3, "is": "X"}, "order": "one"}
    a = folder(tmp_path / "a", one_group("m", [0.5, 0.6], options=old) + one_group("n", [0.5], options=old))
    b = folder(
        tmp_path / "b",
        one_group("m", [0.5, 0.6], options=new, recovery_options={"steps": 9}) + one_group("n", [0.5], options=old),
    )
    assert compare(a, b).options == (
        "m: damping is 0.001 in A, 1e-05 in B",
        'm: order is not said in A, "one" in B',
        "none: steps is not said in A, 9, not said in B",
    )
    assert compare(a, a).options == ()
    assert main(["compare", str(a), str(b)]) == 0
    assert "options differ: m: damping is 0.001 in A, 1e-05 in B" in capsys.readouterr().err


def test_two_pairs_are_never_significant(tmp_path: Path) -> None:
    records = [one for one in many(draws=2) if one["budget"] == 16 and one["sparsity"] == 0.5]
    a, b = folder(tmp_path / "a", records), folder(tmp_path / "b", changed(records, "bb", -0.4))
    assert not compare(a, b).changes["significant"].any()


def test_failures_score_nothing_and_cases_of_one_side_are_counted(tmp_path: Path) -> None:
    failed = [{**one, "accuracy": None, "status": "failed"} if one["method"] == "bb" else one for one in many()]
    a, b = folder(tmp_path / "a", many()), folder(tmp_path / "b", failed[:-5])
    found = compare(a, b)
    assert (found.only_in_a, found.only_in_b) == (5, 0)
    worst = found.changes.iloc[0]
    assert (worst["method"], worst["failed_a"], worst["failed_b"]) == ("bb", 0, 12)


def test_other_machines_and_versions_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [{**one, "environment": {**one["environment"], "torch": "2.14.1"}} for one in many()]
    a, b = folder(tmp_path / "a", many()), folder(tmp_path / "b", other)
    assert main(["compare", str(a), str(b), "--json"]) == 0
    shown = capsys.readouterr()
    assert "torch differs: 2.15.0 in A, 2.14.1 in B" in shown.err
    assert json.loads(shown.out) == []


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", many())
    with pytest.raises(WfbenchError, match="no records"):
        compare(a, tmp_path / "nowhere")
    b = folder(tmp_path / "b", [{**one, "budget": 5} for one in many()])
    with pytest.raises(WfbenchError, match="no case in common"):
        compare(a, b)
