"""The folder where fetched data and weights live."""

import os
from pathlib import Path

from wfbench.errors import NotFetched, WfbenchError


def cache_folder() -> Path:
    """`WFBENCH_CACHE`, or `wfbench` in the XDG cache folder. May be filled beforehand."""
    if named := os.environ.get("WFBENCH_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wfbench"


def content(path: Path, remedy: str) -> bytes:
    """What is in a file.

    Raises:
        NotFetched: there is none.
        WfbenchError: it is a folder, a pipe or a device, which could be waited for without end. Both end with `remedy`.
    """
    if not path.exists():
        raise NotFetched(f"{path} is missing; {remedy}")
    if not path.is_file():
        raise WfbenchError(f"{path} is not a regular file; move it away, and {remedy}")
    return path.read_bytes()
