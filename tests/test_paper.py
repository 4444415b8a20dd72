"""A table for a paper: what is in it, that its pictures show the same, and that LaTeX takes it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.test_tables import HOSTILE, record
from wfbench.cli import main

LEVELS = {"poor": 0.3, "level": 0.699, "best": 0.7}


def records(**changes: Any) -> list[dict[str, Any]]:
    """Three draws; `level` is better than `best` in one of them, and `poor` is far below."""
    return [
        record(
            seed,
            level + 0.01 * seed + (0.002 if (name, seed) == ("level", 0) else 0) + sparsity / 100,
            method=name,
            budget=budget,
            sparsity=sparsity,
            **changes,
        )
        for name, level in LEVELS.items()
        for seed in range(3)
        for budget in (10, 50)
        for sparsity in (0.5, 0.9)
    ]


def filled(folder: Path, *suites: str, **changes: Any) -> list[str]:
    """Record files, and the command that reads them."""
    for suite in suites:
        lines = (json.dumps(one) for one in records(suite=suite, **changes))
        (folder / f"{suite}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return ["tables", "--results", str(folder)]


def body(file: Path) -> list[list[str]]:
    """The cells of the table's rows."""
    rows = re.findall(r"(?m)^(.*) \\\\$", file.read_text())
    return [[cell.strip() for cell in row.split(" & ")] for row in rows]


def test_the_best_is_bold_the_level_italic_and_methods_come_as_they_were_given(tmp_path: Path) -> None:
    command = filled(tmp_path, "s")
    file = tmp_path / "paper" / "mine.tex"
    assert main([*command, "--methods", "poor,best,level", "--budgets", "50", "--tex", str(file)]) == 0
    assert body(file) == [
        ["", r"50 \%", r"90 \%"],
        [r"\rlap{t}", "", ""],
        ["dense", "90.0", "90.0"],
        ["poor", r"31.5 $\pm$ 2.5", r"31.9 $\pm$ 2.5"],
        ["best", r"\textbf{71.5 $\pm$ 2.5}", r"\textbf{71.9 $\pm$ 2.5}"],
        ["level", r"\textit{71.5 $\pm$ 2.2}", r"\textit{71.9 $\pm$ 2.2}"],
    ]


def test_the_same_records_give_the_same_bytes_and_nothing_else_is_written(tmp_path: Path) -> None:
    command = filled(tmp_path, "s")
    found = []
    for folder in ("a", "b"):
        assert main([*command, "--tex", str(tmp_path / folder / "mine.tex")]) == 0
        found.append({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()})
    assert found[0] == found[1]
    assert found[0].keys() == {"mine.tex", "mine.pdf", "mine.svg"}
    assert found[0]["mine.pdf"].startswith(b"%PDF")
    assert not (tmp_path / "tables").exists()
    table = body(tmp_path / "a" / "mine.tex")
    assert [row[0] for row in table if "rlap" in row[0]] == [r"\rlap{t, 10 samples}", r"\rlap{t, 50 samples}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--tex a.tex", "in several suites; give --suite r or s"),
        ("--tex a.tex --suite q", "no record is of the suite q; there are: r, s"),
        ("--tex a.tex --suite s --methods best,bset", "no record is of the method bset; there are: best, level, poor"),
        ("--tex a.tex --suite s --budgets 7", "no record is of the budget 7; there are: 10, 50"),
        ("--tex a.tex --suite s --recovery repair", "no record is of the recovery repair; there are: none"),
        ("--tex a_{}.tex --suite s", "give a name of letters, digits"),
        ("--tex a.txt --suite s", "that ends in .tex"),
        ("--methods best", "--methods chooses what --tex shows; give --tex FILE"),
        ("--tex a.tex --check", "leave out --check and --parquet"),
    ],
)
def test_a_selection_that_cannot_be_says_what_to_do(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*filled(tmp_path, "r", "s"), *arguments.split()]) == 2
    assert message in capsys.readouterr().err
    assert not [*tmp_path.glob("a*")]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no pdflatex (Debian: texlive-latex-recommended)")
@pytest.mark.parametrize("name", ["woodfisher[damping=1e-05]", *(name for name in HOSTILE if name.isascii())])
def test_latex_takes_the_table_its_caption_and_its_label(name: str, tmp_path: Path) -> None:
    command = filled(tmp_path, "s", task=name, magnitude_overlap=0.99)
    assert main([*command, "--tex", str(tmp_path / "mine_1.tex")]) == 0
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n\\input{mine_1}\n"
        "See Table~\\ref{tab:mine_1}.\n\\includegraphics[width=\\linewidth]{mine_1.pdf}\n\\end{document}\n"
    )
    for _ in range(2):  # the second knows the labels of the first
        made = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
            cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout
    assert "Warning: Reference" not in made.stdout
    labels = (tmp_path / "paper.aux").read_text()
    assert "\\newlabel{tab:mine_1}{{1}" in labels
    assert "Test accuracy" in labels  # the caption
