"""Records on disk: one JSON object a line, appended whole, the last one of a case counting."""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from wfbench.errors import WfbenchError
from wfbench.harness.record import IDENTITY, USUAL, Record
from wfbench.harness.reuse import Question, code_of
from wfbench.writing import Unwritable

PROOFS = "same-bits.jsonl"


def record_files(folder: Path) -> list[Path]:
    """The record files of a results folder, by name."""
    return sorted(path for path in folder.glob("*.jsonl") if path.name != PROOFS)


def read(path: Path) -> list[dict[str, Any]]:
    """Every record of a file, in order; none where there is no file.

    Raises:
        WfbenchError: naming the file and the line that is no record.
    """
    return _lines(path, "record", lambda line: [{**USUAL, **line}[name] for name in (*IDENTITY, "status")])


def _lines(path: Path, kind: str, check: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """The JSON objects of a file; `check` raises KeyError for what is none of that kind."""
    if not path.exists():
        return []
    text = path.read_bytes()
    lines = text.splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            one = json.loads(line)
            check(one)
        except (ValueError, KeyError, TypeError):
            one = None
        if one is None or (number == len(lines) and not text.endswith(b"\n")):
            rest = f"the {kind}s before it are whole; " if number == len(lines) else ""
            what = "is cut short" if number == len(lines) else f"is not a {kind}"
            raise WfbenchError(
                f"{path}: line {number} {what}; {rest}remove it (`sed -i '{number}d' {path}`) and start again"
            )
        found.append(one)
    return found


def identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which case a record, or a question, is of."""
    return tuple({**USUAL, **record}[name] for name in IDENTITY)


def latest(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last record of every case, in the order in which the cases first came."""
    return list({identity(record): record for record in records}.values())


class SameBits:
    """`same-bits.jsonl`: which codes were shown to give the same bits, for which task, method, recovery and pattern."""

    OF = ("task", "method", "recovery", "pattern")

    def __init__(self, folder: Path) -> None:
        self.path = folder / PROOFS
        self.proofs = _lines(self.path, "proof", lambda line: [line[name] for name in (*self.OF, "old", "new")])
        self._found: dict[tuple[Any, ...], dict[str, set[str]]] | None = None

    def same(self, of: Mapping[str, Any], one: str | None, other: str | None) -> bool:
        """Equal codes, or a chain of proofs from one to the other; never for code that could not be read."""
        if one is None or other is None:
            return False
        known, queue = {one}, [one]
        chain = self._linked().get(tuple(of[name] for name in self.OF), {})
        while queue:
            more = chain.get(queue.pop(), set()) - known
            known |= more
            queue += more
        return other in known

    def append(self, proof: Mapping[str, Any]) -> None:
        append_line(self.path, json.dumps(proof))
        self.proofs.append(dict(proof))
        self._found = None

    def _linked(self) -> dict[tuple[Any, ...], dict[str, set[str]]]:
        if self._found is None:
            self._found = {}
            for proof in self.proofs:
                chain = self._found.setdefault(tuple(proof[name] for name in self.OF), {})
                chain.setdefault(proof["old"], set()).add(proof["new"])
                chain.setdefault(proof["new"], set()).add(proof["old"])
        return self._found


class Store:
    """The records of one suite. A record is on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = read(path)
        self._latest = {identity(record): record for record in self.records}

    def find(self, asked: Question, code: str | None, proofs: SameBits) -> dict[str, Any] | None:
        """The last record of the case, if it answers what is asked by this code, or by one shown to give the same."""
        record = self._latest.get(identity(asked.said))
        if record is None or asked.differences(record) or not proofs.same(record, code_of(record), code):
            return None
        return record

    def append(self, record: Record) -> None:
        """Write one line, whole or not at all.

        Raises:
            Unwritable: it cannot be written.
        """
        line = record.as_json()
        append_line(self.path, line)
        self.records.append(json.loads(line))
        self._latest[identity(self.records[-1])] = self.records[-1]


def append_line(path: Path, line: str) -> None:
    """On disk when it returns, whole or not at all, by one process at a time.

    Raises:
        Unwritable: it cannot be written, as on a full disk; the file is as it was.
    """
    left = f"{line}\n".encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file).st_size
            try:
                while left:  # a disk that fills up takes a part at first
                    left = left[os.write(file, left) :]
                os.fsync(file)
            except BaseException:
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)
    except OSError as error:
        raise Unwritable(f"{path} cannot be written ({error.strerror}); make room, and start again") from error
