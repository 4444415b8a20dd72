"""Array shapes are checked by beartype wherever the tests go, and a warning is an error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401, for the hook, which takes its name

ROOT = Path(__file__).parent.parent
MODULES = [path for path in (ROOT / "wfbench").rglob("[!_]*.py") if "jaxtyping" in path.read_text()]
# elsewhere no shape is said, and mypy holds the types; checks of every small call would take longer than the calls
NAMES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES]
install_import_hook(NAMES, "tests.shapes.checked")


@pytest.fixture(autouse=True)
def _short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are measured, and no test reads how long they took."""
    monkeypatch.setattr("wfbench.channels.latency.SECONDS", 1e-4)
    monkeypatch.setattr("wfbench.channels.latency.REPETITIONS", 2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; imported late, so that the checks of array shapes come before the package."""
    from tests.browsing import started

    yield from started()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("-m"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=slow)
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("error"), append=False)


def pytest_configure(config: pytest.Config) -> None:
    """The suites' markers, for tests that read a suite's declared grid."""
    config.addinivalue_line("markers", "mine: the suite that docs/plugins.md makes")
    for path in sorted((Path(__file__).parent.parent / "suites").glob("suite_*.py")):
        config.addinivalue_line("markers", f"{path.stem.removeprefix('suite_')}: a suite")
