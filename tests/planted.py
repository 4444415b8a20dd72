"""Faults of devices, planted: what moves a tensor, or says where one is made, taken out of one line at a time.

`python -m tests.planted` plants each in wfbench and the baselines and says whether the pretend device notices.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

ROOT = Path(__file__).parent.parent
KEYWORDS = ("device", "generator")


@dataclass(frozen=True)
class Plant:
    """One fault: the function it is in by its qualified name, and that function's code with the fault."""

    file: str
    line: int
    kind: str
    function: str
    code: CodeType

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.kind} in {self.function}"

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
                yield Plant(file, node.lineno, kind, function, code)


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


def main() -> None:
    from unittest.mock import patch

    from tests import test_shadow
    from tests.shadow_device import NAME, used
    from wfbench.tiles import HOST, KINDS

    with used(), patch.dict(KINDS, {NAME: HOST}):
        checks = test_shadow.planting()
        for check in checks.values():
            check()  # without a fault none fails
        for plant in every():
            noticed = _notices(plant, list(checks.values()))
            print(f"{plant}: {'MISSED' if noticed is None else f'caught by {list(checks)[noticed]}'}", flush=True)


def _notices(plant: Plant, checks: list[Callable[[], None]]) -> int | None:
    """The number of the first check that fails with the fault."""
    with planted(plant):
        for number, check in enumerate(checks):
            try:
                check()
            except Exception:
                return number
    return None


if __name__ == "__main__":
    main()
