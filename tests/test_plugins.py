"""Discovery: a stranger's file is as good as ours, and a broken one stops nobody."""

import sys
from pathlib import Path

import pytest

from tests.test_suites import suites
from wfbench import WfbenchError, WoodFisher
from wfbench.cli import main
from wfbench.harness.plugins import discover

GOOD = """
from dataclasses import dataclass
from wfbench import ScorePruner

@dataclass(frozen=True)
class Mine(ScorePruner[None]):
    name = "mine"
    power: int = 2

    def scores(self, net, data):
        return {name: weight.abs() ** self.power for name, weight in net.weights.items()}
"""


def test_what_ships_is_found() -> None:
    registry = discover()
    assert not registry.failures
    assert {"magnitude", "magnitude-layer", "diag-fisher", "random", "woodfisher"} <= registry.pruners.keys()
    usual = ["digits-cnn", "fashion-mlpnet", "fashion-resnet20", "fashion-mobilenetv1"]
    assert [task.name for task in registry.chosen([])] == usual
    cifar = {f"{data}-{network}" for data in ("cifar10", "cifar10-jpeg") for network in ("resnet20", "resnet56")}
    networks = ("resnet50", "mobilenetv1", "mobilenetv2", "deit-s", "efficientnet-lite0")
    other = {"debian-minilm-l6", "smollm2-135m-instruct", "tones-crepe-full", "tones-crepe-tiny"}
    assert registry.tasks.keys() == {*usual, *cifar, *other, *(f"imagenet-{network}" for network in networks)}
    assert [task.name for task in registry.chosen(["cifar10-resnet20"])] == ["cifar10-resnet20"]
    assert all(pruner.source for pruner in registry.pruners.values())
    assert registry.pruner("woodfisher") == WoodFisher()


def test_every_concrete_pruner_of_a_file_is_registered(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    assert discover([str(tmp_path / "mine.py")]).pruner("mine").track == "data-free"
    assert "mine" in discover([str(tmp_path)]).pruners


def test_the_constant_pruners_goes_first(tmp_path: Path) -> None:
    text = GOOD.replace('name = "mine"', 'name: str = "mine"') + '\nPRUNERS = [Mine, Mine(name="mine-4", power=4)]\n'
    (tmp_path / "several.py").write_text(text)
    registry = discover([str(tmp_path)])
    assert not registry.failures
    assert registry.pruner("mine-4") != registry.pruner("mine")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_of_that_name", "No module named"),
        (GOOD.replace("ScorePruner[None]", "ScorePruner"), "does not say what data it may see"),
        (GOOD.replace('"mine"', '"magnitude"'), 'method name "magnitude"'),
        ("PRUNERS = [3]", "PRUNERS holds a int"),
        ("1 +", "SyntaxError"),
    ],
)
def test_a_broken_plugin_is_named_and_the_others_run(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(text)
    (tmp_path / "good.py").write_text(GOOD.replace('"mine"', '"good"'))
    registry = discover([str(tmp_path)])
    assert "good" in registry.pruners
    ((origin, found),) = registry.failures.items()
    assert origin.endswith("broken.py")
    assert reason in found


def test_tasks_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "import torch\nfrom wfbench import Task\nx, y = torch.randn(9, 4), torch.arange(9) % 2\n"
        "TASKS = [Task('tiny', torch.nn.Linear(4, 2), train=(x, y), test=(x, y))]\n"
    )
    registry = discover(task_paths=[str(tmp_path / "tasks.py")])
    assert len(registry.task("tiny").train_set) == 9
    (tmp_path / "none.py").write_text("x = 1")
    assert "no constant TASKS" in next(iter(discover(task_paths=[str(tmp_path / "none.py")]).failures.values()))


@pytest.fixture
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put on the path is not there for the tests that follow."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("wfbench.harness.plugins._FOLDERS", [])


BESIDE = """
import torch
import numbers_{name}
from wfbench import Task

def network():
    import layers_{name}
    return layers_{name}.network()

x, y = torch.randn(9, 4), torch.arange(9) % numbers_{name}.CLASSES
TASKS = [Task("{name}", network, train=(x, y), test=(x + 1, y))]
"""


def beside(folder: Path, name: str) -> str:
    """A task file that imports what stands beside it, when it is loaded and when its network is made."""
    folder.mkdir()
    (folder / f"numbers_{name}.py").write_text("CLASSES = 2\n")
    (folder / f"layers_{name}.py").write_text("import torch\ndef network():\n    return torch.nn.Linear(4, 2)\n")
    (folder / "tasks.py").write_text(BESIDE.format(name=name))
    return str(folder / "tasks.py")


@pytest.mark.usefixtures("_path")
def test_a_task_file_imports_what_stands_beside_it(tmp_path: Path) -> None:
    registry = discover(task_paths=[beside(tmp_path / "a", "first"), beside(tmp_path / "b", "second")])
    assert not registry.failures
    for name in ("first", "second"):
        assert registry.task(name).dense().out_features == 2


@pytest.mark.usefixtures("_path")
def test_two_files_of_one_name_beside_task_files_are_named(tmp_path: Path) -> None:
    registry = discover(task_paths=[beside(tmp_path / "a", "third"), beside(tmp_path / "b", "third")])
    assert list(registry.task("third").train_set.labels[:3]) == [0, 1, 0]
    ((_, reason),) = registry.failures.items()
    assert "third.py stands in" in reason
    assert "rename one, or import it as `from . import" in reason


@pytest.mark.usefixtures("_path")
def test_a_task_file_imports_from_its_folder_however_the_program_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--json", "--task-path", beside(tmp_path / "a", "listed")]) == 0
    printed = capsys.readouterr()
    assert '"listed"' in printed.out
    assert "left out" not in printed.err
    file = beside(tmp_path / "b", "collected")
    one = ["--methods", "magnitude", "--budgets", "4", "--sparsities", "0.5", "--seeds", "1"]
    found = suites("-m", "smoke", "--tasks", "collected", *one, "--collect-only", "-q", "--task-path", file)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "collected-n4-s0-magnitude" in found.stdout


def test_unknown_paths_are_errors() -> None:
    with pytest.raises(WfbenchError, match="neither a Python file nor a folder"):
        discover(["/nowhere/at/all.py"])


def test_installed_packages_register_through_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text(
        GOOD + "\nimport torch\nfrom wfbench import Task\nx, y = torch.randn(9, 4), torch.arange(9) % 2\n"
        "TINY = Task('stranger-task', torch.nn.Linear(4, 2), train=(x, y), test=(x, y))\n"
    )
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[wfbench.pruners]\nmine = stranger:Mine\ngone = stranger:Gone\n[wfbench.tasks]\ntiny = stranger:TINY\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = discover()
    assert registry.pruner("mine").track == "data-free"
    assert len(registry.task("stranger-task").train_set) == 9
    ((origin, reason),) = registry.failures.items()
    assert (origin, "AttributeError" in reason) == ("stranger:Gone", True)
    assert "woodfisher" in registry.pruners
