"""A definition without what changes no result."""

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from wfbench.definitions.source import Definition, Scope, Taken, bound_names, is_text, take_import

TEXTS = ("source", "fidelity")
"""What a class says to its reader."""

LEFT_OUT = ("ctx", "kind", "type_comment", "type_params")
PRIVATE = re.compile("§(_\\w+)§")


class Resolver(Protocol):
    """Knows where names are defined."""

    def resolve(self, module: str, name: str) -> Definition | str | None: ...

    def everything(self, module: str) -> list[Definition] | None: ...


@dataclass
class _Frame:
    """One function, or one class body, on the way to a name."""

    names: set[str]
    arguments: set[str]
    is_class: bool
    imports: Taken = field(default_factory=dict)


class Plain(ast.NodeTransformer):
    """A definition without what changes no result, names of other definitions replaced by `@`."""

    def __init__(self, definitions: Resolver, scope: Scope) -> None:
        self._definitions, self._scope = definitions, scope
        self._frames: list[_Frame] = []
        self._numbers: dict[str, str] = {}
        self.uses: list[Definition] = []
        self.libraries: set[str] = set()
        self.owns: set[str] = set()

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if is_text(node) else self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self._taken(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._taken(node)

    def _taken(self, node: ast.Import | ast.ImportFrom) -> None:
        if self._frames:
            take_import(self._scope, node, self._frames[-1].imports)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        node.cause = None
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        in_class = bool(self._frames) and self._frames[-1].is_class
        if in_class and isinstance(node.target, ast.Name) and node.target.id in TEXTS:
            return None
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
        self._frames.append(_Frame({*given, *bound_names(body)} - declared, given, is_class=False))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self._number(node.name) if self._frames else "@"
        node.decorator_list = [self.visit(one) for one in node.decorator_list]
        node.bases = [self.visit(one) for one in node.bases]
        node.keywords = [self.visit(one) for one in node.keywords]
        self._frames.append(_Frame(set(bound_names(node.body)), set(), is_class=True))
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


def as_text(node: object) -> str:
    """A tree as text, without what is not there, so that it is the same for all versions of Python."""
    if isinstance(node, list):
        return "".join(as_text(one) for one in node)
    if not isinstance(node, ast.AST):
        return f"{node!r} "
    parts = [f"{name}={as_text(value)}" for name, value in ast.iter_fields(node) if name not in LEFT_OUT and value]
    constant = [repr(node.value)] if isinstance(node, ast.Constant) else []
    return f"{type(node).__name__}({';'.join(constant or parts)})"


def numbered(body: str, own: frozenset[str]) -> str:
    """Private attributes that only this definition mentions by number, all others by name."""
    order: dict[str, str] = {}

    def known(found: re.Match[str]) -> str:
        name = found[1]
        return order.setdefault(name, f"_{len(order)}") if name in own else f"private {name}"

    return PRIVATE.sub(known, body)
