"""The program at its edges: nothing found, nowhere to write, interrupted; one line, the right status, no half file."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cases import case_of
from tests.processes import Program
from tests.test_store import room_for
from tests.test_suites import refused, suites
from wfbench import Pruner, ScorePruner, WfbenchError, run
from wfbench.cli import _parser, main
from wfbench.commands import ABOUT
from wfbench.conformance.checks import CHECKS, check, parametrize_with_checks
from wfbench.conformance.trial import CheckFailed
from wfbench.export import save
from wfbench.harness.plugins import discover, pruners_in
from wfbench.harness.session import Session
from wfbench.network import Network, Params
from wfbench.tasks import checkpoints
from wfbench.tasks.evaluate import Scores
from wfbench.writing import check_file, check_folder, whole

FEW = ["-m", "smoke", "--tasks", "digits-cnn", "--methods", "magnitude", "--budgets", "10", "--seeds", "1"]

METHOD = """
from wfbench import ScorePruner

class Mine(ScorePruner[None]):
    name = "mine"

    def scores(self, net, data):
        return {name: BODY for name, weight in net.weights.items()}
"""


LIMITED = """
import contextlib, io, json, sys
from wfbench.cli import main

for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        status = main(command)
    print(json.dumps([status, said.getvalue()]))
"""


def limited(commands: list[list[str]]) -> list[tuple[int, str]]:
    """Status and errors of commands of a user whom permissions bind, which the superuser's are dropped for."""
    drop = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    command = [*drop, sys.executable, "-c", LIMITED, json.dumps(commands)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (found.returncode, found.stderr) == (0, ""), found
    return [(status, said) for status, said in map(json.loads, found.stdout.splitlines())]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of one record."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "mine.jsonl").write_text(run(case_of("magnitude")).as_json() + "\n")
    return folder


def one_line(text: str, *parts: str) -> None:
    assert text.count("\n") == 1, text
    for part in parts:
        assert part in text


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"wfbench {version('wfbench')}\n"


def test_every_option_says_its_default() -> None:
    """Where it takes one value and may be left out; a file that is written as well has none."""
    names = [name for of in ABOUT.values() for name in of]
    for name in names:
        (commands,) = _parser(name)._subparsers._group_actions
        command = commands.choices[name]
        for option in command._actions:
            if option.nargs == 0 or not option.option_strings or option.required or isinstance(option.default, list):
                continue
            if option.default is None:
                assert "(default: " in option.help or "as well" in option.help, (name, option.help)
            else:
                assert f"(default: {option.default})" in option.help, (name, option.help)


# --- check


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no method in it"),
        (METHOD.replace('    name = "mine"\n', ""), "Mine lacks `name`"),
        (METHOD.replace("def scores", "def score"), "Mine lacks `scores`"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
    ],
)
def test_check_fails_where_it_finds_no_method(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert main(["check", str(path)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if reason in line]
    assert len(lines) == 1
    assert main(["check", "--baseline-path", str(path), "magnitude"]) == 0
    assert reason in discover([str(path)]).failures[str(path)]


def test_check_fails_on_a_folder_without_a_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 1
    assert "0 methods, 1 checks, 1 failed" in capsys.readouterr().out
    (tmp_path / "helper.py").write_text("x = 1")
    (tmp_path / "mine.py").write_text(METHOD)
    found, failures = pruners_in(str(tmp_path))  # a helper beside methods is none that fails
    assert ([pruner.name for pruner in found], failures) == (["mine"], {})


def test_bases_of_methods_need_no_name(tmp_path: Path) -> None:
    inherits = '\n\nclass Named(Mine):\n    name = "named"\n'
    (tmp_path / "one.py").write_text(METHOD.replace('    name = "mine"\n', "") + inherits)
    (tmp_path / "two.py").write_text(METHOD.replace('    name = "mine"\n', "").replace("Mine", "_Mine"))
    found, failures = pruners_in(str(tmp_path))
    assert ([pruner.name for pruner in found], failures) == (["named"], {})


def test_a_crash_is_shown_once_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "crashes.py"
    path.write_text(METHOD.replace("BODY", "weight.abs() / missing"))
    assert main(["check", str(path), "--json"]) == 1
    (only,) = json.loads(capsys.readouterr().out)
    assert (only["check"], only["status"]) == ("runs", "failed")
    assert "NameError: name 'missing' is not defined" in only["reason"]
    assert f"{path}:8, in " in only["reason"]
    assert f"the other {len(CHECKS)} checks" in only["reason"]


class CrashesOnZero(ScorePruner[None]):
    """Crashes where the first weight is zero, each time in the same line."""

    name = "crashes-later"

    def scores(self, net: Network, data: None) -> Params:
        if float(next(iter(net.weights.values())).flatten()[0]) == 0:
            raise SystemExit(3)
        return {name: weight.abs() for name, weight in net.weights.items()}


def test_a_crash_that_comes_again_is_skipped_with_the_first_named() -> None:
    """Of the checks, two alone make the first weight zero: the sign of a zero, and dead channels."""
    found = {outcome.check: outcome for outcome in check(CrashesOnZero())}
    assert found["runs"].status == "ok"
    first, again = found["zero_sparsity_is_identity"], found["equal_samples"]
    assert (first.status, again.status) == ("failed", "skipped")
    assert first.reason.startswith("the method crashes: SystemExit: 3 (")
    assert __file__ in first.reason
    assert again.reason == "the method crashes as in zero_sparsity_is_identity"
    assert [name for name, outcome in found.items() if outcome.status == "failed"] == ["zero_sparsity_is_identity"]


def test_items_of_a_method_that_crashes_are_one_failure() -> None:
    class Crashes(CrashesOnZero):
        def scores(self, net: Network, data: None) -> Params:
            raise ZeroDivisionError("at once")

    pairs: list[tuple[Pruner[None], Callable[[Pruner[None]], None]]] = parametrize_with_checks([Crashes()]).args[1]
    (pruner, runs), *others = pairs
    with pytest.raises(CheckFailed, match="ZeroDivisionError: at once"):
        runs(pruner)
    for pruner, other in others:
        with pytest.raises(pytest.skip.Exception, match="the check `runs` fails"):
            other(pruner)


# --- nowhere to write


def test_what_cannot_be_written_is_found_out(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    check_folder(tmp_path / "to" / "be" / "made")
    check_file(tmp_path / "new")
    check_file(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    for folder, message in (
        (file, "is not a folder"),
        (file / "sub", "is not a folder"),
        (Path("/proc/x"), "nothing can"),
    ):
        with pytest.raises(WfbenchError, match=message):
            check_folder(folder)
    for path, message in (
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "none" / "x", "there is no folder"),
        (Path("/dev/null"), "cannot be written"),
    ):
        with pytest.raises(WfbenchError, match=message):
            check_file(path)


def stop_halfway(path: Path, stop: type[BaseException]) -> None:
    with whole(path) as part:
        part.write_text("half")
        raise stop


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("before")
    link.symlink_to(path)
    for stop in (KeyboardInterrupt, ValueError):
        with pytest.raises(stop):
            stop_halfway(path, stop)
    assert path.read_text() == "before"
    with whole(link) as part:
        part.write_text("after")
    assert (path.read_text(), link.is_symlink()) == ("after", True)
    with pytest.raises(WfbenchError, match="cannot be written"), whole(path) as part:
        raise OSError(28, "No space left on device")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file", "link"]
    assert path.read_text() == "after"


def test_a_network_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_text("before")
    with room_for(1000), pytest.raises(WfbenchError, match=r"net.safetensors cannot be written \(File too large\)"):
        save(path, torch.nn.Linear(100, 100), {})
    assert [found.name for found in tmp_path.iterdir()] == ["net.safetensors"]
    assert path.read_text() == "before"


def test_results_that_cannot_be_written_are_refused_before_the_first_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "run", lambda *_: pytest.fail("a case was run"))
    file = tmp_path / "file"
    file.write_text("")
    for results, message in (
        (file, "file is not a folder"),
        (file / "sub", "file is not a folder"),
        ("/proc/x", "nothing can be written to /proc"),
    ):
        found = suites(*FEW, "--results", str(results))
        refused(found, message)
        one_line(found.stderr.rstrip("\n") + "\n")
    (tmp_path / "smoke.jsonl").mkdir()
    refused(suites(*FEW, "--results", str(tmp_path)), "smoke.jsonl is a folder")


def test_commands_that_read_work_on_a_read_only_folder_and_those_that_write_say_so(results: Path) -> None:
    other = results.parent / "other"
    other.mkdir()
    assert main(["tables", "--results", str(results)]) == 0
    with (results / "mine.jsonl").open("a") as file:
        file.write('{"task": "digi')
    for path in (*results.rglob("*"), results):
        path.chmod(path.stat().st_mode & ~0o222)
    where, word = ["--results", str(results)], f"wfbench: {results / 'mine.jsonl'}: line 2 is cut short; left out\n"
    read = [["tables", "--check", *where], ["compare", str(results), str(results)]]
    found = limited([*read, ["tables", *where], ["report", *where]])
    assert found[:2] == [(0, word)] * 2
    assert len(found) == 4
    for status, said in found[2:]:
        assert status == 2
        one_line(said.removeprefix(word), "nothing can be written to", "Permission denied")


def test_parquet_into_a_missing_folder_is_refused_before_the_tables(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tables", "--results", str(results), "--parquet", str(results / "none" / "cases.parquet")]) == 2
    one_line(capsys.readouterr().err, "there is no folder", "none for cases.parquet")
    assert [path.name for path in results.iterdir()] == ["mine.jsonl"]


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "/there"), NotADirectoryError(20, "Not a directory", "/there")]
)
def test_a_file_that_cannot_be_used_is_one_line_whatever_the_command(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr("wfbench.commands.tasks.discover", stop)
    assert main(["fetch"]) == 2
    assert capsys.readouterr().err == f"wfbench: /there: {error.strerror}\n"


# --- suites


def test_what_is_only_listed_writes_nothing(results: Path) -> None:
    (results / "smoke.jsonl").write_bytes((results / "mine.jsonl").read_bytes())
    before = {path: path.read_bytes() for path in results.iterdir()}
    found = suites(*FEW, "--results", str(results), "--collect-only", "-q")
    assert found.returncode == 0
    assert "test_case[digits-cnn-n10-s0-magnitude-global-0.5-none]" in found.stdout
    assert "tables:" not in found.stdout
    assert {path: path.read_bytes() for path in results.iterdir()} == before
    assert suites(*FEW, "--results", "/proc/x", "--collect-only").returncode == 0


def test_a_keyword_that_selects_no_case_is_a_usage_error(tmp_path: Path) -> None:
    found = suites(*FEW, "--results", str(tmp_path / "new"), "-k", "nothing")
    refused(found, '-k "nothing" selects none of 3 cases')
    assert not (tmp_path / "new").exists()


def test_tables_that_cannot_be_written_are_said_after_the_records_are_kept(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("in the way")
    found = suites(*FEW, "--results", str(tmp_path))
    assert "no tables: " in found.stdout
    assert f"`wfbench tables --results {tmp_path}` makes them from the records" in found.stdout
    assert len((tmp_path / "smoke.jsonl").read_text().splitlines()) == 3


def test_a_full_disk_ends_the_run_at_its_first_case_and_tears_no_record(tmp_path: Path) -> None:
    assert suites(*FEW, "--sparsities", "0.5", "--results", str(tmp_path)).returncode == 0
    path = tmp_path / "smoke.jsonl"
    before = path.read_bytes()
    with room_for(len(before) + 10):
        found = suites(*FEW, "--results", str(tmp_path))
    assert found.returncode == 1
    assert found.stdout.count("smoke.jsonl cannot be written (File too large); make room, and start again") >= 1
    assert "0 cases run, 1 reused" in found.stdout
    assert path.read_bytes() == before
    assert suites(*FEW, "--results", str(tmp_path)).returncode == 0
    assert len(path.read_text().splitlines()) == 3


# --- interrupted

WAITS = """
import time
from pathlib import Path
from wfbench import ScorePruner

class Waits(ScorePruner[None]):
    name = "waits"

    def scores(self, net, data):
        Path(__file__).with_suffix(".begun").touch()
        time.sleep(60)
"""


@pytest.mark.parametrize("command", ["prune", "check"])
def test_an_interrupt_is_one_line_and_leaves_nothing_behind(command: str, tmp_path: Path) -> None:
    plugin = tmp_path / "waits.py"
    plugin.write_text(WAITS)
    arguments = {
        "prune": ["prune", "digits-cnn", "--baseline-path", str(plugin), "--method", "waits", "--sparsity", "0.5"],
        "check": ["check", str(plugin)],
    }[command]
    arguments += ["--out", str(tmp_path / "out.safetensors")] if command == "prune" else []
    program = Program("wfbench", *arguments, out=tmp_path / "said")
    until = time.monotonic() + 200
    while not (tmp_path / "waits.begun").exists():
        assert program.process.is_alive(), program.end()
        assert time.monotonic() < until
        time.sleep(0.05)
    program.signal(signal.SIGINT)
    found = program.end(60)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "wfbench: interrupted\n")
    left = {"waits.py", "waits.begun", "said", "said.err"}
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == left


# --- train


def test_what_train_writes_is_a_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wfbench.commands.tasks.train", lambda module, *_, resume: (resume.touch(), module.eval())[1])
    monkeypatch.setattr("wfbench.commands.tasks.evaluate", lambda *_: Scores(99, 396, 1.0, 40))
    assert main(["train", "digits-cnn", "--seed", "7", "--out", str(tmp_path)]) == 0
    tasks = tmp_path / "trained_tasks.py"
    assert f"as a task: digits-cnn-7, with --task-path {tasks}" in capsys.readouterr().out
    task = discover(task_paths=[str(tasks)]).task("digits-cnn-7")
    (entry,) = checkpoints.registry(tmp_path)["digits-cnn"]
    assert task.accuracies == (0.25,)
    saved = load_file(tmp_path / entry.file)
    assert all(bool((value == saved[name]).all()) for name, value in task.dense(0).state_dict().items())
    assert main(["train", "digits-cnn", "--out", str(tmp_path / entry.file)]) == 2
    one_line(capsys.readouterr().err, "is not a folder")
