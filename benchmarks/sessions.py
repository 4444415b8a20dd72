"""Cases through a session, as a run of suites has it, without pytest."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wfbench import Case
from wfbench.deploy.needs import Needs
from wfbench.harness.session import Session


def run_all(
    folder: Path,
    made: Sequence[Case],
    executor: str,
    *,
    limit: float | None = None,
    plugins: Sequence[Path] = (),
    ready: Callable[[], object] = lambda: None,
) -> dict[str, int]:
    """How many were run, reused and failed; the records are in `mine.jsonl`.

    Args:
        limit: seconds a case.
        plugins: files of methods.
        ready: called once the session is prepared.
    """
    options: dict[str, Any] = {"--results": str(folder), "--device": "cpu", "-m": "mine", "--executor": executor}
    options |= {"--case-timeout": limit, "--baseline-path": [*map(str, plugins)], "--task-path": []}
    session = Session(options.get, {}, Needs())
    session.prepare("mine", list(made))
    ready()
    try:
        for case in made:
            session.run("mine", case)
    finally:
        session.end()
    return session.counts
