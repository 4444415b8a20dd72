"""Records under changed code: proved where the cases give the same bits, listed where not."""

import json
import sys
from pathlib import Path

import pytest

from wfbench import RECOVERIES, Case, Runner, Target, discover
from wfbench.cli import main
from wfbench.definitions import Definitions
from wfbench.harness import reuse
from wfbench.harness.store import PROOFS, SameBits, Store
from wfbench.proofs.requalify import Findings, requalify

METHOD = """
from wfbench import ScorePruner

class Mine(ScorePruner[None]):
    name = "mine"

    def scores(self, net, data):
        return {name: %s for name, weight in net.weights.items()}
"""
TASK = "from tests.cases import blob_task\nTASKS = [blob_task('blobs')]\n"


def cases(folder: Path) -> list[Case]:
    registry = discover([str(folder / "mine.py")], [str(folder / "tasks.py")])
    task, none = registry.task("blobs"), RECOVERIES["none"]
    made = [(registry.pruner(name), Target(share)) for name in ("mine", "magnitude") for share in (0.5, 0.8)]
    return [Case(task, 8, seed, 0, target, method, none) for method, target in made for seed in (0, 1)]


def reused(folder: Path) -> int:
    """How many of the cases have a record; what has none is run, as in a suite."""
    store, proofs, runner, count = Store(folder / "results" / "smoke.jsonl"), SameBits(folder / "results"), Runner(), 0
    for case in cases(folder):
        if store.find(runner.question(case), runner.code(case), proofs) is None:
            store.append(runner.run(case, "smoke"))
        else:
            count += 1
    return count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a method, a task and their records are."""
    (tmp_path / "tasks.py").write_text(TASK)
    return tmp_path


def written(folder: Path, scores: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The method as it reads from now on, as a new process would find it."""
    (folder / "mine.py").write_text(METHOD % scores)
    for name in [name for name in sys.modules if name.startswith("wfbench_plugins") and name.endswith(".mine")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(reuse, "_DEFINITIONS", Definitions())
    for known in (reuse._digest, reuse._libraries):
        known.cache_clear()


def requalified(folder: Path) -> Findings:
    paths = ([str(folder / "mine.py")], [str(folder / "tasks.py")])
    return requalify(folder / "results", discover(*paths), ["blobs"], paths)


def test_the_same_bits_are_proved_and_reused_and_others_are_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(folder, "weight.abs()", monkeypatch)
    assert reused(folder) == 0
    assert reused(folder) == 8
    found = requalified(folder)
    assert (found.current, found.proved, found.differing) == (8, 0, [])
    written(folder, "(2 * weight).abs()", monkeypatch)  # other code, the same ranking
    found = requalified(folder)
    assert (found.current, found.proved, found.differing) == (4, 4, [])
    (proof,) = [json.loads(line) for line in (folder / "results" / PROOFS).read_text().splitlines()]
    assert (proof["task"], proof["method"], proof["recovery"]) == ("blobs", "mine", "none")
    assert proof["cases"] == [{"budget": 8, "seed": 0, "sparsity": 0.8, "scope": "global"}]
    records = (folder / "results" / "smoke.jsonl").read_bytes()
    assert reused(folder) == 8
    assert (folder / "results" / "smoke.jsonl").read_bytes() == records
    written(folder, "-weight.abs()", monkeypatch)
    ((kind, names),) = requalified(folder).differing
    assert (kind.method, len(kind.records)) == ("mine", 4)
    assert {"accuracy", "loss"} <= set(names)
    assert reused(folder) == 4


def test_a_chain_of_proofs_is_followed_in_both_directions(tmp_path: Path) -> None:
    of = {"task": "t", "method": "m", "recovery": "none", "pattern": "unstructured"}
    proofs = SameBits(tmp_path)
    for old, new in (("a", "b"), ("c", "b"), ("c", "d"), ("x", "y")):
        proofs.append({**of, "old": old, "new": new})
    for known in (proofs, SameBits(tmp_path)):
        assert known.same(of, "a", "d")
        assert known.same(of, "d", "a")
        assert not known.same(of, "a", "x")
        assert not known.same({**of, "recovery": "repair"}, "a", "b")
        assert not known.same(of, None, None)


@pytest.mark.filterwarnings("default")
def test_a_line_that_is_no_proof_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / PROOFS).write_text('{"old": "a"}\n')
    (tmp_path / "smoke.jsonl").write_text("")
    assert main(["requalify", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().err == f"wfbench: {tmp_path / PROOFS}: line 1 is not a proof; left out\n"


def test_no_records_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["requalify", "--results", str(tmp_path)]) == 2
    assert "no record files" in capsys.readouterr().err
