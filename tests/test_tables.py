"""Tables against numbers worked out by hand; the same bytes from the same records (rule 16)."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from wfbench import load_results
from wfbench.cli import main
from wfbench.output import figures
from wfbench.output import files as pages
from wfbench.report import frames, summary
from wfbench.report import html as report
from wfbench.report import literature as reported


def record(seed: int, accuracy: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "suite": "s", "task": "t", "method": "m", "track": "labeled", "budget": 16, "seed": seed, "replicate": 0,
        "sparsity": 0.5, "pattern": "unstructured", "scope": "global", "recovery": "none", "accuracy": accuracy,
        "dense_accuracy": 0.9, "status": "failed" if accuracy is None else "ok", "magnitude_overlap": 0.9,
        "reason": None, "key": f"{seed}{changes}", **changes,
    }  # fmt: skip


def cells(records: list[dict[str, Any]]) -> pd.DataFrame:
    return summary.cells(frames.frame_of(records))


def text_of(records: list[dict[str, Any]], page: str = "") -> str:
    return pages.render("s", records)[f"tables/s{page}.md"].decode()


def test_mean_and_student_interval() -> None:
    (row,) = cells([record(0, 0.6), record(1, 0.7), record(2, 0.8)]).to_dict("records")
    assert row["accuracy"] == pytest.approx(0.7)
    assert row["half_width"] == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # t, two degrees of freedom
    assert (row["draws"], row["failed"]) == (3, 0)


def test_rule_13_failures_are_shown_and_do_not_count_in_the_mean() -> None:
    records = [record(0, 0.6), record(1, None), record(0, None, method="n"), record(0, 0.5, method="one")]
    found = cells(records).set_index("method")
    assert found.loc["m", "accuracy"] == pytest.approx(0.6)
    assert found.loc["m", "failed"] == 1
    text = text_of(records)
    assert "60.0 (1 failed)" in text
    assert "failed (1)" in text
    assert "| 50.0 " in text
    reasons = text_of([record(0, None, reason="fit: it broke"), record(1, None, reason="fit: it broke")], "-failures")
    assert "fit: it broke" in reasons
    assert "| 2 " in reasons


def test_the_standard_error_of_scores_is_said_of_tasks_whose_records_say_how_many_samples_were_scored() -> None:
    old, few = [record(0, 0.6)], [record(0, 0.5, task="u", scored=744), record(1, None, task="u")]
    assert "Standard error" not in text_of(old)
    said = text_of(old + few)
    assert "in points, at most 1.8 on u (744 scored)." in said  # √(0.5 · 0.5 / 744) is 0.01833
    assert "on t (" not in said


def dense_under(recovery: str, accuracies: tuple[float, ...], **changes: Any) -> list[dict[str, Any]]:
    """The dense network's records: nothing is taken away, whatever the method's name."""
    cases = {"method": "magnitude", "track": "data-free", "sparsity": 0.0, "recovery": recovery, **changes}
    return [record(seed, accuracy, **cases) for seed, accuracy in enumerate(accuracies)]


def test_the_dense_network_under_a_recovery_is_a_row_beside_the_methods_and_no_method() -> None:
    pruned = [record(seed, 0.6, recovery=recovery) for seed in range(3) for recovery in ("none", "batchnorm", "repair")]
    odd = [record(seed, 0.5, recovery="repair", draw="k-shot") for seed in range(3)]
    records = [*pruned, *odd, *dense_under("batchnorm", (0.7, 0.8, 0.9)), *dense_under("repair", (0.95,) * 3)]
    text = text_of(records)
    assert "(dense network): the dense one under the same recovery with the same samples." in text
    assert "(dense network)" not in text_of(pruned)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    assert rows.count(["(dense network)", "", "batchnorm", "80.0 ± 24.8"]) == 1  # 4.302653 · 10 / √3
    assert rows.count(["(dense network)", "", "repair", "95.0 ± 0.0"]) == 1  # of the usual draws, not of the others
    assert sum(row[0] == "(dense network)" for row in rows) == 2
    assert not any(row[0].startswith("magnitude") for row in rows)
    names = [row[:3:2] for row in rows if row[2] in ("batchnorm", "repair")]
    assert names[:2] == [["(dense network)", "batchnorm"], ["m", "batchnorm"]]
    fewer = [record(0, 0.6, recovery="batchnorm", method="a")]
    assert "80.0 ± 24.8" in text_of([*records, *fewer])  # over all draws, though the first method has one
    frame = frames.frame_of(records)
    assert len(frame) == len(pruned) + len(odd)
    levels = frame[frame["draw"] == "random"].groupby("recovery")["reference"].mean().to_dict()
    assert levels == pytest.approx({"none": 0.9, "batchnorm": 0.8, "repair": 0.95})
    alone = frames.frame_of(dense_under("repair", (0.95,) * 3))
    assert alone["accuracy"].tolist() == [0.95] * 3  # where nothing else was run they are shown as they are


def test_masks_that_are_magnitudes_are_marked() -> None:
    assert "60.0 ± 0.0 ≈" in text_of([record(seed, 0.6, magnitude_overlap=0.985) for seed in range(3)])
    assert "≈ |" not in text_of([record(seed, 0.6, magnitude_overlap=1.0, method="magnitude") for seed in range(2)])


def many(methods: tuple[str, ...] = ("magnitude", "bb", "ccc"), draws: int = 3) -> list[dict[str, Any]]:
    return [
        record(
            seed,
            None if (method, seed, budget) == ("ccc", 1, 4) else 0.3 + 0.02 * seed + 0.05 * len(method) + 0.02 * budget,
            method=method, sparsity=sparsity, budget=budget, task=task, recovery=recovery,
            environment={"torch": "2.15.0", "machine": "a machine", "threads": 1},
        )
        for task in ("t", "u")
        for seed in range(draws)
        for method in methods
        for sparsity in (0.5, 0.9)
        for budget in (4, 16)
        for recovery in ("none", "batchnorm")
    ]  # fmt: skip


def test_rule_16_the_same_records_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    records = many()
    outputs = []
    for number, ordered in enumerate((records, records[::-1], records)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "s.jsonl").write_text("".join(json.dumps(one) + "\n" for one in ordered))
        outputs.append([(path.name, path.read_bytes()) for path in pages.write_all(folder)])
    assert outputs[0] == outputs[1] == outputs[2]
    names = {"", "-budgets", "-recoveries", "-overall", "-leaders", "-samples", "-failures"}
    assert {name for name, _ in outputs[0]} == {
        *(f"s{page}.md" for page in names), "README.md", "s.csv", "s.svg", "s-profiles.svg",
    }  # fmt: skip


def test_check_catches_one_edited_character_a_missing_and_a_left_over_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(one) + "\n" for one in many()))
    command = ["tables", "--results", str(tmp_path)]
    assert main(command) == 0
    assert main([*command, "--check"]) == 0
    capsys.readouterr()
    made = {path: path.read_bytes() for name in ("tables", "figures") for path in (tmp_path / name).iterdir()}
    for path, content in made.items():
        path.write_bytes(content[:-2] + b"?" + content[-1:])
        assert path.read_bytes() != content, path
    assert main([*command, "--check"]) == 1
    shown = capsys.readouterr().out
    for path, content in made.items():
        assert f"{path.name} is not what the records give" in shown
        path.write_bytes(content)
    (tmp_path / "tables" / "s.md").write_bytes(made[tmp_path / "tables" / "s.md"][:-1])
    (tmp_path / "tables" / "old.md").write_text("old")
    (tmp_path / "tables" / "s.csv").unlink()
    assert main([*command, "--check"]) == 1
    shown = capsys.readouterr().out
    assert shown.count("is not what the records give") == 1
    assert "tables/old.md comes from no record file; delete it" in shown
    assert "tables/s.csv is missing" in shown


def test_the_index_says_which_page_answers_which_question(tmp_path: Path) -> None:
    """Of two suites whose names overlap: `a-labels` is a suite, and no page of `a`."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in many()))
    ways = [{**one, **way} for one in many(draws=2) for way in ({}, {"draw": "k-shot"})]
    (tmp_path / "a-labels.jsonl").write_text("".join(json.dumps(one) + "\n" for one in ways))
    pages.write_all(tmp_path)
    text = (tmp_path / "tables" / "README.md").read_text()
    links = re.findall(r"\]\(([^)]*)\)", text)
    there = [path.name for path in (tmp_path / "tables").iterdir() if path.name != "README.md"]
    assert sorted(links) == sorted(there)  # every page and every CSV once
    lines = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines() if "|" in line}
    assert lines["What do other ways to draw samples, and wrong labels, change?"] == "[a-labels](a-labels-labels.md)"
    assert "| [a](a.csv) " in text
    assert "t, u" in text
    assert "4, 16" in text
    one = pages.write(tmp_path, "a", many())
    assert (tmp_path / "tables" / "README.md") in one
    assert (tmp_path / "tables" / "README.md").read_text() == text


def test_reported_figures_stand_beside_ours_and_say_so() -> None:
    records = [record(seed, 0.7 + 0.02 * seed, task="imagenet-resnet50[2000]", sparsity=0.8) for seed in range(3)]
    first, one_shot = text_of(records, "-reported").split("## ")[1:]
    reported = {line.split("|")[1].strip(): line for line in first.splitlines() if "reported, not measured" in line}
    assert reported.keys() == {"WoodFisher", "magnitude, global"}
    assert "76.7" in reported["WoodFisher"]  # Singh & Alistarh 2020, table of gradual pruning at 80 %
    assert "75.3" in reported["WoodFisher"]
    (ours,) = (line for line in first.splitlines() if "16 samples, none, global" in line)
    assert "72.0 ± 5.0" in ours
    assert "reported" not in ours
    assert "github.com/IST-DASLab/WoodFisher" in first
    assert "L-OBS" in one_shot  # top-5, which is not measured here
    assert "16 samples" not in one_shot
    assert "tables/s-reported.md" not in pages.render("s", many())


def test_every_reported_figure_is_an_accuracy_below_the_dense_one_with_a_source() -> None:
    found = reported.figures()
    assert ((found["sparsity"] > 0) & (found["sparsity"] < 1)).all()
    assert ((found["accuracy"] > 40) & (found["accuracy"] < found["dense"] + 0.2)).all()
    assert found["file"].str.fullmatch(r"plotmaker/[a-z0-9_]+\.py").all()
    assert not found.duplicated(["task", "method", "schedule", "metric", "sparsity"]).any()


def test_pivots_by_budget_and_recovery_hold_the_same_cells() -> None:
    records = many()
    budgets = text_of(records, "-budgets")
    assert "## t, 50 % removed (dense 90.00 %)" in budgets
    assert "| 4 samples" in budgets
    (line,) = {line for line in budgets.splitlines() if line.startswith("| bb") and "none" in line}
    assert [cell.strip() for cell in line.split("|")[4:6]] == ["50.0 ± 5.0", "74.0 ± 5.0"]
    recoveries = text_of(records, "-recoveries")
    assert "## t, 4 samples, 50 % removed" in recoveries
    (line,) = {line for line in recoveries.splitlines() if line.startswith("| bb") and "50.0" in line}
    assert [cell.strip() for cell in line.split("|")[2:4]] == ["50.0 ± 5.0", "50.0 ± 5.0"]


def test_across_tasks_ranks_failures_last_and_says_where_significance_is_out_of_reach() -> None:
    overall = summary.overall(frames.frame_of(many()))
    cell = overall[(overall["budget"] == 4) & (overall["recovery"] == "none") & (overall["sparsity"] == 0.5)]
    ranks = dict(zip(cell["method"], cell["rank"], strict=True))
    # four blocks without a failure: magnitude, ccc, bb; two where ccc failed: magnitude, bb, ccc
    assert ranks == pytest.approx({"magnitude": 1, "bb": (4 * 3 + 2 * 2) / 6, "ccc": (4 * 2 + 2 * 3) / 6})
    assert cell[cell["method"] == "ccc"]["failed"].item() == 2
    text = text_of(many(), "-overall")
    assert "out of reach (6 pairs, 7 needed)" in text
    assert "6 blocks (task × draw) of 2 tasks (t, u)" in text
    assert "out of reach" not in text_of(many(draws=6), "-overall")


def test_methods_that_lack_a_task_are_left_out_and_named_and_no_task_is() -> None:
    """Three methods have t, u and v; "few" has two draws of t, "alone" a task of its own."""
    has = {"magnitude": "tuv", "bb": "tuv", "few": "tuv", "ccc": "tu", "dd": "tu", "one": "t", "alone": "x"}
    records = [
        record(seed, 0.5 + 0.01 * len(method) + 0.1 * "tuvx".index(task), method=method, task=task)
        for method, tasks in has.items()
        for task in tasks
        for seed in range(2 if (method, task) == ("few", "t") else 3)
    ]
    text = text_of(records, "-overall")
    (note,) = (line for line in text.splitlines() if line.startswith("8 blocks"))
    assert note.startswith(
        "8 blocks (task × draw) of 3 tasks (t 2 of 3 draws, u, v) that all 3 methods have; "
        "left out for want of t, u, v: alone; left out for want of u, v: one; left out for want of v: ccc, dd; "
        "not averaged, as no method has it and the rest: x. Friedman"
    )
    rows = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in text.splitlines() if line[:2] == "| "}
    assert rows.keys() == {"method", "magnitude", "bb", "few"}
    assert rows["bb"].startswith("62.0")  # the mean of 0.52, 0.62, 0.72
    found = summary.differences(frames.frame_of(records)).set_index("method")["pairs"]
    assert found.to_dict() == {"bb": 8, "few": 8}


def test_of_two_sets_of_tasks_that_are_as_large_the_one_of_more_methods_is_in() -> None:
    has = {"a": "tu", "b": "uv", "c": "uv", "d": "tu", "e": "uv"}
    records = [
        record(s, 0.5, method=name, task=task) for name, tasks in has.items() for task in tasks for s in range(3)
    ]
    (block,) = summary.blocks(frames.frame_of(records))
    assert [*block.wide.columns] == ["b", "c", "e"]
    assert block.draws == {"u": (3, 3), "v": (3, 3)}
    assert (block.lacking, block.apart) == ({"a": ("v",), "d": ("v",)}, ("t",))


def test_differences_are_paired_by_task_and_draw() -> None:
    for draws, needed in ((4, 7), (3, 7)):
        found = summary.differences(frames.frame_of(many(draws=draws)))
        row = found[(found["method"] == "bb") & (found["budget"] == 16)].iloc[0]
        assert row["difference"] == pytest.approx(-0.35)
        assert (row["pairs"], row["needed"], row["p"]) == (2 * draws, needed, pytest.approx(2 / 2 ** (2 * draws)))
        ends = [row["low"], row["high"]]
        assert ends == pytest.approx([-0.35, -0.35]) if 2 * draws >= needed else all(map(math.isnan, ends))


def test_two_draws_have_a_mean_and_no_interval_anywhere() -> None:
    records = many(draws=2)
    assert cells(records)["half_width"].isna().all()
    found = pages.render("s", records)
    for page in ("", "-budgets", "-recoveries", "-overall", "-samples", "-leaders"):
        rows = [line for line in found[f"tables/s{page}.md"].decode().splitlines() if line.startswith("|")]
        assert len(rows) > 3
        assert not [row for row in rows if "±" in row or "\\[" in row]


def test_95_percent_of_dense_is_of_the_dense_network_under_the_same_recovery() -> None:
    """Where statistics are off, batchnorm lifts the dense network too: 0.95 of 0.9 is reached, 0.95 of 1 is not."""
    found = [
        record(seed, accuracy, budget=budget, recovery=recovery)
        for seed in range(3)
        for recovery in ("none", "batchnorm")
        for budget, accuracy in ((4, 0.5), (16, 0.9))
    ]
    lifted = [one for n in (4, 16) for one in dense_under("batchnorm", (1.0,) * 3, budget=n)]
    rows = summary.efficiency(frames.frame_of(found + lifted)).set_index(["recovery", "level"])
    assert rows.loc[("none", "95 % of dense"), "level_accuracy"] == pytest.approx(0.95 * 0.9)
    assert rows.loc[("batchnorm", "95 % of dense"), "level_accuracy"] == pytest.approx(0.95)
    assert rows.loc[("none", "95 % of dense"), "samples"] <= 16
    assert not rows.loc[("batchnorm", "95 % of dense"), "samples"] <= 16


def test_samples_needed_are_measured_against_magnitude_with_batchnorm_and_dense() -> None:
    found = summary.efficiency(frames.frame_of(many())).set_index(["task", "sparsity", "recovery", "method", "level"])
    base = found.loc[("t", 0.5, "none", "magnitude", "magnitude + batchnorm")]
    assert base["level_accuracy"] == pytest.approx(0.3 + 0.02 + 0.45 + 0.32)
    assert base["samples"] == pytest.approx(16)
    assert found.loc[("t", 0.5, "none", "bb", "magnitude + batchnorm")]["samples"] == float("inf")
    assert "&gt; 16" in text_of(many(), "-samples")


SHRUNK = {"params": 50, "dense_params": 100, "macs": 30, "dense_macs": 90, "pattern": "filter", "of": "macs"}
HERE = {"machine": "a machine", "device": "cpu", "threads": 1, "torch": "2"}


def timed(architecture: str, ratio: float, *, spread: float = 0.1, place: dict[str, Any] = HERE) -> dict[str, Any]:
    """What a record says of latency: the ratio for one sample, one and a half times that for 16."""
    found = [
        {"batch": batch, "median": m, "low": m - spread, "high": m + spread, "latency": 0.0042 / m, "dense_latency": 1}
        for batch, m in ((1, ratio), (16, 1.5 * ratio))
    ]
    first = {"latency": found[0]["latency"], "dense_latency": 1}
    return {**SHRUNK, "architecture": architecture, **first, "latencies": found, "environment": place}


def structured(records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The cells of a page with one table, by method."""
    lines = [line for line in text_of(records, "-structured").splitlines() if line.startswith("|")]
    rows = [[cell.strip().replace("\\", "") for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_structured_cases_show_what_the_shrunk_network_costs() -> None:
    records = [record(seed, 0.6 + 0.1 * seed, **timed("a", 2.0)) for seed in range(3)]
    records += [record(seed, 0.8, method="better", recovery="../../etc", **timed("a", 2.0)) for seed in range(3)]
    text = text_of([*records, record(0, 0.1, environment=HERE)], "-structured")
    assert "## t, 16 samples, 50 % removed, filter of macs, recovery none (dense 90.00 %)" in text
    assert text.count("Timed on a machine (cpu), 1 thread, torch 2.") == 2
    found = structured(records[:3])
    assert found["method"] == [
        "accuracy", "MACs", "parameters", "latency, ms, batch 1", "speed-up, batch 1", "speed-up, batch 16",
    ]  # fmt: skip
    assert found["m"] == ["70.0 ± 24.8", "33.3 %", "50 %", "2.10", "2.00 [1.90, 2.10]", "3.00 [2.90, 3.10]"]
    names = pages.render("s", records).keys()
    assert {"figures/s-macs-none.svg", "figures/s-macs-______etc.svg"} <= names


def test_speed_ups_are_over_the_architectures_of_the_draws_and_of_one_architecture_the_same() -> None:
    """A measurement of the same architecture that another run made does not count beside the first."""
    drawn = [
        record(seed, 0.6, **timed(name, ratio)) for seed, (name, ratio) in enumerate([("a", 1), ("b", 2), ("c", 4)])
    ]
    again = [record(seed, 0.5, method="n", **timed("b", 3.0)) for seed in range(3)]
    found = structured([*drawn, *again])
    assert found["m"][3:] == ["2.10", "2.00 [0.90, 4.10]", "3.00 [1.40, 6.10]"]
    assert found["n"][3:] == ["2.10", "2.00 [1.90, 2.10]", "3.00 [2.90, 3.10]"]


def test_no_speed_up_is_printed_that_is_unsteady_or_was_not_measured_or_was_elsewhere() -> None:
    """Batch 1: 0.52 of 2 is more than a quarter, 0.5 is not; batch 16: both are below a quarter of 3."""
    steady = [record(seed, 0.9, method="steady", **timed("s", 2.0, spread=0.25)) for seed in range(3)]
    wide = [record(seed, 0.8, method="wide", **timed("w", 2.0, spread=0.26)) for seed in range(3)]
    part = [record(seed, 0.7, method="with one wide", **timed("s" if seed else "w", 2.0)) for seed in range(3)]
    before = {"latency": 1.0, "dense_latency": 2.0, "environment": HERE, **SHRUNK}
    old = [record(seed, 0.6, method="old", **before) for seed in range(3)]
    there = timed("e", 2.0, place={**HERE, "machine": "another"})
    elsewhere = [record(seed, 0.5, method="else", **there) for seed in range(3)]
    found = structured([*steady, *wide, *part, *old, *elsewhere])
    assert found["steady"][3:] == ["2.10", "2.00 [1.75, 2.25]", "3.00 [2.75, 3.25]"]
    assert found["wide"][3:] == ["–", "–", "3.00 [2.74, 3.26]"]
    assert found["with one wide"][3:5] == ["–", "–"]
    assert found["old"][3:] == found["else"][3:] == ["–", "–", "–"]
    assert structured(old)["old"][3:] == ["–"]


def test_the_printed_range_of_a_speed_up_holds_what_was_measured() -> None:
    found = structured([record(seed, 0.9, **timed("s", 2.0, spread=0.1234)) for seed in range(3)])
    assert found["m"][4:] == ["2.00 [1.87, 2.13]", "3.00 [2.87, 3.13]"]


def test_tasks_that_were_timed_in_several_places_each_show_their_own() -> None:
    there = timed("s", 2.0, place={**HERE, "machine": "another"})
    records = [record(seed, 0.9, task=task, **times) for seed in range(3) for task, times in
               (("t", timed("s", 2.0)), ("u", there), ("v", timed("s", 2.0)))]  # fmt: skip
    text = text_of(records, "-structured")
    assert text.count(r"2.00 \[1.90, 2.10\]") == 3
    assert (text.count("Timed on another"), text.count("Timed on a machine")) == (1, 2)


def test_a_method_under_two_scopes_is_two_rows_everywhere() -> None:
    records = [
        record(seed, accuracy, method=method, task=task, pattern="filter", of="macs", scope=scope, budget=budget)
        for method in ("m", "n")
        for scope, accuracy in (("global", 0.2), ("layer", 0.8))[: 2 if method == "m" else 1]
        for seed in range(2)
        for task in ("t", "u")
        for budget in (4, 16)
    ]
    frame = frames.frame_of(records)
    assert sorted(set(frames.told_apart(frame))) == ["m (global)", "m (layer)", "n"]
    for suffix in ("", "-budgets", "-overall"):
        text = text_of(records, suffix)
        for name, accuracy in (("m (global)", "20.0"), ("m (layer)", "80.0"), ("n", "20.0")):
            lines = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
            assert lines
            assert all(accuracy in line for line in lines)
        assert "50.0 " not in text.replace("50 %", "")
    entry = report.columns(frame.assign(entry=frames.told_apart(frame)))["entry"]
    assert entry["of"] == ["m (global)", "m (layer)", "n"]


def test_results_load_as_a_frame_and_as_parquet(tmp_path: Path) -> None:
    lines = [record(0, 0.5), record(1, 0.7), record(0, 0.6)]  # the third takes the first one's place
    (tmp_path / "s.jsonl").write_text("".join(json.dumps({**one, "options": {"a": 1}}) + "\n" for one in lines))
    frame = load_results(tmp_path)
    assert frame["accuracy"].tolist() == [0.6, 0.7]
    assert main(["tables", "--results", str(tmp_path), "--parquet", str(tmp_path / "all.parquet")]) == 0
    again = pd.read_parquet(tmp_path / "all.parquet")
    assert again["accuracy"].tolist() == [0.6, 0.7]
    assert json.loads(again["options"][0]) == {"a": 1}
    assert load_results(tmp_path / "nothing").empty


def test_two_suites_that_hold_the_same_case_both_keep_it(tmp_path: Path) -> None:
    for suite, accuracy in (("a", 0.5), ("b", 0.6)):
        (tmp_path / f"{suite}.jsonl").write_text(json.dumps(record(0, accuracy, suite=suite)) + "\n")
    frame = load_results(tmp_path)
    assert dict(zip(frame["suite"], frame["accuracy"], strict=True)) == {"a": 0.5, "b": 0.6}


HOSTILE = [
    "<script>alert(1)</script>",
    "a\"b'c",
    "x|y*z_`w`[l](u)",
    "\\input{/etc/passwd}%&$#",
    "\u202egnp.exe",
    "שלום",
    "=1+1",
    "a\nb\x1b[31m",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_harmless_in_every_format(name: str) -> None:
    records = [{**one, "method": name if one["method"] == "bb" else one["method"]} for one in many(draws=2)]
    files = {path: content.decode() for path, content in pages.render("s", records).items()}
    for path, text in files.items():
        assert "\u202e" not in text
        assert "\x1b" not in text
        if path.endswith((".md", ".svg")):
            assert "<script" not in text
        if path.endswith(".md"):
            for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
                assert len({re.sub(r"\\.", "", line).count("|") for line in table.splitlines()}) == 1
    rows = pd.read_csv(io.StringIO(files["tables/s.csv"]))
    assert len(rows) == 48
    assert not rows["method"].str.startswith(("=", "+", "-", "@")).any()
    assert "\x1b" not in pages.plain(frames.frame_of(records))


def test_a_picture_of_another_matplotlib_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(one) + "\n" for one in many()))
    pages.write_all(tmp_path)
    for path in (tmp_path / "figures").iterdir():
        path.write_bytes(path.read_bytes().replace(figures.CREATOR.encode(), b"wfbench, matplotlib 0.1"))
    assert pages.stale(tmp_path) == []


def test_the_page_says_what_it_was_made_with() -> None:
    text = text_of(many())
    assert "144 cases; torch 2.15.0;" in text
    assert "machine a machine; threads 1" in text
    assert text_of(many()[:-1]) != text


def test_a_terminal_shows_the_best_rows_first_and_says_how_many_are_left() -> None:
    rows = [record(seed, at / 20 if at else None, method=f"m{at:02}") for at in range(12) for seed in range(3)]
    shown = pages.plain(frames.frame_of(rows))
    assert shown.index("Leaders: ") < shown.index("t, 16 samples (dense")
    table = shown.split("Leaders: ")[1].split("\n\n")[1]
    assert re.findall(r"^m\d\d", table, flags=re.MULTILINE) == [f"m{at:02}" for at in range(11, 1, -1)]
    assert "… and 2 more, in the tables below" in table


def test_no_records_is_an_empty_table_and_not_a_crash() -> None:
    assert pages.plain(frames.frame_of([])) == "no records"
    assert "No records." in text_of([])


def test_an_option_has_its_values_down_numbers_first() -> None:
    values = {"1e-05": 0.5, "0.001": 0.6, "relative:1": 0.7, "cross-validated": 0.8}
    records = [
        record(seed, accuracy + sparsity / 100, method=f"w[damping={value}]", sparsity=sparsity)
        for seed in range(3)
        for sparsity in (0.5, 0.9)
        for value, accuracy in values.items()
    ]
    lines = [line for line in text_of([*records, record(0, 0.1)], "-options").splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert table[0] == ["damping", "50 %", "90 %"]
    assert [row[0] for row in table[2:]] == ["1e-05", "0.001", "cross-validated", "relative:1"]
    assert table[2][1:] == ["50.5 ± 0.0", "50.9 ± 0.0"]
    picture = pages.render("s", records)["figures/s-sensitivity.svg"]
    assert picture == pages.render("s", list(reversed(records)))["figures/s-sensitivity.svg"]


def test_unusual_draws_and_labels_stand_side_by_side_and_never_mix() -> None:
    ways = {
        "random": {},
        "k-shot": {"draw": "k-shot"},
        "30 % wrong labels": {"wrong_labels": 0.3},
        "5 copies a sample": {"copies": 5},
    }
    records = [
        record(seed, accuracy, **way)
        for seed in range(3)
        for accuracy, way in zip((0.8, 0.7, 0.6, 0.5), ways.values(), strict=True)
    ]
    assert len(cells(records)) == 4
    lines = [line for line in text_of(records, "-labels").splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert table[0][3:] == ["random", "30 % wrong labels", "5 copies a sample", "k-shot"]
    assert table[2][3:] == ["80.0 ± 0.0", "60.0 ± 0.0", "50.0 ± 0.0", "70.0 ± 0.0"]
    assert "t, 16 samples, k-shot (dense" in text_of(records)
