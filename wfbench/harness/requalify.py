"""Stored records under changed code: a few cases of each kind run again, and where the bits agree, a proof of it.

A case is run by the code as it is and held against its stored record. Another machine gives other last digits; there
it is run a second time, by the code of the record's own commit, and the two runs are held against each other.
"""

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from tqdm import tqdm

from wfbench.errors import WfbenchError
from wfbench.harness import again
from wfbench.harness.plugins import Registry
from wfbench.harness.record import SCIENCE, commit, cpu_name
from wfbench.harness.reuse import code_of
from wfbench.harness.runner import Runner
from wfbench.harness.store import SameBits, identity, latest, read, record_files

Stored: TypeAlias = dict[str, Any]

HERE = Path(__file__).parents[2]
"""The folder of the packages, in a checkout its root."""
CHEAP = 30.0
"""Seconds; a case that took longer is run again only where there is no other."""


@dataclass
class Kind:
    """Records that differ from the code as it is in their code alone: one task, method, recovery, pattern, old code."""

    task: str
    method: str
    recovery: str
    pattern: str
    old: str
    new: str
    records: list[Stored] = field(default_factory=list)

    def chosen(self) -> list[Stored]:
        """One case of every scope from the fewest samples, and one from the most; of the highest sparsity."""
        cheap = [one for one in self.records if (one["seconds"] or 0) <= CHEAP] or self.records
        order = sorted(cheap, key=lambda one: (one["budget"], one["seed"], -one["sparsity"], identity(one)))
        found = {one["scope"]: one for one in reversed(order)}
        most = max(one["budget"] for one in order)
        found["most"] = next(one for one in order if one["budget"] == most)
        return list({identity(one): one for one in found.values()}.values())


@dataclass
class Findings:
    """What became of the stored records.

    Args:
        current: records that are reused as they are.
        proved: records of kinds that were shown to give the same bits.
        differing: kinds with other bits, and the names of the fields.
        unprovable: records by the reason why nothing can be shown.
    """

    current: int = 0
    proved: int = 0
    differing: list[tuple[Kind, list[str]]] = field(default_factory=list)
    unprovable: Counter[tuple[str, str]] = field(default_factory=Counter)


def requalify(results: Path, registry: Registry, tasks: Iterable[str], paths: tuple[list[str], list[str]]) -> Findings:
    """Run cases again for every kind of stored record whose code changed, and append the proofs to `same-bits.jsonl`.

    Args:
        tasks: names of the tasks to look at.
        paths: plugin files of methods and of tasks.

    Raises:
        WfbenchError: there are no records.
    """
    proofs, findings, runner = SameBits(results), Findings(), Runner()
    kinds = _kinds(results, registry, set(tasks), runner, proofs, findings)
    for name in sorted({kind.task for kind in kinds}):  # one data set in memory at a time, and proofs early
        some = [kind for kind in kinds if kind.task == name]
        wanted = [record for kind in some for record in kind.chosen()]
        anew = dict(_run(HERE, wanted, paths, f"{name}, as it is"))
        doubtful = [one for one in wanted if _compared(one, anew[identity(one)]) and one["environment"].get("commit")]
        before = {identity(one): one for one in wanted} | _by_their_commits(doubtful, paths)
        for kind in some:
            pairs = [(before[identity(one)], anew[identity(one)]) for one in kind.chosen()]
            _judge(kind, pairs, proofs, findings)
    return findings


def _kinds(
    results: Path, registry: Registry, tasks: set[str], runner: Runner, proofs: SameBits, findings: Findings
) -> list[Kind]:
    kinds: dict[tuple[str, ...], Kind] = {}
    files = record_files(results)
    if not files:
        raise WfbenchError(f"no record files (*.jsonl) in {results}; run a suite first, or give --results")
    for file in files:
        for record in latest(read(file)):
            if record["task"] not in tasks:
                continue
            try:
                case = again.case_of(record, registry)
                asked, new = runner.question(case), runner.code(case)
            except (WfbenchError, KeyError) as error:
                findings.unprovable[file.stem, str(error)] += 1
                continue
            old = code_of(record)
            if wrong := asked.differences(record):
                findings.unprovable[file.stem, f"of another {', '.join(wrong)}"] += 1
            elif old is None or new is None:
                findings.unprovable[file.stem, "made by code that cannot be read"] += 1
            elif proofs.same(record, old, new):
                findings.current += 1
            else:
                which = (*(record[name] for name in SameBits.OF), old, new)
                kinds.setdefault(which, Kind(*which)).records.append(record)
    return list(kinds.values())


def _judge(kind: Kind, pairs: list[tuple[Stored, Stored]], proofs: SameBits, findings: Findings) -> None:
    wrong = sorted({name for before, after in pairs for name in _compared(before, after)})
    if wrong:
        findings.differing.append((kind, wrong))
        return
    findings.proved += len(kind.records)
    names = ("task", "method", "recovery", "pattern", "old", "new")
    cases = [{name: one[name] for name in ("budget", "seed", "sparsity", "scope")} for one in kind.chosen()]
    made = {"commit": commit(), "machine": cpu_name()}
    proofs.append({**{name: getattr(kind, name) for name in names}, **made, "cases": cases})


def _compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of the science fields that two records of a case do not share the bits of; `error` where one has none."""
    if "error" in before or "error" in after:
        return [str(before.get("error") or after.get("error"))]
    return [name for name in SCIENCE if name in before and name in after and before[name] != after[name]]


def _by_their_commits(records: list[Stored], paths: tuple[list[str], list[str]]) -> dict[tuple[Any, ...], Stored]:
    """The cases run by the code that their records are of."""
    by_commit: dict[str, list[Stored]] = defaultdict(list)
    for record in records:
        by_commit[record["environment"]["commit"]].append(record)
    found: dict[tuple[Any, ...], Stored] = {}
    for name, some in by_commit.items():
        with TemporaryDirectory() as folder:
            if _checked_out(name, Path(folder)):
                found |= _run(Path(folder), some, paths, f"{some[0]['task']}, commit {name}")
    return found


def _checked_out(name: str, folder: Path) -> bool:
    """Whether the files of a commit could be put there."""
    ask = ["git", "archive", "--format=tar", name, "wfbench", "baselines"]
    found = subprocess.run(ask, cwd=HERE, capture_output=True, check=False)
    if found.returncode == 0:
        with tarfile.open(fileobj=BytesIO(found.stdout)) as archive:
            archive.extractall(folder, filter="data")
    return found.returncode == 0


def _run(
    root: Path, records: list[Stored], paths: tuple[list[str], list[str]], what: str
) -> Iterator[tuple[tuple[Any, ...], Stored]]:
    """The records of these cases by the code in a folder, in one process of one thread."""
    order = sorted(records, key=lambda one: (one["seed"], -one["budget"], one["method"], one["scope"], one["sparsity"]))
    command = [sys.executable, "-c", Path(again.__file__).read_text(), json.dumps(paths)]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as elsewhere, (Path(elsewhere) / "log").open("w+") as log:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        with subprocess.Popen(command, cwd=elsewhere, env=env, text=True, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for record in tqdm(order, desc=what, unit="case", leave=False, disable=None):
                process.stdin.write(json.dumps(record) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    log.seek(0)
                    raise WfbenchError(f"{what}: the cases could not be run again: {log.read()[-2000:]}")
                yield identity(record), json.loads(line)
            process.stdin.close()
