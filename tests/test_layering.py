"""Each module imports only from those above it."""

import ast
from pathlib import Path

ORDER = [
    *("errors", "cache", "data", "damping", "network", "channels", "footprint"),
    *("curvature.gram", "curvature.inverse", "curvature.per_sample", "curvature.rows", "curvature.diagnostics", "obs"),
    *("pruned", "sparsity", "filters", "pruner", "crossvalidation", "layers", "controls", "surgeon", "woodfisher"),
    *("scratch", "gradual"),
    *("structured", "channelwise", "groups", "woodfisher_filter"),
    *("recovery", "repair", "tuning", "recoveries", "staged", "woodfisher_staged"),
    *("attribution", "evaluate", "train", "tasks.models", "tasks.task", "tasks.checkpoints"),
    *("tasks.digits", "tasks.fashion", "tasks.recipes"),
    *("case", "definitions", "measures", "stages", "reuse", "store", "plugins", "runner", "saved", "trial", "checks"),
    *("suite", "again", "requalify"),
    *("case", "reuse", "store", "names", "plugins", "stages", "runner", "saved", "trial", "checks", "suite"),
    *("stats", "summary", "tables", "leaders", "reported", "figures", "pages", "report", "compare"),
    *("pytest_plugin", "pruning_cli", "cli", "__main__"),
]


def test_modules_import_only_from_those_above() -> None:
    root = Path(__file__).parent.parent / "wfbench"
    files = {str(path.relative_to(root))[:-3].replace("/", "."): path for path in root.rglob("*.py")}
    modules = {name: path for name, path in files.items() if not name.endswith("__init__")}
    assert sorted(modules) == sorted(ORDER)
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("wfbench"):
                continue
            source = str(node.module).removeprefix("wfbench").lstrip(".")
            for imported in [source] if source in modules else [f"{source}.{a.name}".lstrip(".") for a in node.names]:
                if imported in ORDER:  # what is not is a door
                    assert ORDER.index(imported) < ORDER.index(name), f"{name} imports {imported}"


def test_a_file_stays_readable() -> None:
    root = Path(__file__).parent.parent
    sizes = sorted(len(path.read_text().splitlines()) for path in (root / "wfbench").rglob("*.py"))
    assert sizes[len(sizes) // 2] <= 150
    assert sizes[-1] <= 320
