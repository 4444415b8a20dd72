"""The folder where fetched data and weights live."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`WFBENCH_CACHE`, or `wfbench` in the XDG cache folder. May be filled beforehand."""
    if named := os.environ.get("WFBENCH_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wfbench"
