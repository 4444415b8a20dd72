"""On a real Ray cluster of two nodes, without a network: the records of one process, whatever is lost."""

import json
import pickle
import re
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
from wfbench.deploy.needs import Needs
from wfbench.execution.pool import Job
from wfbench.execution.remote import Cluster, Packed, Remote
from wfbench.execution.worker import Died
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
        made({"--executor": "ray"}.get, Runner(), None, Needs())


class Pretended:
    """As much of Ray as slots ask for: actors that begin when told, answer when told, and are lost when told."""

    class Lost(Exception):
        pass

    class Actor:
        def __init__(self, needs: dict[str, float]) -> None:
            self.needs, self.ended = needs, False
            self.hello = self.run = self
            self.begun: Any = []
            self.answers: Any = []

        def remote(self, *given: Any) -> Any:
            return self.answers if given else self.begun

    def __init__(self, **there: float) -> None:
        self.exceptions, self.actors = self, list[Pretended.Actor]()
        self.there = {"CPU": 2.0, "GPU": 0.0, **there}
        self.RayError = Pretended.Lost

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self.there}, {"Alive": False, "Resources": {"memory": 1e9, "CPU": 9.0}}]

    def cluster_resources(self) -> dict[str, float]:
        return self.there

    def is_initialized(self) -> bool:
        return True

    def put(self, value: Any) -> Any:
        return value

    def wait(self, references: list[Any], timeout: float) -> Any:
        return [one for one in references if one], []

    def get(self, reference: Any) -> Any:
        found = reference[0] if reference else Pretended.Lost("never begun")
        if isinstance(found, Pretended.Lost):
            raise found
        return found

    def kill(self, actor: Any) -> None:
        actor.ended = True

    def remote(self, **options: float) -> Any:
        def made(kind: Any) -> Any:
            def begin(*given: Any) -> Pretended.Actor:
                self.actors.append(Pretended.Actor(options))
                return self.actors[-1]

            return type("Class", (), {"remote": staticmethod(begin)})

        return made


def pretended(monkeypatch: pytest.MonkeyPatch, **there: float) -> tuple[Pretended, Remote]:
    """A slot whose jobs need as many bytes as their request says."""
    ray = Pretended(**there)
    modules = {"ray": ray, "ray.cloudpickle": pickle}
    monkeypatch.setattr("wfbench.execution.remote.import_module", modules.__getitem__)
    cluster = Cluster(None, {"CPU": 1.0, "GPU": 0.0})
    cluster.pool(lambda: None, lambda bytes: Packed(0, {"CPU": 1.0, "GPU": 0.0, "memory": bytes}, "task", lambda: 0))
    return ray, Remote(cluster)


def test_an_actor_has_what_its_jobs_need_and_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, slot = pretended(monkeypatch, memory=100.0)
    for asked, actors in ((10, 1), (8, 1), (30, 2), (30, 2)):
        slot.send(Job(0, asked))
        assert slot.answer() == []
        assert len(ray.actors) == actors
        ray.actors[-1].begun[:], ray.actors[-1].answers[:] = [None], ["done"]
        assert slot.answer() == ["done"]
        ray.actors[-1].answers.clear()
    assert [actor.needs["memory"] for actor in ray.actors] == [10, 30]
    assert [actor.ended for actor in ray.actors] == [True, False]
    slot.rest()
    assert ray.actors[-1].ended
    slot.send(Job(0, 101))
    with pytest.raises(WfbenchError, match=r"CPU 2 of 1, GPU 0 of 0, memory 100 of 101; try a lower --memory"):
        slot.answer()
    assert len(ray.actors) == 2


def test_a_machine_that_is_lost_costs_a_job_a_try_only_where_it_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, slot = pretended(monkeypatch, memory=100.0)
    slot.send(Job(0, 10))
    ray.actors[0].answers[:] = [Pretended.Lost("the node died")]
    assert slot.answer() == []  # sent again, to a new actor
    ray.actors[1].begun[:], ray.actors[1].answers[:] = [None], [Pretended.Lost("the node died")]
    with pytest.raises(Died, match="the machine or the Ray worker was lost"):
        slot.answer()
    slot.send(Job(0, 10))
    ray.actors[2].answers[:] = [Pretended.Lost("raised in its creation task")]
    with pytest.raises(WfbenchError, match="a worker cannot begin on the Ray cluster"):
        slot.answer()


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
    told = json.loads(found.stdout.splitlines()[-1])
    refused = told.pop("refused")
    assert re.match("no machine of the Ray cluster has .*, memory 4.29497e\\+09 of 6.*e\\+10; try", refused), refused
    assert told == {
        "nodes": 2,
        "quiet": {"run": len(cases), "reused": 0, "taken": 0, "failed": 0},
        "disturbed": {"run": 4, "reused": 0, "taken": 0, "failed": 0},
        "killed": True,
        "failing": {"run": 2, "reused": 0, "taken": 0, "failed": 2},
    }
    run(session("processes:1", cases, "processes"), cases)
    assert science(tmp_path / "quiet" / "mine.jsonl") == science(tmp_path / "processes" / "mine.jsonl")
    disturbed = read(tmp_path / "disturbed" / "mine.jsonl")
    assert len(disturbed) == len(science(tmp_path / "disturbed" / "mine.jsonl")) == 4
    reasons = {one["method"]: one["reason"] for one in read(tmp_path / "failing" / "mine.jsonl")}
    assert reasons["exits"].startswith("fit: the process ended itself with exit status 3; tried twice; ")
    assert reasons["hangs"].startswith("fit: CaseTimeout: took longer than the 15 s of --case-timeout; ")
