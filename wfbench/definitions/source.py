"""Where the source of a module is, and what its top level binds."""

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

Definition: TypeAlias = tuple[str, str]
"""A module and a name bound at its top level."""

Taken: TypeAlias = dict[str, tuple[str, str | None]]
"""Imported names, and what they stand for: a name of a module, or a whole module."""

OURS = ("wfbench",)
"""Packages that are read wherever they are installed."""
INSTALLED = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "purelib", "platlib"))


LAZY = "lazy_loader.attach_stub"
"""In a package that takes its names from the stub beside it."""


class Source(NamedTuple):
    """What a module says, and whether it is a package's `__init__`."""

    text: str
    is_package: bool


class UnreadableError(Exception):
    """There is no source to read: code that was typed in, or made at run time."""


def source_of(module: str) -> Source | None:
    """The text of a module; None for those of the standard library and of installed packages, wfbench apart.

    Raises:
        UnreadableError: its source is nowhere.
    """
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or (top not in OURS and _file(top).startswith(INSTALLED)):
        return None
    file = _file(module)
    if not file:
        if module != "__main__" and module not in sys.modules:
            return None
        if hasattr(sys.modules[module], "__path__"):
            return Source("", True)  # a folder without a file of its own
    try:
        text, is_package = Path(file).read_text(), Path(file).name == "__init__.py"
        if is_package and LAZY in text:
            text = Path(file).with_suffix(".pyi").read_text()
        return Source(text, is_package)
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"the source of {module} cannot be read") from error


def _file(module: str) -> str:
    """Where a module is written; empty where it is not, or is no module."""
    if module in sys.modules:
        return getattr(sys.modules[module], "__file__", None) or ""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    return (spec.origin or "") if spec else ""


@dataclass
class Scope:
    """What the top level of a module binds."""

    module: str
    is_package: bool
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: Taken = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    effects: list[ast.stmt] = field(default_factory=list)
    """Statements that bind no name: whatever is reached in the module depends on them."""


def scope_of(module: str, source: Source) -> Scope:
    scope = Scope(module, source.is_package)
    for node in ast.parse(source.text).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            take_import(scope, node, scope.imports)
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
            for inner in ast.walk(node):
                if isinstance(inner, (ast.Import, ast.ImportFrom)):
                    take_import(scope, inner, scope.imports)
            if "__name__" not in ast.dump(node):
                bound = dict.fromkeys(bound_names([node]), node)
                scope.definitions |= bound
                scope.effects += [] if bound or _only_imports(node) else [node]
        elif names := list(bound_names([node])):
            for name in names:
                before = scope.definitions.get(name)
                scope.definitions[name] = node if before is None else _both(before, node)
        elif not (isinstance(node, ast.Pass) or is_text(node)):
            scope.effects.append(node)
    return scope


def _both(first: ast.stmt, second: ast.stmt) -> ast.stmt:
    """Two statements that bind the same name, as one."""
    return ast.If(ast.Constant(True), [first, second], [])


def _only_imports(node: ast.stmt) -> bool:
    statements = [inner for inner in ast.walk(node) if isinstance(inner, ast.stmt) and inner is not node]
    return all(isinstance(inner, (ast.Import, ast.ImportFrom, ast.Pass)) for inner in statements)


def take_import(scope: Scope, node: ast.Import | ast.ImportFrom, into: Taken) -> None:
    if isinstance(node, ast.Import):
        for alias in node.names:
            whole = alias.name if alias.asname else alias.name.partition(".")[0]
            into[alias.asname or whole] = (whole, None)
        return
    here = scope.module.split(".")
    above = here[: len(here) - node.level + scope.is_package] if node.level else []
    module = ".".join([*above, *([node.module] if node.module else [])])
    for alias in node.names:
        if alias.name == "*":
            scope.stars.append(module)
        else:
            into[alias.asname or alias.name] = (module, alias.name)


def bound_names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that statements bind in the scope they stand in; not inside functions and classes within."""
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Lambda):
            continue
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
                yield node.name
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            yield from bound_names(ast.iter_child_nodes(node))


def is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
