"""Tables against numbers worked out by hand; the same bytes from the same records (rule 16)."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from wfbench import figures, tables


def record(seed: int, accuracy: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "suite": "s", "task": "t", "method": "m", "track": "labeled", "budget": 16, "seed": seed, "replicate": 0,
        "sparsity": 0.5, "pattern": "unstructured", "scope": "global", "recovery": "none", "accuracy": accuracy,
        "dense_accuracy": 0.9, "status": "failed" if accuracy is None else "ok", "magnitude_overlap": 0.9,
        "reason": None, "key": f"{seed}{changes}", **changes,
    }  # fmt: skip


def test_mean_and_student_interval() -> None:
    (row,) = tables.summarise([record(0, 0.6), record(1, 0.7), record(2, 0.8)]).to_dict("records")
    assert row["accuracy"] == pytest.approx(0.7)
    assert row["half_width"] == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # t, two degrees of freedom
    assert (row["draws"], row["failed"]) == (3, 0)


def test_half_width_equals_scipys_interval() -> None:
    values = np.array([0.2, 0.5, 0.55, 0.9])
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert tables.half_width(values) == pytest.approx((high - low) / 2)
    assert math.isnan(tables.half_width(values[:1]))


def test_failures_are_shown_and_do_not_count_in_the_mean() -> None:
    records = [record(0, 0.6), record(1, None), record(0, None, method="n"), record(0, 0.5, method="one")]
    summary = tables.summarise(records).set_index("method")
    assert summary.loc["m", "accuracy"] == pytest.approx(0.6)
    assert summary.loc["m", "failed"] == 1
    text = tables.markdown("s", tables.summarise(records))
    assert "60.0 (1 failed)" in text
    assert "failed (1)" in text
    assert "| 50.0 " in text


def test_masks_that_are_magnitudes_are_marked() -> None:
    records = [record(seed, 0.6, magnitude_overlap=0.985) for seed in range(2)]
    assert "60.0 ± 0.0 ≈" in tables.markdown("s", tables.summarise(records))
    records = [record(seed, 0.6, magnitude_overlap=1.0, method="magnitude") for seed in range(2)]
    assert "≈ |" not in tables.markdown("s", tables.summarise(records))


def test_the_same_records_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    records = [
        record(seed, 0.1 * seed + 0.05 * len(method), method=method, sparsity=sparsity, budget=budget)
        for seed in range(3)
        for method in ("a", "bb")
        for sparsity in (0.5, 0.9)
        for budget in (4, 16)
    ]
    outputs = []
    for number, ordered in enumerate((records, records[::-1], records)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "s.jsonl").write_text("".join(json.dumps(one) + "\n" for one in ordered))
        outputs.append([(path.name, path.read_bytes()) for path in tables.write_all(folder)])
    assert outputs[0] == outputs[1] == outputs[2]
    assert [name for name, _ in outputs[0]] == ["s.md", "s.csv", "s.tex", "s.svg"]


def test_the_figure_shows_every_method_and_sparsity() -> None:
    records = [
        record(seed, 0.6 + 0.1 * seed, method=method, budget=budget, sparsity=sparsity)
        for seed in range(2)
        for method in ("a", "bb")
        for budget in (4, 16)
        for sparsity in (0.5, 0.9)
    ]
    figure = figures.budgets(tables.summarise(records))
    assert [axis.get_title() for axis in figure.axes] == ["50 % of weights removed", "90 % of weights removed"]
    for axis in figure.axes:
        lines = {container.get_label(): container[0].get_ydata().tolist() for container in axis.containers}
        assert lines == {"a": pytest.approx([65, 65]), "bb": pytest.approx([65, 65])}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "bb"]


def test_latex_has_booktabs_rules_and_escapes() -> None:
    text = tables.latex("s", tables.summarise([record(0, 0.6, method="a_b&c"), record(1, 0.7, method="a_b&c")]))
    for part in ("\\toprule", "\\midrule", "\\bottomrule", "a\\_b\\&c", "$\\pm$", "50 \\%"):
        assert part in text
    assert "\\hline" not in text


def test_no_records_is_an_empty_table_and_not_a_crash() -> None:
    assert tables.plain(tables.summarise([])) == "no records"
