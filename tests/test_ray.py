"""On a real Ray cluster of two nodes, without a network: the records of one process, whatever is lost."""

import json
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.cases import REGISTRY
from tests.rayed import SUITE
from tests.test_executors import Make, run, science
from tests.test_executors import session as session
from wfbench import Runner, WfbenchError
from wfbench.harness.executors import made
from wfbench.harness.store import read

ROOT = Path(__file__).parent.parent
ALONE = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""A command in a network that has loopback alone."""


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *rest: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return import_module(name, *rest)

    monkeypatch.setattr("wfbench.execution.remote.import_module", missing)
    with pytest.raises(WfbenchError, match=r"--executor ray needs Ray: pip install 'wfbench\[ray\]'"):
        made({"--executor": "ray"}.get, Runner(), None)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'wfbench[ray]'")
@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0,
    reason="a network of its own needs root, unshare and ip",
)
def test_a_cluster_gives_the_records_of_one_process_and_loses_none_with_a_node(session: Make, tmp_path: Path) -> None:
    command = f"from pathlib import Path; from tests.rayed import main; main(Path({str(tmp_path)!r}))"
    found = subprocess.run([*ALONE, sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-4000:]
    cases = SUITE.cases(REGISTRY)
    assert json.loads(found.stdout.splitlines()[-1]) == {
        "nodes": 2,
        "quiet": {"run": len(cases), "reused": 0, "failed": 0},
        "disturbed": {"run": 6, "reused": 0, "failed": 2},
        "killed": True,
    }
    run(session("processes:1", cases, "processes"), cases)
    assert science(tmp_path / "quiet" / "mine.jsonl") == science(tmp_path / "processes" / "mine.jsonl")
    disturbed = read(tmp_path / "disturbed" / "mine.jsonl")
    assert len(disturbed) == len(science(tmp_path / "disturbed" / "mine.jsonl")) == 6
    reasons = {one["method"]: one["reason"] for one in disturbed}
    assert reasons["waits"] is None
    assert reasons["exits"].startswith("fit: the process ended itself with exit status 3; tried twice; ")
    assert reasons["hangs"].startswith("fit: CaseTimeout: took longer than the 15 s of --case-timeout; ")
