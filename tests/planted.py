"""Faults of devices, planted: what moves a tensor, or says where one is made, taken out of one line at a time.

`python -m tests.planted VERDICTS [PART …]` plants each in wfbench and the baselines, or those whose line has
one of these parts, and says which check on the pretend device notices. Every fault has a process of its own. Each
verdict is a line of the file VERDICTS; a fault of a file that has not changed since is not planted again.
"""

import ast
import hashlib
import inspect
import json
import pickle
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FunctionType
from typing import Any, TypeAlias

import torch
from tqdm import tqdm

from benchmarks.forked import after, finish, start

ROOT = Path(__file__).parent.parent
KEYWORDS = ("device", "generator")


@dataclass(frozen=True)
class Plant:
    """One fault: the function it is in by its qualified name, and that function's code with the fault."""

    file: str
    line: int
    column: int
    place: int
    kind: str
    function: str
    code: CodeType

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.kind} in {self.function}"

    def target(self) -> FunctionType:
        """The function as it is used, out of what decorates it."""
        found: Any = next(
            (m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == str(ROOT / self.file)), None
        ) or import_module(".".join(Path(self.file).with_suffix("").parts).removesuffix(".__init__"))
        for name in self.function.split("."):
            found = inspect.getattr_static(found, name)
        found = found.fget if isinstance(found, property) else found
        found = found.func if isinstance(found, cached_property) else getattr(found, "__func__", found)
        found = inspect.unwrap(found)
        assert isinstance(found, FunctionType), self
        return found


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    """Inside, the fault is there."""
    function = plant.target()
    before = function.__code__
    function.__code__ = plant.code
    try:
        yield
    finally:
        function.__code__ = before


def plants(file: str) -> Iterator[Plant]:
    """Every fault that can be planted in a file."""
    source = (ROOT / file).read_text()
    for at, node in enumerate(ast.walk(ast.parse(source))):
        for kind, fault in _faults(node):
            tree = ast.parse(source)
            same: Any = list(ast.walk(tree))[at]
            assert isinstance(node, ast.Call)
            function = _function(tree, same)
            if function is not None:  # what stands outside of functions is done once, on import
                fault(same)
                code = _code(compile(ast.fix_missing_locations(tree), str(ROOT / file), "exec"), function)
                yield Plant(file, node.lineno, node.end_col_offset or 0, at, kind, function, code)


def _noting(found: list[Plant], note: Callable[[str], None]) -> None:
    """For good: functions of one file say which of their faults' calls are made."""
    tree = ast.parse((ROOT / found[0].file).read_text())
    nodes: list[Any] = list(ast.walk(tree))
    for plant in found:
        said = ast.Call(ast.Name("_note", ast.Load()), [ast.Constant(str(plant))], [])
        both = ast.Tuple([said, nodes[plant.place].func], ast.Load())
        nodes[plant.place].func = ast.Subscript(both, ast.Constant(1), ast.Load())
    code = compile(ast.fix_missing_locations(tree), str(ROOT / found[0].file), "exec")
    for plant in found:
        function = plant.target()
        function.__code__ = _code(code, plant.function)
        function.__globals__["_note"] = note


def _faults(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    if not isinstance(node, ast.Call):
        return
    for name in KEYWORDS:
        if any(keyword.arg == name for keyword in node.keywords):
            yield f"{name}=", lambda call, name=name: _without(call, name)
    if isinstance(node.func, ast.Attribute) and node.func.attr == "cpu" and not node.args:
        yield ".cpu()", _skip
    if isinstance(node.func, ast.Attribute) and node.func.attr == "to" and node.args:
        said = ast.unparse(node.args[0])
        if not said.startswith("torch.") and "dtype" not in said:
            yield f".to({said})", _skip


def _without(call: ast.Call, name: str) -> None:
    call.keywords = [keyword for keyword in call.keywords if keyword.arg != name]


def _skip(call: ast.Call) -> None:
    """`x.to(device)` as `(lambda *given, **named: x)(device)`."""
    assert isinstance(call.func, ast.Attribute)
    arguments = ast.arguments([], [], ast.arg("_given"), [], [], ast.arg("_named"), [])
    call.func = ast.Lambda(arguments, call.func.value)


def _function(tree: ast.Module, node: ast.AST) -> str | None:
    """The qualified name of the outermost function around a node."""
    names: list[str] = []
    inside: ast.AST = tree
    while not isinstance(inside, ast.FunctionDef):
        inner = (one for one in ast.iter_child_nodes(inside) if isinstance(one, (ast.ClassDef, ast.FunctionDef)))
        found = next((one for one in inner if any(within is node for within in ast.walk(one))), None)
        if found is None:
            return None
        names.append(found.name)
        inside = found
    if any(within is node for part in inside.decorator_list for within in ast.walk(part)):
        return None
    return ".".join(names)


def _code(code: CodeType, name: str) -> CodeType:
    """The code object of a function or method, within a module's."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            if one.co_qualname == name:
                return one
            if name.startswith(f"{one.co_qualname}."):
                return _code(one, name)
    raise LookupError(name)


def every() -> list[Plant]:
    files = [path for folder in ("wfbench", "baselines") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [plant for path in files for plant in plants(str(path.relative_to(ROOT)))]


Check: TypeAlias = Callable[[], None]
LIMIT = 120
"""Seconds of the processor of a check with a fault, which may make it hang."""
SLEEPS = 900.0
"""Seconds of a check that hangs without computing."""
COPIED = "an index of the host is copied by torch, and by CUDA's rules may be"
OTHER_DATA = "drawn on the host; without their generator they are other data, on which the checks hold as well"
BATCHES = "each batch is sent by `Network.logits` itself, at a copy a step"
BROUGHT = "curvlinops brings every batch to the network itself"
HARMLESS = {
    ("baselines/kfac.py", "_KFAC.fitted", ".to(net.device)"): BROUGHT,
    ("baselines/obc.py", "_trace", "device="): COPIED,
    ("baselines/obc.py", "trace", "device="): COPIED,
    ("baselines/obd.py", "OBDHessian.scores", ".to(net.device)"): BROUGHT,
    ("baselines/obspa.py", "Reader.settle", "device="): COPIED,
    ("baselines/random_filter.py", "RandomFilter.channel_scores", ".to(net.device)"): "they are ranked on the host",
    ("baselines/snows.py", "SNOWS.made", ".to(net.device)"): "a walk brings its samples to the network itself",
    ("baselines/sparsegpt.py", "sweep", ".to(weights.device)"): COPIED,
    ("wfbench/channels/coupled.py", "coupled_channels", ".to(net.device)"): "what the pattern gives is there already",
    ("wfbench/channels/pruner.py", "by_channel", ".to(tensor.device)"): COPIED,
    ("wfbench/channels/readers.py", "over_charged", ".to(found.device)"): COPIED,
    ("wfbench/conformance/trial.py", "_task", "generator="): OTHER_DATA,
    ("wfbench/curvature/per_sample.py", "_disagreeing_of", ".to(logits)"): "there already; only the dtype may differ",
    ("wfbench/recoveries/descent.py", "FeatureDistillation.loss", ".to(net.device)"): BATCHES,
    ("wfbench/recoveries/descent.py", "FineTuning.loss", ".to(net.device)"): BATCHES,
    ("wfbench/recoveries/descent.py", "LogitDistillation.loss", ".to(net.device)"): BATCHES,
    ("wfbench/tasks/checkpoints.py", "save", ".cpu()"): "safetensors brings tensors to the host itself",
    ("wfbench/tasks/training.py", "train", "generator="): "the host's global one, seeded alike, gives the order",
}
"""Why nothing has to notice, by file, function and kind."""


def main() -> None:
    from unittest.mock import patch

    from tests import test_shadow
    from tests.shadow_device import NAME, used
    from wfbench.tiles import HOST, KINDS

    verdicts, parts = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    untimed = {"wfbench.channels.latency.SECONDS": 1e-4, "wfbench.channels.latency.REPETITIONS": 2}
    with used(), patch.dict(KINDS, {NAME: HOST}), ExitStack() as stack:
        for name, value in untimed.items():
            stack.enter_context(patch(name, value))
        checks = test_shadow.planting()
        listed = [plant for plant in every() if not parts or any(part in str(plant) for part in parts)]
        names = {str(plant): _name(plant) for plant in listed}  # of the files as they are now
        known = _known(verdicts)
        left = [plant for plant in listed if known.get(names[str(plant)], MISSED).startswith(MISSED)]
        reached = _reached(left, checks, test_shadow.ON_THE_HOST) if left else {}
        for plant in tqdm(left, unit="fault", disable=None):
            found = _verdict(plant, checks, reached[str(plant)])
            with verdicts.open("a") as file:
                print(json.dumps([*names[str(plant)], found]), file=file)
        known = _known(verdicts)
    for plant in listed:
        print(f"{plant}: {known[names[str(plant)]]}")
    print(Counter(known[name].split()[0].strip(":,") for name in names.values()))


MISSED, BEGUN = "MISSED", "check: "


def _verdict(plant: Plant, checks: dict[str, Check], names: list[str]) -> str:
    """Which check notices; or why none has to, which is not asked where one does."""
    if found := _noticed(plant, {name: checks[name] for name in names}):
        return f"caught by {found}"
    why = HARMLESS.get((plant.file, plant.function, plant.kind))
    missed = MISSED if names else f"{MISSED}, as no check gets there"
    return missed if why is None else f"harmless: {why}"


def _name(plant: Plant) -> tuple[str, str]:
    """The fault, and a digest of the file it is in."""
    return str(plant), hashlib.sha256((ROOT / plant.file).read_bytes()).hexdigest()[:12]


def _known(verdicts: Path) -> dict[tuple[str, str], str]:
    lines = verdicts.read_text().splitlines() if verdicts.exists() else []
    return {(plant, digest): found for plant, digest, found in map(json.loads, lines)}


def _reached(chosen: list[Plant], checks: dict[str, Check], on_the_host: dict[str, Any]) -> dict[str, list[str]]:
    """The checks that get to each fault, quick ones first.

    Without it each of them passes, and what the host does is then known.
    """

    def action() -> int:
        found: dict[str, list[str]] = {str(plant): [] for plant in chosen}
        now = [""]

        def note(plant: str) -> None:
            if now[0] not in found[plant]:
                found[plant].append(now[0])

        for file in {plant.file: None for plant in chosen}:
            _noting([plant for plant in chosen if plant.file == file], note)
        seconds = dict.fromkeys(checks, 0.0)
        for now[0], check in checks.items():
            began = time.process_time()
            check()
            seconds[now[0]] = time.process_time() - began
        for names in found.values():
            names.sort(key=lambda name: seconds[name])
        told.write_bytes(pickle.dumps((found, on_the_host)))
        return 0

    with TemporaryDirectory() as folder:
        told = Path(folder, "told")
        finish(process := start(action))  # which runs backward passes, after which there are no more forks
        assert process.status == 0, process.words.decode()
        found, expected = pickle.loads(told.read_bytes())
    on_the_host |= expected
    reached: dict[str, list[str]] = found
    return reached


def _noticed(plant: Plant, checks: dict[str, Check]) -> str:
    """The first check that fails with the fault, and how, in a process of its own; empty where all pass."""

    def action() -> int:
        with planted(plant):
            for name, check in checks.items():
                resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + LIMIT, resource.RLIM_INFINITY))
                print(f"\n{BEGUN}{name}", flush=True)
                check()
        return 0

    finish(process := start(action), kill=after(SLEEPS))
    words = process.words.decode(errors="replace").strip()
    name = words.rpartition(BEGUN)[2].partition("\n")[0]
    last = words.rpartition("\n")[2][:150] if process.status == 70 else f"exit status {process.status}"
    return f"{name}: {last}" if process.status else ""


if __name__ == "__main__":
    main()
