"""Tables to files: Markdown and CSV, and the page that leads to them; the same bytes from the same records."""

import multiprocessing
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any
from urllib.parse import quote

import pandas as pd
from tabulate import tabulate

from wfbench.errors import WfbenchError
from wfbench.harness.store import read, record_files
from wfbench.output import figures
from wfbench.report import frames, leaders, literature, overview, summary, tables
from wfbench.report.rounding import fixed
from wfbench.report.tables import Table, harmless, percent
from wfbench.storage.lines import said_plainly
from wfbench.writing import whole

SHOWN = 10
"""Rows of a table on a terminal."""


def _markdown(text: object) -> str:
    escaped = harmless(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{char}" if char in "\\`*_[]|#~" else char for char in escaped)


def _csv(text: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe."""
    if not isinstance(text, str):
        return text
    return "'" + harmless(text) if text[:1] in ("=", "+", "-", "@") else harmless(text)


def _six_decimals(value: Any) -> str:
    return fixed(value, 6)


def _grid(table: pd.DataFrame, style: str) -> str:
    return tabulate(table.to_numpy().tolist(), headers=list(table.columns), tablefmt=style, disable_numparse=True)


def markdown(title: str, content: Iterable[Table], *notes: str) -> str:
    """Tables as one Markdown page."""
    parts = [f"# {_markdown(title)}\n", *(f"{note}\n" for note in notes if note)]
    for table in content:
        cells = table.rows.rename(columns=_markdown).map(_markdown)
        parts += [f"## {_markdown(table.title)}\n", _grid(cells, "pipe") + "\n"]
        parts += [f"{_markdown(table.note)}\n"] if table.note else []
    return "\n".join(parts)


def plain(frame: pd.DataFrame) -> str:
    """For a terminal: who leads, then the best rows of the main tables."""
    told = frame.assign(method=frames.told_apart(frame))
    found = [Table(f"Leaders: {table.title}", _wrapped(table.rows)) for table in leaders.by_task(told)]
    found += tables.best(summary.cells(told), SHOWN)
    parts = [
        "\n".join([harmless(table.title), _grid(table.rows.map(_lines), "simple"), table.note]).rstrip() + "\n"
        for table in found
    ]
    return "\n".join([*parts, tables.note(frame)]) if parts else "no records"


def _wrapped(table: pd.DataFrame) -> pd.DataFrame:
    return table.map(lambda cell: "\n".join(wrap(str(cell), 36, break_on_hyphens=False)))


def _lines(cell: object) -> str:
    """Harmless, but for the ends of lines."""
    return "\n".join(map(harmless, str(cell).split("\n")))


def render(suite: str, records: Iterable[dict[str, Any]]) -> dict[str, bytes]:
    """Every generated file of a suite, by its path under the results folder."""
    frame = frames.frame_of(records)
    frame["method"] = frames.told_apart(frame)
    cells = summary.cells(frame)
    made_with = overview.provenance(frame)
    note = tables.note(frame)
    pages = {
        "": (tables.by_sparsity(cells), note),
        "-agreement": (
            tables.by_agreement(frame),
            "Of cases without labels to be scored by, means over draws: on how many of a hundred inputs the pruned "
            "network says the same class first as the dense one; then KL(dense‖pruned), nats. No accuracy.",
        ),
        "-perplexity": (
            tables.by_perplexity(frame),
            "Perplexity, the exponential of the mean loss over all places of all test samples; less is better. Means "
            "over draws.",
        ),
        "-budgets": (tables.by_budget(cells), note),
        "-labels": (tables.by_setting(cells), "Ways to draw samples and to label them across. " + note),
        "-recoveries": (tables.by_recovery(cells), note),
        "-options": (tables.by_option(cells), "Values of an option down, sparsities across. " + note),
        "-attribution": (tables.attribution(cells), "Masks down, updates across. " + note),
        "-overall": (
            overview.across_tasks(frame),
            "Means over tasks in per cent [95 % hierarchical bootstrap]; minus magnitude: mean of the paired "
            "differences [interval of the test over all their signs, at the level at which Holm's correction stops, so "
            "that it leaves out zero where, and only where, Holm p is at most 5 %].",
        ),
        "-leaders": (
            leaders.by_task(frame),
            "The best mean over draws, accuracy in per cent; then, the best first, the methods level with it: the "
            "95 % Student-t interval of their difference, paired by draw, reaches zero. Not corrected for the number "
            "of methods, and the best of many is flattered by its draws. A failed draw scores chance.",
        ),
        "-samples": (
            overview.samples_needed(frame),
            "Calibration samples a method needs to reach a level of accuracy.",
        ),
        "-structured": (
            overview.structured(frame),
            "Mean accuracy in per cent over draws, the best first, ± half of the 95 % Student-t interval; MACs and "
            "parameters of the shrunk network as shares of the dense one's. Speed-up: how many times as fast as the "
            "dense network, the two timed in turn, median and [range] of the repetitions, over draws [the ends of "
            "all their ranges]. Each architecture is timed once a machine. –: not timed there, or a range wider "
            "than a quarter of the median.",
        ),
        "-reported": (
            literature.beside_ours(cells),
            "Figures from the literature are reported, not measured here, on other checkpoints and with all data. "
            + note,
        ),
        "-failures": (overview.failed(frame), "Cases without a result."),
    }
    found: dict[str, bytes] = {}
    for suffix, (content, note) in pages.items():
        if content or not suffix:
            notes = (QUESTIONS[suffix], note, _markdown(made_with))
            found[f"tables/{suite}{suffix}.md"] = markdown(suite + suffix, content, *notes).encode()
    text = cells.map(_csv).to_csv(index=False, float_format=_six_decimals, lineterminator="\n")
    found[f"tables/{suite}.csv"] = text.encode()
    return found | figures.render(suite, frame, cells)


QUESTIONS = {
    "-leaders": "Which method is best, and which ones can the draws not tell from it?",
    "": "How accurate is each method, by sparsity?",
    "-agreement": "How far does each method agree with the dense network, where there are no labels to be scored by?",
    "-perplexity": "How unsure is each network of what comes next, where a sample has several places?",
    "-budgets": "What do more calibration samples bring?",
    "-recoveries": "What does it bring to repair or to train the network after the pruning?",
    "-overall": "Who is best over all tasks, and is the difference from magnitude significant?",
    "-samples": "How many samples does a method need to reach a level of accuracy?",
    "-options": "Which value of an option is best?",
    "-labels": "What do other ways to draw samples, and wrong labels, change?",
    "-attribution": "Mask or update: which of the two earned the accuracy?",
    "-structured": "How small and how fast is the network without the removed channels?",
    "-reported": "What does the literature report of the same task? (Reported, not measured.)",
    "-failures": "What has no result, and why?",
}
"""What a suite's pages answer, the first to read first."""
INDEX = "tables/README.md"


def index(found: Mapping[str, bytes]) -> bytes:
    """The page that says which table answers which question, from the pages and the CSV files of all suites."""
    held = {
        path.removeprefix("tables/").removesuffix(".csv"): pd.read_csv(BytesIO(content))
        for path, content in sorted(found.items())
        if path.startswith("tables/") and path.endswith(".csv")
    }
    answers = []
    for suffix, question in QUESTIONS.items():
        pages = {suite: f"{suite}{suffix}" for suite in held if not (suffix and f"{suite}{suffix}" in held)}
        links = [
            f"[{_markdown(suite)}]({quote(page)}.md)" for suite, page in pages.items() if f"tables/{page}.md" in found
        ]
        if links:
            answers.append([question, ", ".join(links)])
    suites = [
        [
            f"[{_markdown(suite)}]({quote(suite)}.csv)",
            ", ".join(_markdown(task) for task in sorted(set(cells["task"]))),
            ", ".join(f"{budget}" for budget in sorted(set(cells["budget"]))),
            ", ".join(percent(sparsity) for sparsity in sorted(set(cells["sparsity"]))),
            f"{cells['method'].nunique()}",
        ]
        for suite, cells in held.items()
    ]
    tables = [
        pd.DataFrame(answers, columns=["question", "tables"]),
        pd.DataFrame(suites, columns=["suite", "tasks", "samples", "removed", "methods"]),
    ]
    title = "# Which table answers which question"
    return "\n\n".join([title, *(_grid(table, "pipe") for table in tables), ""]).encode()


def write(results: Path, suite: str, records: Iterable[dict[str, Any]]) -> list[Path]:
    """Write every generated file of a suite under `results`, and the index of all that is there; the paths written."""
    written = _written(results, render(suite, records))
    there = {f"tables/{path.name}": path.read_bytes() for path in (results / "tables").glob("[!.]*")}
    return written + _written(results, {INDEX: index(there)})


def write_all(results: Path) -> list[Path]:
    """Regenerate the tables and figures of every record file in `results`; the paths written."""
    return _written(results, _render_all(results))


def _written(results: Path, found: dict[str, bytes]) -> list[Path]:
    for name, content in found.items():
        path = results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_bytes(content)
    return [results / name for name in found]


def _render_all(results: Path) -> dict[str, bytes]:
    """`render` of every record file, a process each, as they are independent and take seconds; and the index."""
    files = sorted(record_files(results), key=lambda file: (-file.stat().st_size, file.name))
    found: dict[str, bytes] = {}
    if len(files) < 2:  # a process would take longer to start than it saves
        for file in files:
            found |= _render_file(file)
    else:
        workers = min(len(files), os.cpu_count() or 1)
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            for rendered in pool.map(_render_file, files):
                found |= rendered
    return found | {INDEX: index(found)} if found else {}


def _render_file(file: Path) -> dict[str, bytes]:
    with said_plainly():
        return render(file.stem, read(file))


def stale(results: Path) -> list[str]:
    """What in `tables/` and `figures/` is not what the records give: changed, missing or left over.

    Raises:
        WfbenchError: there are no record files.
    """
    if not record_files(results):
        raise WfbenchError(f"no record files (*.jsonl) in {results}; run a suite first, or give --results")
    expected = _render_all(results)
    there = {
        str(path.relative_to(results)) for part in ("tables", "figures") for path in (results / part).glob("[!.]*")
    }
    found = [f"{name} is missing" for name in sorted(expected.keys() - there)]
    found += [f"{name} comes from no record file; delete it" for name in sorted(there - expected.keys())]
    for name in sorted(expected.keys() & there):
        content = (results / name).read_bytes()
        if content != expected[name] and not figures.from_another_matplotlib(name, content):
            found.append(f"{name} is not what the records give")
    return found
