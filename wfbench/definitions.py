"""Which definitions a piece of code reaches by name, and one digest of what they say, wherever they stand.

Read from source, nothing is imported. A digest leaves out imports, annotations, docstrings, the texts of errors, the
names of modules, and the names of definitions, local variables and private attributes: moving or renaming changes none.
"""

import ast
import hashlib
import importlib.util
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeAlias

Definition: TypeAlias = tuple[str, str]
"""A module and a name bound at its top level."""

OURS = ("wfbench", "baselines")
"""Packages that are read wherever they are installed."""
INSTALLED = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "purelib", "platlib"))
EFFECTS = ""
"""Stands for a module's statements that bind no name."""
LEFT_OUT = ("ctx", "kind", "type_comment", "type_params")
PRIVATE = re.compile("§(_\\w+)§")


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
        return Source(Path(file).read_text(), Path(file).name == "__init__.py")
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
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    effects: list[ast.stmt] = field(default_factory=list)
    """Statements that bind no name: whatever is reached in the module depends on them."""


@dataclass(frozen=True)
class Text:
    """A definition with every name of another one left open; `uses` are these, in order."""

    body: str
    uses: tuple[Definition, ...]
    libraries: frozenset[str]
    owns: frozenset[str]
    """Private attributes that it gives itself."""

    @cached_property
    def mentions(self) -> frozenset[str]:
        return frozenset(PRIVATE.findall(self.body))


class Definitions:
    """The definitions of all modules whose source a function gives."""

    def __init__(self, source: Callable[[str], Source | None] = source_of) -> None:
        self._source = source
        self._scopes: dict[str, Scope | None] = {}
        self._texts: dict[Definition, Text] = {}

    def reach(self, roots: Iterable[Definition]) -> dict[Definition, Text]:
        """The roots and all that they use, directly or not; what is installed is left out.

        Raises:
            UnreadableError: a root without source.
        """
        found: dict[Definition, Text] = {}
        queue = [home for root in roots if isinstance(home := self._home(*root), tuple)]
        while queue:
            at = queue.pop()
            if at not in found:
                found[at] = self._text(at)
                queue += found[at].uses
        return found

    def digest(self, roots: Iterable[Definition]) -> str:
        """SHA-256 of what the roots reach; equal where every definition says the same and uses the same."""
        roots = list(roots)
        found = self.reach(roots)
        mentioned = Counter(name for text in found.values() for name in text.mentions)
        own = {at: frozenset(name for name in text.owns if mentioned[name] == 1) for at, text in found.items()}
        first = {at: _sha(_numbered(text.body, own[at])) for at, text in found.items()}
        digests, kinds = first, 0
        while kinds < (kinds := len(set(digests.values()))):  # as long as it tells more definitions apart
            digests = {at: _sha(first[at], *(digests[use] for use in text.uses)) for at, text in found.items()}
        homes = {digests[home] if isinstance(home, tuple) else home for home in (self._home(*root) for root in roots)}
        return _sha(*sorted(set(digests.values())), "of", *sorted(homes))

    def libraries(self, roots: Iterable[Definition]) -> set[str]:
        """Top-level names of the installed packages that the roots reach, or are of."""
        roots = list(roots)
        of_roots = {home.partition(".")[0] for root in roots if isinstance(home := self._home(*root), str)}
        return of_roots.union(*(text.libraries for text in self.reach(roots).values()))

    def resolve(self, module: str, name: str) -> Definition | str | None:
        """Where a module's name is defined; a dotted name for modules and for what is installed; None for a builtin."""
        seen: set[Definition] = set()
        while (module, name) not in seen:
            seen.add((module, name))
            scope = self._scope(module)
            if scope is None:
                return f"{module}.{name}"
            if name in scope.definitions:
                return module, name
            if name not in scope.imports:
                return self._elsewhere(scope, name)
            module, taken = scope.imports[name]
            if taken is None:
                return module
            name = taken
        return None

    def _elsewhere(self, scope: Scope, name: str) -> Definition | str | None:
        """A name that a module takes from all that another one has, or a module of a package."""
        for star in scope.stars:
            if self._scope(star) is not None and (found := self.resolve(star, name)) is not None:
                return found
        inner = f"{scope.module}.{name}"
        return inner if scope.is_package and self._scope(inner) is not None else None

    def everything(self, module: str) -> list[Definition] | None:
        """All that a module defines; None for what is installed."""
        scope = self._scope(module)
        return None if scope is None else [(module, name) for name in scope.definitions]

    def _scope(self, module: str) -> Scope | None:
        if module not in self._scopes:
            source = self._source(module)
            self._scopes[module] = None if source is None else _scope(module, source)
        return self._scopes[module]

    def _home(self, module: str, name: str) -> Definition | str:
        found = self.resolve(module, name)
        if found is None:
            raise UnreadableError(f"{module} does not define {name}")
        return found

    def _text(self, at: Definition) -> Text:
        if at not in self._texts:
            module, name = at
            scope = self._scope(module)
            assert scope is not None
            plain = _Plain(self, scope)
            nodes = [scope.definitions[name]] if name else scope.effects
            body = "".join(_dump(plain.visit(deepcopy(node))) for node in nodes)
            uses = plain.uses + ([(module, EFFECTS)] if scope.effects and name else [])
            self._texts[at] = Text(body, tuple(uses), frozenset(plain.libraries), frozenset(plain.owns))
        return self._texts[at]


def _dump(node: object) -> str:
    """A tree as text, without what is not there, so that it is the same for all versions of Python."""
    if isinstance(node, list):
        return "".join(_dump(one) for one in node)
    if not isinstance(node, ast.AST):
        return f"{node!r} "
    parts = [f"{name}={_dump(value)}" for name, value in ast.iter_fields(node) if name not in LEFT_OUT and value]
    constant = [repr(node.value)] if isinstance(node, ast.Constant) else []
    return f"{type(node).__name__}({';'.join(constant or parts)})"


def _sha(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _numbered(body: str, own: frozenset[str]) -> str:
    """Private attributes that only this definition mentions by number, all others by name."""
    order: dict[str, str] = {}

    def known(found: re.Match[str]) -> str:
        name = found[1]
        return order.setdefault(name, f"_{len(order)}") if name in own else f"private {name}"

    return PRIVATE.sub(known, body)


def _scope(module: str, source: Source) -> Scope:
    scope = Scope(module, source.is_package)
    for node in ast.parse(source.text).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            _import(scope, node, scope.imports)
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
            for inner in ast.walk(node):
                if isinstance(inner, (ast.Import, ast.ImportFrom)):
                    _import(scope, inner, scope.imports)
            if "__name__" not in ast.dump(node):
                bound = dict.fromkeys(_bound([node]), node)
                scope.definitions |= bound
                scope.effects += [] if bound or _only_imports(node) else [node]
        elif names := list(_bound([node])):
            for name in names:
                before = scope.definitions.get(name)
                scope.definitions[name] = node if before is None else _both(before, node)
        elif not (isinstance(node, ast.Pass) or _is_text(node)):
            scope.effects.append(node)
    return scope


def _both(first: ast.stmt, second: ast.stmt) -> ast.stmt:
    """Two statements that bind the same name, as one."""
    return ast.If(ast.Constant(True), [first, second], [])


def _only_imports(node: ast.stmt) -> bool:
    statements = [inner for inner in ast.walk(node) if isinstance(inner, ast.stmt) and inner is not node]
    return all(isinstance(inner, (ast.Import, ast.ImportFrom, ast.Pass)) for inner in statements)


def _import(scope: Scope, node: ast.Import | ast.ImportFrom, into: dict[str, tuple[str, str | None]]) -> None:
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


def _bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
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
            yield from _bound(ast.iter_child_nodes(node))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@dataclass
class _Frame:
    """One function, or one class body, on the way to a name."""

    names: set[str]
    arguments: set[str]
    is_class: bool
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)


class _Plain(ast.NodeTransformer):
    """A definition without what changes no result, names of other definitions replaced by `@`."""

    def __init__(self, definitions: Definitions, scope: Scope) -> None:
        self._definitions, self._scope = definitions, scope
        self._frames: list[_Frame] = []
        self._numbers: dict[str, str] = {}
        self.uses: list[Definition] = []
        self.libraries: set[str] = set()
        self.owns: set[str] = set()

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _is_text(node) else self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self._taken(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._taken(node)

    def _taken(self, node: ast.Import | ast.ImportFrom) -> None:
        if self._frames:
            _import(self._scope, node, self._frames[-1].imports)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        node.cause = None
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        value = node.value or ast.Constant(...)
        return self.visit(ast.Assign([node.target], value, lineno=0))

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.returns, node.type_comment = None, None
        inside = self._frames[-1] if self._frames else None
        if inside is None:
            node.name = "@"
        elif inside.is_class:
            node.name = self._attribute(node.name, owned=True)
        else:
            node.name = self._number(node.name)
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        node.args.defaults = [self.visit(one) for one in node.args.defaults]
        node.args.kw_defaults = [None if one is None else self.visit(one) for one in node.args.kw_defaults]
        self._push(node.args, node.body)
        node.args = self._named(node.args)
        node.body = [kept for one in node.body if (kept := self.visit(one)) is not None] or [ast.Pass()]
        self._frames.pop()
        return node

    def _named(self, arguments: ast.arguments) -> ast.arguments:
        """Without annotations; defaults are of the scope outside and done."""
        for one in ast.walk(arguments):
            if isinstance(one, ast.arg):
                one.annotation = None
        return arguments

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.args.defaults = [self.visit(one) for one in node.args.defaults]
        self._push(node.args, [node.body])
        node.body = self.visit(node.body)
        self._frames.pop()
        return node

    def _push(self, arguments: ast.arguments, body: Sequence[ast.AST]) -> None:
        given = {one.arg for one in ast.walk(arguments) if isinstance(one, ast.arg)}
        declared = {name for one in body for n in ast.walk(one) if isinstance(n, ast.Global) for name in n.names}
        self._frames.append(_Frame({*given, *_bound(body)} - declared, given, is_class=False))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self._number(node.name) if self._frames else "@"
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        node.bases = [self.visit(one) for one in node.bases]
        node.keywords = [self.visit(one) for one in node.keywords]
        self._frames.append(_Frame(set(_bound(node.body)), set(), is_class=True))
        node.body = [kept for one in node.body if (kept := self.visit(one)) is not None] or [ast.Pass()]
        self._frames.pop()
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        node.name = self._number(node.name) if node.name and self._frames else None
        return self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> ast.AST:
        return ast.Pass()

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        node.names = [self._number(name) for name in node.names]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        chain: list[ast.Attribute] = [node]
        while isinstance(inner := chain[-1].value, ast.Attribute):
            chain.append(inner)
        if not isinstance(inner, ast.Name):
            chain[-1].value = self.visit(inner)
            return self._attributes(chain, node)
        found = self._found(inner.id)
        if not isinstance(found, str):
            chain[-1].value = self.visit(inner)
            return self._attributes(chain, node)
        while chain:  # a module, or what is installed: its attributes are names too
            deeper = self._definitions.resolve(found, chain[-1].attr)
            if deeper is None:
                break
            chain.pop()
            found = deeper
            if isinstance(found, tuple):
                break
        replaced = self._open(found)
        if not chain:
            return replaced
        chain[-1].value = replaced
        return self._attributes(chain, node)

    def _attributes(self, chain: list[ast.Attribute], node: ast.Attribute) -> ast.AST:
        for one in chain:
            stored = isinstance(one.ctx, ast.Store) and isinstance(one.value, ast.Name) and one.value.id == "self"
            one.attr = self._attribute(one.attr, owned=stored)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        place = self._frame(node.id)
        if place is not None:
            if node.id in place.imports:
                return self._open(self._imported(place.imports[node.id]))
            if place.is_class:
                node.id = self._attribute(node.id, owned=True)
            elif node.id not in place.arguments:
                node.id = self._number(node.id)
            return node
        if not self._frames and isinstance(node.ctx, ast.Store):
            node.id = "@"  # what the statement defines
            return node
        found = self._found(node.id)
        return node if found is None else self._open(found)

    def _frame(self, name: str) -> _Frame | None:
        """Whose name it is, from the inside out; a class body's names are seen in that body alone."""
        for depth, frame in enumerate(reversed(self._frames)):
            if (name in frame.names or name in frame.imports) and (depth == 0 or not frame.is_class):
                return frame
        return None

    def _found(self, name: str) -> Definition | str | None:
        place = self._frame(name)
        if place is not None:
            return self._imported(place.imports[name]) if name in place.imports else None
        return self._definitions.resolve(self._scope.module, name)

    def _imported(self, taken: tuple[str, str | None]) -> Definition | str | None:
        module, name = taken
        return module if name is None else self._definitions.resolve(module, name)

    def _open(self, found: Definition | str | None) -> ast.Name:
        if isinstance(found, tuple):
            self.uses.append(found)
            return ast.Name("@", ast.Load())
        name = str(found)
        if (whole := self._definitions.everything(name)) is not None:  # a module of ours as it is
            self.uses += whole
            return ast.Name("@", ast.Load())
        if (top := name.partition(".")[0]) not in sys.stdlib_module_names:
            self.libraries.add(top)
        return ast.Name(name, ast.Load())

    def _number(self, name: str) -> str:
        return self._numbers.setdefault(name, f"%{len(self._numbers)}")

    def _attribute(self, name: str, *, owned: bool) -> str:
        if not name.startswith("_") or name.endswith("__"):
            return name
        if owned:
            self.owns.add(name)
        return f"§{name}§"
