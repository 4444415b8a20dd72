"""The digest of definitions: what it follows and what it leaves out."""

from collections.abc import Callable

import pytest

from wfbench.definitions import Definitions, Source, UnreadableError, source_of

MODULES = {
    "plug": '''
        """Text."""
        import numpy as np
        from torch import nn
        from helper import score as sc, LIMIT
        import helper.deep

        FACTOR = 2
        UNUSED = 3

        class Base:
            rank = 1
            def _inner(self, x):
                """Doc."""
                return x * self.rank

        class Method(Base):
            name = "m"
            power: float = 1.0
            def _scale(self, x: int) -> int:
                if x > LIMIT:
                    raise ValueError(f"{x} is too large")
                return x * FACTOR
            def scores(self, net, *, sc_by=1):
                total = [sc(value) for value in net]
                return np.asarray(total).sum() + self._scale(sc_by) + helper.deep.offset() + self._inner(2)
    ''',
    "helper": '''
        from helper.deep import *
        LIMIT = 10
        def score(x):
            from math import floor
            return -floor(x) + twice(x)
    ''',
    "helper.deep": '''
        def offset():
            return twice(1)
        def twice(x):
            return again(x, 2)
        def again(x, times):
            return x if times == 0 else x + again(x, times - 1)
        def other():
            return 1
    ''',
}  # fmt: skip


def definitions(modules: dict[str, str]) -> Definitions:
    def source(module: str) -> Source | None:
        if module in modules:
            text = "\n".join(line.removeprefix(" " * 8) for line in modules[module].splitlines())
            return Source(text, any(name.startswith(f"{module}.") for name in modules))
        return None

    return Definitions(source)


def digest(modules: dict[str, str] = MODULES, root: tuple[str, str] = ("plug", "Method")) -> str:
    return definitions(modules).digest([root])


def edited(module: str, old: str, new: str) -> dict[str, str]:
    assert old in MODULES[module]
    return {**MODULES, module: MODULES[module].replace(old, new)}


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("plug", "FACTOR = 2", "FACTOR = 3"),
        ("plug", "rank = 1", "rank = 2"),
        ("plug", "sc_by=1", "sc_by=2"),
        ("plug", "sc_by", "by"),  # a keyword that callers give
        ("plug", "self._inner(2)", "self._scale(2)"),
        ("plug", "np.asarray", "np.array"),
        ("plug", "def scores", "def score"),
        ("plug", 'name = "m"', 'name = "n"'),
        ("plug", "raise ValueError", "raise TypeError"),
        ("plug", "score as sc", "again as sc"),
        ("plug", "import numpy as np", "import scipy as np"),
        ("plug", "UNUSED = 3", "helper.LIMIT += 1"),  # a statement that is run when the module is
        ("plug", "UNUSED = 3", "FACTOR = FACTOR + 1"),
        ("helper", "LIMIT = 10", "LIMIT = 11"),
        ("helper", "-floor(x)", "floor(x)"),
        ("helper", "import floor", "import ceil as floor"),
        ("helper.deep", "again(x, 2)", "again(x, 3)"),
        ("helper.deep", "times == 0", "times == 1"),
        ("helper.deep", "return twice(1)", "return other()"),
    ],
)
def test_what_changes_a_result_changes_the_digest(module: str, old: str, new: str) -> None:
    assert digest(edited(module, old, new)) != digest()


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("plug", "Text.", "Other text."),
        ("plug", '"""Doc."""', "# a comment"),
        ("plug", "is too large", "is larger than allowed"),
        ("plug", "UNUSED = 3", "UNUSED = 4"),
        ("plug", "x: int", "x: float"),
        ("plug", "_scale", "_scaled"),
        ("plug", "FACTOR", "_FACTOR"),
        ("plug", "total", "whole"),
        ("plug", "for value in", "for one in"),
        ("plug", "from helper import score as sc", "from helper import score as fn"),
        ("plug", "class Base", "class Root"),
        ("plug", "from torch import nn", "import json"),
        ("helper", "from math import floor", "import math"),
        ("helper.deep", "return 1", "return 2"),  # nobody calls it
    ],
)
def test_what_changes_no_result_changes_no_digest(module: str, old: str, new: str) -> None:
    changed = edited(module, old, new)
    if new.endswith("as fn"):
        changed["plug"] = changed["plug"].replace("sc(value)", "fn(value)")
    if new == "for one in":
        changed["plug"] = changed["plug"].replace("sc(value)", "sc(one)")
    if new == "class Root":
        changed["plug"] = changed["plug"].replace("(Base)", "(Root)")
    if new == "import math":
        changed["helper"] = changed["helper"].replace("-floor", "-math.floor")
    assert digest(changed) == digest()


def test_a_moved_module_and_a_renamed_function_change_no_digest() -> None:
    moved = {name.replace("helper.deep", "elsewhere"): text for name, text in MODULES.items()}
    moved = {name: text.replace("helper.deep", "elsewhere").replace("twice", "double") for name, text in moved.items()}
    moved["helper"] = moved["helper"].replace("import *", "import double")
    assert digest(moved) == digest()


def test_swapped_private_methods_that_another_class_calls_are_a_change() -> None:
    base = "class A:\n    def _one(self): return 1\n    def _two(self): return 2\n"
    user = "class B(A):\n    def f(self): return self._one()\n"
    swapped = base.replace("_one", "_x").replace("_two", "_one").replace("_x", "_two")
    assert digest({"m": base + user}, ("m", "B")) != digest({"m": swapped + user}, ("m", "B"))
    assert digest({"m": base}, ("m", "A")) == digest({"m": base.replace("_one", "_x")}, ("m", "A"))


def test_an_argument_hides_a_definition_of_its_name() -> None:
    text = "def g(): return {}\ndef f(g): return g\n"
    assert digest({"m": text.format(1)}, ("m", "f")) == digest({"m": text.format(2)}, ("m", "f"))


def test_libraries_are_named_by_their_top_level() -> None:
    assert definitions(MODULES).libraries([("plug", "Method")]) == {"numpy"}


@pytest.mark.parametrize("found", [("nowhere", "f"), ("json", "dumps")])
def test_what_is_installed_is_a_name(found: tuple[str, str]) -> None:
    assert definitions(MODULES).resolve(*found) == ".".join(found)


def test_a_name_that_a_module_does_not_define_is_unreadable() -> None:
    with pytest.raises(UnreadableError, match="plug does not define Missing"):
        digest(root=("plug", "Missing"))


def test_sources_are_of_wfbench_and_of_files_outside_of_what_is_installed() -> None:
    read: Callable[[str], Source | None] = source_of
    assert read("json") is None
    assert read("torch") is None
    assert read("wfbench") is not None
    assert read("tests.test_definitions") is not None
    assert read("wfbench.no_such_module") is None
