"""Records on disk: one JSON object a line, appended whole, the last one of a case counting."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wfbench.harness.record import IDENTITY, USUAL, Record
from wfbench.harness.reuse import Question, code_of
from wfbench.storage import lines

PROOFS = "same-bits.jsonl"


def record_files(folder: Path) -> list[Path]:
    """The record files of a results folder, by name."""
    return sorted(path for path in folder.glob("*.jsonl") if path.name != PROOFS)


def read(path: Path) -> list[dict[str, Any]]:
    """Every record of a file, in order; none where there is no file. What cannot be read is left out with a warning."""
    return lines.read(path, "record", _is_record)


def _is_record(line: dict[str, Any]) -> None:
    _ = [{**USUAL, **line}[name] for name in (*IDENTITY, "status")]


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
        self.proofs = lines.read(self.path, "proof", lambda line: [line[name] for name in (*self.OF, "old", "new")])
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
        lines.append(self.path, f"{lines.sealed(json.dumps(proof))}\n".encode())
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
    """The records of one suite, to which several runs append. A record is on disk when `append` returns.

    What cannot be read is left out with a warning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self._latest: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._new: set[tuple[Any, ...]] = set()
        self._lines = lines.Followed(path, "record", _is_record)
        self.refresh()
        self._new.clear()

    def find(self, asked: Question, code: str | None, proofs: SameBits) -> dict[str, Any] | None:
        """The last record of the case, if it answers what is asked by this code, or by one shown to give the same."""
        record = self._latest.get(identity(asked.said))
        if record is None or asked.differences(record) or not proofs.same(record, code_of(record), code):
            return None
        return record

    def is_new(self, record: Mapping[str, Any]) -> bool:
        """Whether the case has a record that was not there when this object was made."""
        return identity(record) in self._new

    def refresh(self) -> list[dict[str, Any]]:
        """Take over what this and other runs have appended since; the records that are new."""
        found = self._lines.more()
        lines.warn(self.path, found)
        new = [one for one in found.good if not found.again or self._latest.get(identity(one)) != one]
        self.records += new
        self._latest |= {identity(record): record for record in new}
        self._new |= {identity(record) for record in new}
        return new

    def append(self, record: Record) -> None:
        """Write one line, whole or not at all.

        Raises:
            Unwritable: it cannot be written.
        """
        lines.append(self.path, f"{lines.sealed(record.as_json())}\n".encode())
        self.refresh()


def set_aside(path: Path) -> str:
    """Move what cannot be read of a record file to `NAME.aside`; which lines those were, or empty.

    Raises:
        Unwritable: it cannot be written.
    """
    return lines.set_aside(path, "record", _is_record)
