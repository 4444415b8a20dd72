"""Discovery of methods and tasks: the built-in ones, entry points, and files or folders named by the user."""

import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import wfbench
from wfbench.composed.names import build, parse
from wfbench.data import MapStyle
from wfbench.errors import WfbenchError, kind_and_text, unknown
from wfbench.harness.case import Case
from wfbench.harness.isolation import caught
from wfbench.harness.reuse import modules_of
from wfbench.pruner import Pruner
from wfbench.published import minilm, pitch, smollm2
from wfbench.tasks import cifar, digits, fashion, imagenet
from wfbench.tasks.task import Task
from wfbench.woodfisher import channel_variants as woodfisher_filter
from wfbench.woodfisher import restored as woodfisher_staged
from wfbench.woodfisher import variants as woodfisher


@dataclass
class Registry:
    """Methods and tasks by name, and what failed to load, with the reason."""

    pruners: dict[str, Pruner[Any]] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    subsets: dict[str, Task] = field(default_factory=dict)
    """Tasks scored on fewer test samples, kept so that their data are read once; no tasks of their own."""
    strange: set[str] = field(default_factory=set)
    """Names of tasks, and modules of methods, that are not wfbench's."""

    def add_pruners(self, found: Iterable[Pruner[Any]], origin: str) -> None:
        for pruner in found:
            name = getattr(pruner, "name", None)
            if not isinstance(name, str) or not name:
                raise WfbenchError(f"{type(pruner).__name__} in {origin} has no `name`; give it a class attribute")
            if name in self.pruners:
                raise WfbenchError(f'method name "{name}" in {origin} is taken; choose another')
            _ = pruner.track
            self.pruners[name] = pruner

    def add_tasks(self, found: Iterable[Task], origin: str) -> None:
        for task in found:
            if not isinstance(task, Task):
                raise WfbenchError(f"TASKS in {origin} holds a {type(task).__name__}; it must hold Task objects")
            if task.name in self.tasks:
                raise WfbenchError(f'task name "{task.name}" in {origin} is taken; choose another')
            self.tasks[task.name] = task

    def strangers(self, case: Case) -> set[str]:
        """Its task, and the modules of methods that are part of it, that are not wfbench's."""
        return self.strange & {case.task.name.partition("[")[0], *modules_of(case)}

    def pruner(self, name: str) -> Pruner[Any]:
        """The method of that name, by the grammar of `composed.names`, or an error that says what is wrong with it."""
        return build(parse(name, self.pruners), self.pruners)

    def task(self, name: str) -> Task:
        """The task of that name, or an error that names those like it.

        `TASK[2000]` is TASK scored on a fixed subset of 2000 test samples.
        """
        if name not in self.tasks and (cut := re.fullmatch(r"(.+)\[(\d+)\]", name)):
            if name not in self.subsets:
                self.subsets[name] = _subset(self.task(cut[1]), int(cut[2]), name)
            return self.subsets[name]
        if name not in self.tasks:
            raise unknown("task", name, self.tasks)
        return self.tasks[name]

    def chosen(self, names: Iterable[str]) -> list[Task]:
        """The tasks of these names; without any, all but those on request."""
        named = [self.task(name) for name in names]
        return named or [task for task in self.tasks.values() if not task.on_request]


def _subset(task: Task, n: int, name: str) -> Task:
    """`task.scored_on(n)`; of a task whose test split cannot be read, one whose cases fail for that reason."""
    try:
        len(task.test_set)
    except BaseException as error:  # a stranger's task may raise anything
        reason = caught(error)

        def test() -> MapStyle:
            raise reason

        return replace(task, name=name, test=test)
    return task.scored_on(n)


def discover(baseline_paths: Iterable[str] = (), task_paths: Iterable[str] = ()) -> Registry:
    """All methods and tasks. A plugin that fails is named in `failures`; the others are there all the same."""
    registry = Registry()
    for module in (woodfisher, woodfisher_filter, woodfisher_staged):
        registry.add_pruners(pruners_of(module), module.__name__)
    for module in (digits, fashion, cifar, imagenet, smollm2, minilm, pitch):
        registry.add_tasks(module.TASKS, module.__name__)
    _add_pruners_in(str(shipped("baselines")), registry)
    ours = {*registry.tasks, *(type(pruner).__module__ for pruner in registry.pruners.values())}
    for named in baseline_paths:
        _add_pruners_in(named, registry)
    for path in python_files(task_paths):
        _guarded(registry, str(path), lambda path=path: registry.add_tasks(tasks_of(load(path)), str(path)))
    for entry in entry_points(group="wfbench.pruners"):
        _guarded(registry, entry.value, lambda e=entry: registry.add_pruners(_instances([e.load()]), e.value))
    for entry in entry_points(group="wfbench.tasks"):
        _guarded(registry, entry.value, lambda e=entry: registry.add_tasks([e.load()], e.value))
    registry.strange = {*registry.tasks, *(type(pruner).__module__ for pruner in registry.pruners.values())} - ours
    return registry


def _guarded(registry: Registry, origin: str, add: Any) -> None:
    try:
        add()
    except WfbenchError as error:
        registry.failures[origin] = str(error)
    except BaseException as error:  # a stranger's import may raise anything
        registry.failures[origin] = kind_and_text(caught(error))


def _add_pruners_in(path: str, registry: Registry) -> None:
    """The methods of a file or folder; that there is none is a failure too."""
    before = len(registry.pruners), len(registry.failures)
    for file in python_files([path]):
        _guarded(registry, str(file), lambda file=file: registry.add_pruners(pruners_of(load(file)), str(file)))
    if before == (len(registry.pruners), len(registry.failures)):
        registry.failures[path] = "no method in it; a method is a class that derives from Pruner, or is in PRUNERS"


def pruners_in(path: str) -> tuple[list[Pruner[Any]], dict[str, str]]:
    """The methods of a file or folder, whatever names are taken elsewhere, and the files that failed, with reasons."""
    registry = Registry()
    _add_pruners_in(path, registry)
    return list(registry.pruners.values()), registry.failures


def python_files(paths: Iterable[str]) -> list[Path]:
    """The files named, and those directly inside the folders named, sorted; names with `_` first are left out."""
    found: list[Path] = []
    for text in paths:
        path = Path(text)
        if path.is_dir():
            found += sorted(file for file in path.glob("*.py") if not file.name.startswith("_"))
        elif path.is_file():
            found.append(path)
        else:
            raise WfbenchError(f"{path} is neither a Python file nor a folder of them")
    return found


_FOLDERS: list[Path] = []
"""Of files that were loaded, and first where modules are looked for, in this order."""


def load(path: Path) -> ModuleType:
    """Import one file under a name of its own; what lies beside it can be imported, as by a script, and relatively."""
    folder = path.resolve().parent
    _make_importable(folder, path.read_text(errors="replace"))
    package = f"wfbench_plugins_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    name = f"{package}.{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise WfbenchError(f"{path} is not a Python file")
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package, f"The files of {folder}.")
        sys.modules[package].__path__ = [str(folder)]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _make_importable(folder: Path, text: str) -> None:
    """Put a folder where modules are looked for, after those of files that were loaded before.

    Args:
        text: of the file that is loaded.

    Raises:
        WfbenchError: it imports by name what stands beside it and beside another loaded file.
    """
    if folder == shipped("baselines").resolve():
        return
    for other in _FOLDERS:
        for beside in folder.iterdir() if other != folder else ():
            if (other / beside.name).exists() and re.search(rf"^\s*(from|import) {beside.stem}\b", text, re.MULTILINE):
                raise WfbenchError(
                    f"{beside.name} stands in {folder} and in {other}, and `import {beside.stem}` means the second; "
                    f"rename one, or import it as `from . import {beside.stem}`"
                )
    if folder not in _FOLDERS:
        sys.path.insert(len(_FOLDERS), str(folder))
        _FOLDERS.append(folder)


def shipped(name: str) -> Path:
    """The folder `baselines` or `suites`: beside the library in a checkout, inside it where it is installed."""
    inside = Path(wfbench.__file__).parent / name
    return inside if inside.is_dir() else inside.parents[1] / name


def pruners_of(module: ModuleType) -> list[Pruner[Any]]:
    """The module's constant `PRUNERS` (instances or classes), or every concrete `Pruner` defined in it.

    Raises:
        WfbenchError: a class lacks its `name` or what makes it concrete. Bases of others may: those of classes in the
            module, and those with `_` first.
    """
    if hasattr(module, "PRUNERS"):
        return _instances(module.PRUNERS)
    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Pruner)]
    own = [cls for cls in classes if cls.__module__ == module.__name__]
    found = [cls for cls in own if not inspect.isabstract(cls) and hasattr(cls, "name")]
    bases = {base for cls in own for base in cls.__mro__[1:]}
    for cls in own:
        if cls not in found and cls not in bases and not cls.__name__.startswith("_"):
            lacks = sorted(getattr(cls, "__abstractmethods__", ())) or ["name"]
            missing = " and ".join(f"`{word}`" for word in lacks)
            raise WfbenchError(f"{cls.__name__} lacks {missing}; a base of other methods is named with _ first")
    return _instances(found)


def _instances(found: Iterable[Any]) -> list[Pruner[Any]]:
    made: list[Pruner[Any]] = []
    for item in found:
        pruner = item() if inspect.isclass(item) else item
        if not isinstance(pruner, Pruner):
            raise WfbenchError(f"PRUNERS holds a {type(pruner).__name__}; it must hold Pruner classes or instances")
        made.append(pruner)
    return made


def tasks_of(module: ModuleType) -> Iterable[Task]:
    if not hasattr(module, "TASKS"):
        raise WfbenchError(f"{module.__file__} has no constant TASKS; list its Task objects there")
    found: Iterable[Task] = module.TASKS
    return found
