"""Each room imports only from those above it; plugins come in by the doors."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = (
    *(
        "definitions",
        "ground",
        "execution",
        "kinds",
        "words",
        "storage",
        "tasks",
        "published",
        "admission",
        "curvature",
        "channels",
    ),
    *("recoveries", "composed", "woodfisher", "harness", "proofs", "conformance", "report", "output", "operations"),
    *("deploy", "commands", "doors"),
)
GROUND = ("errors", "writing", "tiles", "linalg", "modules", "memo")
WORDS = ("data", "draws", "licence", "calls", "network", "pruned", "sparsity", "layers", "walk", "pruner")
DOORS = ("__init__", "__main__", "toolbox", "cli", "pytest_plugin")
FILES = 12


def library() -> dict[str, Path]:
    root = ROOT / "wfbench"
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in sorted(root.rglob("*.py"))}


def room(module: str) -> str:
    if (found := module.partition(".")[0]) in ROOMS:
        return found
    if module in GROUND:
        return "ground"
    return "words" if module in WORDS else "deploy" if module == "export" else "doors"


def imported(path: Path, package: str) -> Iterator[str]:
    """Modules of the package that a file takes names from."""
    modules = library()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == package)
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == package:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.removeprefix("wfbench.") in modules else str(node.module)


def test_rooms_import_only_from_those_above() -> None:
    for module, path in library().items():
        if module.endswith("__init__") or room(module) in ("commands", "doors"):
            continue
        for found in imported(path, "wfbench"):
            if found == "wfbench":  # the door, which a case run again goes through as a user would
                assert room(module) in ("harness", "proofs"), f"{module} imports a door"
                continue
            other = room(found.removeprefix("wfbench."))
            assert ROOMS.index(other) <= ROOMS.index(room(module)), f"{module} imports {found}"


def test_modules_of_one_room_do_not_import_each_other_in_a_circle() -> None:
    uses = {
        module: {found.removeprefix("wfbench.") for found in imported(path, "wfbench")}
        for module, path in library().items()
        if not module.endswith("__init__")
    }
    left = dict(uses)
    while left:
        free = [module for module, found in left.items() if not found & left.keys() - {module}]
        assert free, f"a circle among {sorted(left)}"
        for module in free:
            del left[module]


def test_a_room_has_a_dozen_files_at_most() -> None:
    modules = [module for module in library() if not module.endswith("__init__")]
    counts = {name: sum(room(module) == name for module in modules) for name in ROOMS}
    assert max(counts.values()) <= FILES, counts
    sizes = {module: len(path.read_text().splitlines()) for module, path in library().items()}
    assert max(sizes.values()) <= 300, {module: size for module, size in sizes.items() if size > 300}


def test_baselines_use_the_doors_alone_as_a_stranger_would() -> None:
    for path in sorted((ROOT / "baselines").glob("*.py")):
        found = {name.rpartition(".")[0] if name.count(".") > 1 else name for name in imported(path, "wfbench")}
        assert found <= {"wfbench", "wfbench.toolbox"}, f"{path.name} imports {found}"
        tree = ast.parse(path.read_text())
        private = [a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names if a.name[0] == "_"]
        assert not private, f"{path.name} imports {private}"


def test_no_function_inside_of_another_says_a_shape() -> None:
    """The tests check the shapes of all others."""
    for module, path in library().items():
        for outer in ast.walk(ast.parse(path.read_text())):
            for inner in ast.walk(outer) if isinstance(outer, ast.FunctionDef) else ():
                if isinstance(inner, ast.FunctionDef) and inner is not outer:
                    said = ast.unparse([inner.args, inner.returns] if inner.returns else inner.args)
                    assert not re.search(r"(Float|Int|Bool|UInt8|Shaped)\[", said), f"{module}: {inner.name}"
