"""What the README tells people to do works as written."""

import re
import subprocess
import sys
from pathlib import Path

from tests.test_rules import case_of
from wfbench import run
from wfbench.conformance.checks import check
from wfbench.harness.plugins import discover
from wfbench.harness.store import read
from wfbench.report.frames import frame_of
from wfbench.report.stats import student

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_blocks_are_a_method_and_a_task_that_run_together(tmp_path: Path) -> None:
    method, task = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(method.splitlines()) <= 25
    (tmp_path / "my_method.py").write_text(method)
    (tmp_path / "my_task.py").write_text(task)
    registry = discover([str(tmp_path / "my_method.py")], [str(tmp_path / "my_task.py")])
    assert not registry.failures
    assert not [outcome for outcome in check(registry.pruner("gradient-times-weight")) if outcome.status == "failed"]
    ours = registry.task("two-clouds")
    for name in ("gradient-times-weight", "woodfisher", "magnitude"):
        record = run(case_of(registry.pruner(name), task=ours))
        assert record.status == "ok"
    assert record.dense_accuracy is not None
    assert record.dense_accuracy > 0.75


def test_the_blocks_join_a_suite_with_the_built_in_methods_and_stand_in_its_table(tmp_path: Path) -> None:
    method, task = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "my_method.py").write_text(method)
    (tmp_path / "my_task.py").write_text(task)
    command = [sys.executable, "-m", "pytest", "suites", "-q", "-m", "unstructured", "--results", str(tmp_path / "out")]
    paths = ["--baseline-path", str(tmp_path / "my_method.py"), "--task-path", str(tmp_path / "my_task.py")]
    grid = ["--tasks", "two-clouds", "--budgets", "10", "--sparsities", "0.5", "--recoveries", "none", "--seeds", "1"]
    done = subprocess.run([*command, *paths, *grid], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "out" / "tables" / "unstructured.md").read_text()
    assert "## two-clouds, 10 samples" in table
    built_in = [name for name, pruner in discover().pruners.items() if "unstructured" in pruner.patterns]
    for name in ("gradient-times-weight", *built_in):
        assert f"| {name} " in table


def test_the_commands_and_methods_named_exist() -> None:
    environments = re.findall(r"tox run -e (\w+)", README)
    tox = (ROOT / "tox.ini").read_text()
    assert set(environments) == {"suites", "tests"}
    assert all(f"[testenv:{name}]" in tox for name in (*environments, "lint", "tables", "bench"))
    assert "pip install -q tox && tox run -e tests" in README
    assert "pip install -q tox && tox run -e tests" in (ROOT / ".ci" / "run").read_text()
    table = README.split("| method | what it is |")[1].split("##")[0]
    named = {name for name in re.findall(r"`([a-z-]+)`", table) if not name.startswith("-")}
    assert named <= discover().pruners.keys()


def test_the_numbers_shown_are_those_of_the_tables() -> None:
    table = (ROOT / "results" / "tables" / "unstructured.md").read_text()
    part = table.split("## fashion-resnet20, 100 samples")[1].split("##")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    found = {(row[0], row[1]): row[3:] for row in rows if row[2] == "none"}
    shown = README.split("## What comes out")[1].split("What an engineer")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines() if "±" in line]
    assert len(lines) == 8
    for method, track, *cells in lines:
        assert found[method, track] == cells
    named = README.split("Among the WoodFishers")[1].split("Whole channels")[0]
    page = (ROOT / "results" / "tables" / "unlabeled.md").read_text()
    figures = re.findall(r"\d+\.\d ± \d+\.\d", named.replace("\n", " "))
    assert len(figures) == 4
    assert all(figure in page for figure in figures)


def test_the_numbers_of_whole_channels_are_those_of_the_table() -> None:
    table = (ROOT / "results" / "tables" / "structured-recoveries.md").read_text()
    part = table.split("fashion-resnet20\\[2000\\], 100 samples, 50 % removed, filter of macs")[1].split("##")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    assert rows[0] == ["method", "none", "batchnorm", "repair"]
    found = {row[0]: row[1:] for row in rows}
    shown = README.split("Whole channels")[1].split("Here the outputs")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines() if "±" in line]
    assert len(lines) == 8
    for method, track, *cells in lines:
        assert found[f"{method} (layer)"] == cells
        assert discover().pruner(method).track == track


def test_the_numbers_of_the_recommendation_are_those_of_the_table() -> None:
    table = (ROOT / "results" / "tables" / "lead.md").read_text()
    found: dict[tuple[str, str], list[str]] = {}
    for task in ("digits-cnn", "fashion-mlpnet", "fashion-resnet20\\[2000\\]", "fashion-mobilenetv1\\[2000\\]"):
        part = table.split(f"## {task}, 50 samples")[1].split("\n## ")[0]
        for line in (line for line in part.splitlines() if "±" in line):
            method, _, recovery, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault((method, recovery), []).append(cells[-1])
    shown = README.split("**With 10 to 100 samples")[1].split("It repairs between")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines() if "±" in line]
    assert len(lines) == 8
    for method, recovery, *cells in lines:
        assert found[method, recovery] == [cell for cell in cells if cell != "–"]


def test_the_cells_that_the_recommendation_counts_are_those_of_the_records() -> None:
    """The recommended method minus the published one with the best mean, paired by draw: interval above or below 0."""
    frame = frame_of(read(ROOT / "results" / "lead.jsonl"))
    frame = frame[(frame["budget"] <= 100) & ~frame["method"].str.contains("^wood(?!fisher-staged$)|^staged-")]
    ahead, behind, widest = 0, 0, 0.0
    groups = frame.groupby(["task", "budget", "sparsity", "recovery"])
    for _, cell in groups:
        wide = cell.pivot_table(index="seed", columns="method", values="accuracy")
        ours = wide.pop("woodfisher-staged")
        interval = student((ours - wide[wide.mean().idxmax()]).to_numpy())
        ahead += interval.low > 0
        behind += interval.high < 0
        widest = max(widest, -interval.estimate if interval.high < 0 else 0.0)
    said = " ".join(README.split("Between 10 and 100 samples")[1].split())
    assert f"in {behind} of {len(groups)} cells" in said
    assert f"by at most {100 * widest:.1f} points" in said
    assert f"ahead of the best of them in {ahead}." in said
