"""Suites as a user runs them: exit codes, messages, resuming, tables."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from itertools import groupby
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Program
from wfbench.errors import WfbenchError
from wfbench.harness.plugins import discover
from wfbench.harness.store import identity, read
from wfbench.harness.suite import Grid, Suite, left_out

ROOT = Path(__file__).parent.parent
QUICK = ["--methods", "magnitude,woodfisher", "--budgets", "4,8", "--sparsities", "0.5,0.8", "--seeds", "2"]

TASK = """
import torch
from wfbench import Task
from tests.cases import blob_task
TASKS = [blob_task("blobs")]
"""
METHODS = """
import time
from wfbench import ScorePruner

class Fails(ScorePruner[None]):
    name = "fails"
    def scores(self, net, data):
        raise ValueError("not today")

class Sleeps(ScorePruner[None]):
    name = "sleeps"
    def scores(self, net, data):
        time.sleep(30)

class Cheats(ScorePruner[None]):
    name = "cheats"
    def scores(self, net, data):
        for weight in net.weights.values():
            weight.zero_()
        return dict(net.weights)
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "my_tasks.py").write_text(TASK)
    (tmp_path / "my_methods.py").write_text(METHODS)
    return ["--task-path", str(tmp_path / "my_tasks.py"), "--baseline-path", str(tmp_path / "my_methods.py")]


def suites(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`pytest suites` in this process, since a new one takes seconds to start."""
    out, err = io.StringIO(), io.StringIO()
    command = [str(ROOT / "suites"), "-p", "no:cacheprovider", *arguments]
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = pytest.main(command)
    return subprocess.CompletedProcess(command, int(status), out.getvalue(), err.getvalue())


def refused(found: "subprocess.CompletedProcess[str]", message: str) -> None:
    """Exit 4, the message, no traceback."""
    everything = found.stdout + found.stderr
    assert found.returncode == 4, everything
    assert re.search(message, everything), everything
    assert "Traceback" not in everything


def test_no_marker_lists_the_markers() -> None:
    found = suites()
    refused(found, "say which suite to run")
    assert "-m smoke" in found.stderr + found.stdout
    assert "-m unstructured" in found.stderr + found.stdout


def test_markers_that_no_suite_has_together_are_refused() -> None:
    refused(suites("-m", "smoke and lead"), '-m "smoke and lead" selects no suite; the suites are:')


def test_a_method_joins_the_grids_that_it_reaches(tmp_path: Path) -> None:
    """Magnitude is in the suite of whole channels with its 2:4 weights alone; both files of a marker run."""
    narrow = ["--tasks", "digits-cnn", "--budgets", "10", "--recoveries", "none", "--seeds", "1"]
    found = suites("-m", "structured", "--methods", "magnitude,filter-l1", *narrow, "--results", str(tmp_path))
    assert found.returncode == 0, found.stdout + found.stderr
    lines = (tmp_path / "structured.jsonl").read_text().splitlines()
    seen = {(record["method"], record["pattern"], record["scope"]) for record in map(json.loads, lines)}
    assert seen == {("magnitude", "n:m", "global"), ("filter-l1", "filter", "global"), ("filter-l1", "filter", "layer")}


SOME = Grid((4, 8), (0.5,), ("none",), 2, tasks=("digits-cnn[50]",), methods=("magnitude", "woodfisher"))
FILTERS = replace(SOME, methods=("filter-l1",), pattern="filter", of="macs")
MIXED = Suite("mixed", (SOME, replace(SOME, methods=("obc",), budgets=(16,)), FILTERS))


def labels(suite: Suite = MIXED, **chosen: Any) -> list[str]:
    registry = discover()
    return [case.label() for case in suite.narrowed(registry, **chosen).cases(registry)]


def test_tasks_on_request_stand_beside_others_where_they_are_named() -> None:
    """And by themselves always; a suite all of one marker is not emptied of its own."""
    registry = discover()
    asked = replace(registry.task("digits-cnn"), name="asked", on_request=True)
    registry.add_tasks([asked], "here")
    wide = Suite("wide", (SOME, replace(SOME, tasks=("digits-cnn", "asked[50]"))))
    own = Suite("own", (replace(SOME, tasks=("asked[50]",)),))

    def tasks(suite: Suite, **chosen: Any) -> set[str]:
        return {name for grid in suite.narrowed(registry, **chosen).grids for name in grid.tasks}

    assert tasks(wide) == {"digits-cnn[50]", "digits-cnn"}
    assert tasks(wide, tasks=("asked",)) == tasks(own) == {"asked[50]"}
    assert tasks(wide, tasks=("asked", "digits-cnn")) == {"asked[50]", "digits-cnn[50]", "digits-cnn"}


def test_grids_that_share_cases_run_each_once() -> None:
    found = labels(Suite("some", (SOME, replace(SOME, methods=("magnitude",), budgets=(4, 16), seeds=3))))
    assert len(found) == len(set(found)) == 2 * 2 * 2 + 2 * 3 - 2  # n = 4 of draws 0 and 1 is in both
    assert sum("magnitude" in label for label in found) == 8


def test_cases_of_grids_that_share_a_fit_stand_side_by_side() -> None:
    some = {"tasks": ("digits-cnn",), "methods": ("magnitude", "obc"), "budgets": (8, 16), "seeds": 2}
    grid = Grid(**some, sparsities=(0.5, 0.8), recoveries=("none",))
    after = replace(grid, methods=("obc",), recoveries=("repair",), budgets=(16,))
    cases = Suite("two", (grid, after)).cases(discover())
    fits = [(case.seed, case.budget, case.method.name) for case in cases]
    assert [fit for fit, _ in groupby(fits)] == [
        (seed, budget, method) for seed in (0, 1) for budget in (16, 8) for method in ("magnitude", "obc")
    ]
    of = [(case.target.sparsity, case.recovery.name) for case in cases if (case.seed, case.budget) == (1, 16)]
    assert of[-4:] == [(0.5, "none"), (0.5, "repair"), (0.8, "none"), (0.8, "repair")]


def test_declared_values_filter_the_grids_and_a_task_means_its_subset() -> None:
    everything = labels()
    assert len(everything) == 2 * (2 * 2 + 1 + 2)
    for chosen in [{"budgets": (16, 8)}, {"methods": ("obc", "filter-l1")}, {"seeds": 1}]:
        found = labels(**chosen)
        assert sorted(found) == sorted(set(found) & set(everything)), chosen
    assert {label.split("-")[2] for label in labels(budgets=(16, 8))} == {"n16", "n8"}
    assert len(labels(budgets=(16,))) == 2
    assert labels(tasks=("digits-cnn",)) == labels(tasks=("digits-cnn[50]",)) == everything
    assert labels(methods=("obc",), budgets=(16,)) == [label for label in everything if "obc" in label]


@pytest.mark.parametrize(
    ("chosen", "cases"),
    [
        ({"budgets": (5,)}, 2 * (2 + 1)),
        ({"tasks": ("digits-cnn[20]",)}, 2 * 2 * (2 + 1)),
        ({"recoveries": ("batchnorm", "repair")}, 2 * 2 * 2 * (2 + 1 + 1)),
        ({"sparsities": (0.25,)}, 2 * 2 * (2 + 1)),
        ({"copies": (5,)}, 2 * 2 * (2 + 1)),
        ({"copies": (1, 2, 5)}, 2 * (2 * 2 + 1 + 2) + 2 * 2 * 2 * (2 + 1)),
        ({"methods": ("lobs",)}, 2 * 2),
        ({"methods": ("filter-l2",)}, 2 * 2),
        ({"methods": ("lobs", "obc")}, 2 * (2 + 1)),
        ({"budgets": (5, 16), "methods": ("lobs", "obc")}, 2 * 2 * 2),
        ({"budgets": (4,), "methods": ("obc",)}, 2),  # both are declared, but not together
        ({"budgets": (4, 16), "methods": ("obc", "magnitude")}, 2 * 2 * 2),
    ],
)
def test_a_value_that_no_grid_declares_joins_the_first_of_each_pattern(chosen: dict[str, Any], cases: int) -> None:
    found = labels(**chosen)
    assert len(found) == len(set(found)) == cases


def test_copies_of_a_task_without_an_augmentation_are_left_out_with_a_word(files: list[str], tmp_path: Path) -> None:
    few = ["--methods", "magnitude", "--budgets", "4", *ONE, "--results", str(tmp_path), *files]
    both = ["-m", "lead", "--tasks", "blobs,digits-cnn", *few]
    found = suites(*both, "--copies", "1,2")
    assert "no copies of samples, as no augmentation is declared: blobs" in found.stdout
    records = [json.loads(line) for line in (tmp_path / "lead.jsonl").read_text().splitlines()]
    seen = [(record["task"], record.get("copies", 1)) for record in records]
    assert seen == [("blobs", 1), ("digits-cnn", 1), ("digits-cnn", 2)]
    again = suites(*both, "--copies", "1,2")
    assert "0 cases run, 3 reused" in again.stdout
    refused(
        suites("-m", "lead", "--tasks", "blobs", *few, "--copies", "3"),
        "blobs declares no augmentation to make copies with; leave --copies out",
    )
    refused(suites("-m", "lead", *few, "--copies", "0"), "0 copies of a sample: give at least 1")


def test_the_dense_network_goes_through_every_recovery_with_the_samples_of_every_draw() -> None:
    recovered = replace(SOME, recoveries=("none", "repair", "batchnorm"))
    both = Suite("both", (recovered, replace(recovered, methods=("filter-l1",), pattern="filter", of="macs")))
    found = [label for label in labels(both, copies=(1, 2)) if "-magnitude-" in label and "global-0-" in label]
    draws = [f"n{n}-s{seed}-magnitude{copies}" for n in (4, 8) for seed in (0, 1) for copies in ("", "-copies2")]
    assert sorted(found) == sorted(
        f"digits-cnn[50]-{drawn}-global-0-{recovery}" for drawn in draws for recovery in ("repair", "batchnorm")
    )
    assert not [label for label in labels(MIXED) if "global-0-" in label]


def test_a_sparsity_joins_the_patterns_that_can_meet_it() -> None:
    both = Suite("both", (SOME, replace(SOME, methods=("magnitude",), pattern="n:m")))
    assert sum("n:m" in label for label in labels(both)) == 4
    assert len(found := labels(both, sparsities=(0.25,))) == 8
    assert not any("n:m" in label for label in found)


def test_what_is_declared_and_left_without_a_case_is_said_or_refused() -> None:
    registry = discover()
    suite = Suite("both", (replace(SOME, methods=("lobs",), pattern="n:m"), replace(FILTERS, sparsities=(0.3,))))

    def said(**chosen: tuple[Any, ...]) -> str:
        return left_out([suite], [suite.narrowed(registry, **chosen)], chosen, registry)

    assert said() == said(methods=("lobs",), sparsities=(0.5,)) == ""
    assert said(methods=("lobs", "filter-l1"), sparsities=(0.3,)) == "--methods lobs"  # 2:4 is a half
    for chosen in [{"methods": ("lobs",), "sparsities": (0.3,)}, {"methods": ("lobs",), "sparsities": (0.4,)}]:
        with pytest.raises(WfbenchError, match=r"no case of the suite both has --methods .*; declared are:\s+both, "):
            said(**chosen)


def test_subsets_of_tasks_are_no_tasks_of_suites_that_declare_all() -> None:
    registry = discover()
    before = list(registry.tasks)
    assert registry.task("digits-cnn[50]") is registry.task("digits-cnn[50]")
    assert list(registry.tasks) == before


ONE = ["--sparsities", "0.9", "--recoveries", "none", "--seeds", "1"]


@pytest.mark.parametrize(
    ("arguments", "cases"),
    [
        (["--tasks", "blobs", "--methods", "magnitude", "--budgets", "10", *ONE], {("blobs", 10, "magnitude")}),
        (["--tasks", "digits-cnn", "--methods", "lamp", "--budgets", "64", *ONE], {("digits-cnn", 64, "lamp")}),
        (["--tasks", "digits-cnn", "--methods", "fails", "--budgets", "10", *ONE], {("digits-cnn", 10, "fails")}),
        (["--tasks", "digits-cnn", "--methods", "lamp,snip,woodfisher-logits", "--budgets", "10", *ONE],
         {("digits-cnn", 10, name) for name in ("lamp", "snip", "woodfisher-logits")}),
    ],
)  # fmt: skip
def test_what_is_asked_for_by_name_runs_in_the_lead(
    arguments: list[str], cases: set[tuple[str, int, str]], files: list[str], tmp_path: Path
) -> None:
    found = suites("-m", "lead", *files, "--results", str(tmp_path), *arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    records = [json.loads(line) for line in (tmp_path / "lead.jsonl").read_text().splitlines()]
    assert {(record["task"], record["budget"], record["method"]) for record in records} == cases
    assert len(records) == len(cases)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "my-typo"], 'unknown method "my-typo"'),
        (["--methods", "filter-l1"], r"filter-l1 reaches filter; the suite lead is of unstructured; declared are:\s"),
        (["--methods", "filter-l1,thinet", "--budgets", "64"],
         r"the suite lead is of unstructured; declared are:\s+lead, unstructured: --tasks"),
    ],
)  # fmt: skip
def test_an_empty_selection_of_the_lead_lists_what_is_declared(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    refused(suites("-m", "lead", "--tasks", "digits-cnn", "--results", str(tmp_path), *arguments), message)
    assert not list(tmp_path.glob("*.jsonl"))


def collected(*arguments: str) -> set[str]:
    """The files of the cases."""
    found = suites(*arguments, "--collect-only", "-q")
    assert found.returncode == 0, found.stdout + found.stderr
    return set(re.findall(r"suite_(\w+)\.py::", found.stdout))


def test_a_suite_joins_nothing_that_another_of_its_marker_declares_by_name(files: list[str]) -> None:
    few = ["--methods", "magnitude+kept", "--budgets", "50", *ONE]
    assert collected("-m", "attribution", "--tasks", "digits-cnn", *few) == {"attribution"}
    assert collected("-m", "attribution", *files, "--tasks", "blobs", *few) == {"attribution", "attribution_resnet20"}
    assert collected("-m", "lowdata", *files, "--tasks", "blobs", *few) == {"lowdata", "labels"}


def test_a_suite_without_a_case_does_not_stop_the_others() -> None:
    few = ["--methods", "filter-l1", "--tasks", "digits-cnn", "--budgets", "10"]
    assert collected("-m", "smoke or structured", *few) == {"structured"}


FAR = """
from pathlib import Path
from wfbench.tasks import fashion
fashion.DEBIAN = Path("/nowhere")
"""


def elsewhere(folder: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """pytest in a folder of the user's, where the library is on the path and no configuration is."""
    out = folder / f"{len(list(folder.glob('*.out')))}.out"
    return Program("pytest", "-p", "no:cacheprovider", *arguments, out=out, folder=folder, **environment).end()


def test_a_task_that_was_not_asked_for_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "far.py").write_text(FAR)
    plugins = ["-p", "far", "-p", "wfbench.pytest_plugin", str(ROOT / "suites"), "-c", "/dev/null"]
    cache = {"WFBENCH_CACHE": str(tmp_path / "empty")}
    few = ["--methods", "filter-l1", "--budgets", "10", "--sparsities", "0.3", "--recoveries", "none", "--seeds", "1"]
    run = [*plugins, "-m", "structured", "--results", str(tmp_path / "out"), *few]
    found = elsewhere(tmp_path, *run, "--tasks", "digits-cnn", **cache)
    assert found.returncode == 0, found.stdout + found.stderr
    lines = (tmp_path / "out" / "structured.jsonl").read_text().splitlines()
    assert {json.loads(line)["task"] for line in lines} == {"digits-cnn"}
    refused(elsewhere(tmp_path, *run, **cache), "Fashion-MNIST is not in .*; run `wfbench fetch fashion-mlpnet` once")


MINE = """\"\"\"Digits alone, my way.\"\"\"

import pytest

from wfbench.harness.suite import Grid, Suite

GRID = Grid((4,), (0.5,), ("none",), 2, tasks=("digits-cnn",), methods=("magnitude",))
SUITE = Suite("of-my-own", (GRID,))

@pytest.mark.mine
def test_case(case, run_case):
    run_case(case)
"""


@pytest.mark.parametrize("by", ["conftest", "command line"])
def test_an_own_suite_runs_under_its_own_marker(by: str, tmp_path: Path) -> None:
    folder = tmp_path / "my_suites"
    folder.mkdir()
    (folder / "suite_mine.py").write_text(MINE)
    if by == "conftest":
        (folder / "conftest.py").write_text('pytest_plugins = ["wfbench.pytest_plugin"]\n')
    loaded = ["-p", "wfbench.pytest_plugin"] if by == "command line" else []
    found = elsewhere(tmp_path, *loaded, "my_suites", "-m", "mine")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "2 cases run, 0 reused" in found.stdout
    assert len((tmp_path / "results" / "of-my-own.jsonl").read_text().splitlines()) == 2
    for wrong, problem in {"mien": "there is no suite mien", "": "say which suite to run"}.items():
        listed = elsewhere(tmp_path, *loaded, "my_suites", *(["-m", wrong] if wrong else []))
        refused(listed, rf"{problem}; the suites are:\s+-m smoke(.|\n)* -m mine +Digits alone, my way\.")


def test_the_suites_of_an_installed_package_run(tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(ROOT / "wfbench", site / "wfbench")
    for name in ("baselines", "suites"):
        shutil.copytree(ROOT / name, site / "wfbench" / name)
    few = ["--methods", "magnitude", "--budgets", "16", "--sparsities", "0.5", "--seeds", "2", "--results", "out"]
    arguments = ["--pyargs", "wfbench.suites", "-m", "smoke"]
    runs = [[*arguments, "--collect-only", "-q"], ["-p", "wfbench.pytest_plugin", *arguments, *few]]
    program = f"import pytest, wfbench\nprint(wfbench.__file__)\nprint(*map(pytest.main, {runs}))"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert found.stdout.startswith(str(site))
    assert found.stdout.endswith("\n0 0\n"), found.stdout + found.stderr
    assert "162/" in found.stdout
    assert "2 cases run, 0 reused" in found.stdout


def test_an_unknown_marker_lists_the_markers() -> None:
    refused(suites("-m", "smok"), r"there is no suite smok; the suites are:\s+-m smoke")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "0"], "budget 0 is not a number of samples"),
        (["--budgets", "2000"], "more than the 1200 training samples of digits-cnn; give --budgets of at most 1200"),
        (["--budgets", "many"], "--budgets many: give int values"),
        (["--sparsities", "0.5,1.0"], r"sparsity 1\.0 is outside \[0, 1\)"),
        (["--tasks", "mnist"], 'unknown task "mnist"; `wfbench list` shows what there is'),
        (["--methods", "fpgm"], "fpgm reaches filter; the suite smoke is of unstructured"),
        (["--methods", "wodfisher"], 'unknown method "wodfisher"; did you mean woodfisher'),
        (["--recoveries", "magic"], 'unknown recovery "magic"; there are: none, batchnorm'),
        (["--seeds", "0"], "--seeds 0: give how many draws, at least 1; 3 runs the draws 0, 1 and 2"),
        (["--seeds", "1,2"], "--seeds 1,2: give how many draws, at least 1; 3 runs the draws 0, 1 and 2"),
        (["--device", "tpu9"], 'device "tpu9" cannot be used here'),
        (["--baseline-path", "/nowhere.py"], "neither a Python file nor a folder"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(arguments: list[str], message: str, tmp_path: Path) -> None:
    refused(suites("-m", "smoke", "--results", str(tmp_path), *arguments), message)
    assert not list(tmp_path.glob("*.jsonl"))


BROKEN_TASKS = """
import hashlib, torch
from wfbench import Task, WfbenchError
from wfbench.tasks.checkpoints import Checkpoint, FOLDER, load
from wfbench.tasks.digits import digits
from wfbench.tasks.models import digits_cnn
from pathlib import Path

def missing():
    raise WfbenchError("the data of far-away are not here; run `wfbench fetch far-away`")

whole = (FOLDER / "digits-cnn-0.safetensors").read_bytes()
here = Path(__file__).parent
(here / "tampered.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
(here / "short.safetensors").write_bytes(whole[:500])

def checkpoint(name, sha256):
    entry = Checkpoint(name, sha256, 0, 0.9, {}, "")
    return lambda: load(digits_cnn, entry, here)

split = dict(train=lambda: digits()["train"], test=lambda: digits()["test"])
TASKS = [
    Task("far-away", torch.nn.Linear(2, 2), train=missing, test=missing),
    Task("tampered", checkpoint("tampered.safetensors", hashlib.sha256(whole).hexdigest()), **split),
    Task("short", checkpoint("short.safetensors", hashlib.sha256(whole[:500]).hexdigest()), **split),
    Task("gone", checkpoint("gone.safetensors", ""), **split),
]
"""


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("far-away", "the data of far-away are not here; run `wfbench fetch far-away`"),
        ("tampered", r"tampered.safetensors is damaged or was changed: its SHA-256 is .* reinstall wfbench"),
        ("short", "short.safetensors does not fit its network"),
        ("gone", "gone.safetensors is missing; reinstall wfbench"),
    ],
)
def test_a_task_that_cannot_start_says_what_to_do(task: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN_TASKS)
    path = str(tmp_path / "broken.py")
    refused(suites("-m", "smoke", "--results", str(tmp_path), "--task-path", path, "--tasks", task), message)


def test_run_reuse_extend_and_set_a_cut_line_aside(files: list[str], tmp_path: Path) -> None:
    """One story: a run, the same again, more draws, then a damaged record file."""
    results = tmp_path / "out"
    arguments = ["-m", "smoke", "--results", str(results), "--tasks", "blobs", *files, *QUICK]
    first = suites(*arguments)
    assert first.returncode == 0, first.stdout
    assert "16 cases run, 0 reused" in first.stdout
    assert "blobs, 8 samples" in first.stdout
    records = (results / "smoke.jsonl").read_bytes()
    written = {path.name: path.read_bytes() for path in (results / "tables").iterdir()}
    assert {"README.md", "smoke.md", "smoke.csv"} <= set(written)

    again = suites(*arguments)
    assert again.returncode == 0
    assert "0 cases run, 16 reused" in again.stdout
    assert (results / "smoke.jsonl").read_bytes() == records
    assert {path.name: path.read_bytes() for path in (results / "tables").iterdir()} == written

    more = suites(*arguments[:-1], "3")
    assert "8 cases run, 16 reused" in more.stdout
    longer = (results / "smoke.jsonl").read_bytes()
    assert longer.startswith(records)

    (results / "smoke.jsonl").write_bytes(longer[:-40])
    mended = suites(*arguments[:-1], "3")
    assert mended.returncode == 0
    assert "smoke.jsonl: line 24 is cut short; kept in smoke.jsonl.aside" in mended.stdout
    assert "1 cases run, 23 reused" in mended.stdout
    whole, aside = (results / "smoke.jsonl").read_bytes(), (results / "smoke.jsonl.aside").read_bytes()
    last = longer.rindex(b"\n", 0, -1) + 1
    assert whole[:last] == longer[:last]
    assert aside == longer[last:-40] + b"\n"
    assert whole.count(b"\n") == 24
    assert {path.name for path in results.iterdir()} == {"smoke.jsonl", "smoke.jsonl.aside", "tables", "figures"}


def test_what_another_suite_of_the_folder_has_is_taken_from_there(files: list[str], tmp_path: Path) -> None:
    """Another recovery is run; a failed record is taken as any other, but where it is asked to be tried again."""
    common = ["--results", str(tmp_path), "--tasks", "blobs", *files, "--budgets", "4", "--seeds", "2"]
    common += ["--sparsities", "0.5", "--methods", "magnitude,fails"]
    assert "10 cases run, 0 reused" in suites("-m", "smoke", *common, "--recoveries", "none,batchnorm").stdout
    taken = suites("-m", "unstructured", *common, "--recoveries", "none,repair")
    assert re.search("6 cases run, 0 reused from .*, 4 taken from other suites, 4 failed records", taken.stdout)
    ours, theirs = (read(tmp_path / f"{suite}.jsonl") for suite in ("unstructured", "smoke"))
    assert {one["suite"] for one in ours} == {"unstructured"}
    without = {identity(one): one for one in theirs if one["recovery"] == "none"}
    found = {identity(one): one | {"suite": "smoke"} for one in ours if one["recovery"] == "none"}
    assert found == without
    again = suites("-m", "lead", *common, "--recoveries", "none", "--retry-failed")
    assert re.search("2 cases run, 0 reused from .*, 2 taken from other suites, 2 failed records", again.stdout)


def test_a_failing_method_is_a_record_and_a_cheating_one_an_error(files: list[str], tmp_path: Path) -> None:
    common = ["-m", "smoke", "--results", str(tmp_path), "--tasks", "blobs", *files, "--budgets", "4", "--seeds", "2"]
    common += ["--sparsities", "0.5"]
    failing = suites(*common, "--methods", "magnitude,fails")
    assert failing.returncode == 0, failing.stdout
    assert "2 failed records" in failing.stdout
    assert "fit: ValueError: not today" in failing.stdout
    assert "failed (2)" in failing.stdout
    records = [json.loads(line) for line in (tmp_path / "smoke.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records if record["method"] == "fails"] == ["failed", "failed"]
    assert "2 failed records" in suites(*common, "--methods", "magnitude,fails").stdout
    retried = suites(*common, "--methods", "magnitude,fails", "--retry-failed")
    assert "2 cases run, 2 reused" in retried.stdout
    cheating = suites(*common, "--methods", "cheats")
    assert cheating.returncode == 1
    assert "cheats changed the dense network" in cheating.stdout
    assert '"cheats"' not in (tmp_path / "smoke.jsonl").read_text()


def test_rule_13_a_method_that_takes_too_long_is_a_failed_record(files: list[str], tmp_path: Path) -> None:
    grid = ["--budgets", "4", "--sparsities", "0.5", "--recoveries", "none", "--seeds", "1", "--tasks", "blobs"]
    limit = ["--methods", "magnitude,sleeps", "--case-timeout", "1.5", "--results", str(tmp_path)]
    found = suites("-m", "unstructured", *files, *grid, *limit)
    assert found.returncode == 0, found.stdout + found.stderr
    records = {
        one["method"]: one for one in map(json.loads, (tmp_path / "unstructured.jsonl").read_text().splitlines())
    }
    assert records["magnitude"]["status"] == "ok"
    assert records["sleeps"]["status"] == "failed"
    assert records["sleeps"]["reason"].startswith("fit: CaseTimeout: took longer than the 1.5 s of --case-timeout")
    assert "fit: CaseTimeout" in (tmp_path / "tables" / "unstructured-failures.md").read_text()


def test_a_broken_plugin_is_named_and_the_others_run(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    found = suites(
        "-m", "smoke", "--results", str(tmp_path), "--tasks", "blobs", *files, "--baseline-path",
        str(tmp_path / "broken.py"), "--methods", "magnitude", "--budgets", "4", "--seeds", "1",
    )  # fmt: skip
    assert found.returncode == 0
    assert re.search("broken.py was left out: ModuleNotFoundError", found.stdout)


def test_a_killed_run_loses_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "smoke.jsonl"
    arguments = [
        "-m", "smoke", "--results", str(tmp_path), "--methods", "magnitude,random,woodfisher", "--budgets", "16,64",
        "--seeds", "2",
    ]  # fmt: skip
    command = [sys.executable, "-m", "pytest", "suites", *arguments]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while (not path.exists() or path.read_bytes().count(b"\n") < 5) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    before = path.read_bytes()
    done = before.count(b"\n")
    assert 5 <= done < 36
    assert before.endswith(b"\n")
    rest = suites(*arguments)
    assert f"{36 - done} cases run, {done} reused" in rest.stdout
    after = path.read_bytes()
    assert after.startswith(before)
    cases = [identity(json.loads(line)) for line in after.splitlines()]
    assert len(cases) == len(set(cases)) == 36


def test_a_terminal_shows_a_progress_bar(files: list[str], tmp_path: Path) -> None:
    arguments = ["-m", "smoke", "--results", str(tmp_path), "--tasks", "blobs", *files, *QUICK]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 140, 0, 0))
    running = Program("pytest", "suites", *arguments, out=Path(os.ttyname(theirs)))
    assert ours in wait([ours, running.process.sentinel])
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal shows on Linux
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert running.end().returncode == 0, shown.decode()
    assert "16/16" in shown.decode()
    assert "case/s" in shown.decode()
    assert re.search(r"\[\d\d:\d\d left, ", shown.decode())
    assert "blobs-n8-s0-woodfisher" in shown.decode()  # the case that is running
    assert shown.decode().index("Leaders: blobs") < shown.decode().index("blobs, 4 samples (dense")


def test_help_shows_the_options() -> None:
    found = suites("--help")
    assert found.returncode == 0
    for option in ("--results", "--budgets", "--baseline-path", "--retry-failed"):
        assert option in found.stdout
