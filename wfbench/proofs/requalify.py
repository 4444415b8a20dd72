"""Stored records under changed code: a few cases of each kind run again, and where the bits agree, a proof of it.

A case is run by the code as it is and held against its stored record. Another machine gives other last digits; there
it is run a second time, by the code of the record's own commit, and the two runs are held against each other.
"""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from zipfile import ZipFile

from tqdm import tqdm

from wfbench.errors import WfbenchError
from wfbench.harness.plugins import Registry
from wfbench.harness.record import SCIENCE, commit, cpu_name
from wfbench.harness.reuse import code_of
from wfbench.harness.runner import Runner
from wfbench.harness.store import SameBits, identity, latest, read, record_files
from wfbench.proofs import again

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
    proofs, findings = SameBits(results), Findings()
    together: dict[tuple[str, ...], list[Kind]] = defaultdict(list)
    for kind in _kinds(results, registry, set(tasks), Runner(), proofs, findings):
        together[kind.task, kind.method, kind.pattern, kind.old].append(kind)  # what they fit is shared
    total = sum(len(kind.chosen()) for kinds in together.values() for kind in kinds)
    with ExitStack() as stack, tqdm(total=total, unit="case", leave=False, disable=None) as bar:
        codes = _Codes(stack, paths)
        for kinds in together.values():
            bar.set_description(f"{kinds[0].task} {kinds[0].method}")
            pairs = {}
            for record in sorted((one for kind in kinds for one in kind.chosen()), key=_neighbours):
                pairs[identity(record)] = codes.both(record)
                bar.update()
            for kind in kinds:
                _judge(kind, [pairs[identity(one)] for one in kind.chosen()], proofs, findings)
    return findings


def _neighbours(record: Stored) -> tuple[Any, ...]:
    """By what cases share: the samples, the method fitted to them, the network that it gave."""
    return tuple(record[name] for name in ("seed", "budget", "scope", "sparsity", "recovery"))


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


class _Codes:
    """Processes that run cases again: by the code as it is, and by the code of older commits."""

    def __init__(self, stack: ExitStack, paths: tuple[list[str], list[str]]) -> None:
        self._stack = stack
        self._now = stack.enter_context(_process(HERE, paths))
        self._before: dict[str, Callable[[Stored], Stored] | None] = {}

    def both(self, record: Stored) -> tuple[Stored, Stored]:
        """The record and the case run now; where they differ, as on another machine, the case run by its old code.

        What a commit does not hold, a plugin and its tasks, has no old code to run.
        """
        anew = self._now(record)
        commit = record["environment"].get("commit")
        if not _compared(record, anew) or not commit or (run := self._of(commit)) is None:
            return record, anew
        before = run(record)
        is_its_code = "error" not in before and before.get("code") == record.get("code")
        return before if is_its_code else record, anew

    def _of(self, commit: str) -> Callable[[Stored], Stored] | None:
        if commit not in self._before:
            folder = Path(self._stack.enter_context(TemporaryDirectory()))
            there = _checked_out(commit, folder)
            self._before[commit] = self._stack.enter_context(_process(folder, ([], []))) if there else None
        return self._before[commit]


def _checked_out(name: str, folder: Path) -> bool:
    """Whether the files of a commit could be put there."""
    ask = ["git", "archive", "--format=zip", name, "wfbench", "baselines"]
    found = subprocess.run(ask, cwd=HERE, capture_output=True, check=False)
    if found.returncode == 0:
        with ZipFile(BytesIO(found.stdout)) as archive:
            archive.extractall(folder)
    return found.returncode == 0


@contextmanager
def _process(root: Path, paths: tuple[list[str], list[str]]) -> Iterator[Callable[[Stored], Stored]]:
    """What runs the case of a record by the code in a folder, in one process of one thread."""
    command = [sys.executable, "-c", Path(again.__file__).read_text(), json.dumps(paths)]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as elsewhere, (Path(elsewhere) / "log").open("w+") as log:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        with subprocess.Popen(command, cwd=elsewhere, env=env, text=True, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            ask, answer = process.stdin, process.stdout

            def run(record: Stored) -> Stored:
                ask.write(json.dumps(record) + "\n")
                ask.flush()
                if line := answer.readline():
                    found: Stored = json.loads(line)
                    return found
                log.seek(0)
                raise WfbenchError(f"a case of {record['task']} could not be run again: {log.read()[-2000:]}")

            yield run
            ask.close()
