"""Which definitions a piece of code reaches by name, and one digest of what they say, wherever they stand.

Read from source, nothing is run. A digest leaves out imports, annotations, docstrings, the texts of errors, the names
of modules, and the names of definitions, local variables and private attributes: moving or renaming changes none.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

from wfbench.definitions.plain import PRIVATE, Plain, as_text, numbered
from wfbench.definitions.source import Definition, Scope, Source, UnreadableError, scope_of, source_of

EFFECTS = ""
"""Stands for a module's statements that bind no name."""


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
        first = {at: _sha(numbered(text.body, own[at])) for at, text in found.items()}
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
            self._scopes[module] = None if source is None else scope_of(module, source)
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
            plain = Plain(self, scope)
            nodes = [scope.definitions[name]] if name else scope.effects
            body = "".join(as_text(plain.visit(deepcopy(node))) for node in nodes)
            uses = plain.uses + ([(module, EFFECTS)] if scope.effects and name else [])
            self._texts[at] = Text(body, tuple(uses), frozenset(plain.libraries), frozenset(plain.owns))
        return self._texts[at]


def _sha(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
