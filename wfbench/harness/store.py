"""Records on disk: one JSON object a line, appended whole, the last one of a case counting."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from operator import itemgetter
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
    _ = identity(line), line["status"]


_identity = itemgetter(*IDENTITY)


def identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which case a record, or a question, is of."""
    try:
        found: tuple[Any, ...] = _identity(record)
    except KeyError:
        found = _identity({**USUAL, **record})
    return found


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


def _head(line: bytes) -> dict[str, Any] | None:
    """What says which case a record is of, which stands first; None where it does not, or where it was timed."""
    end = line.find(b', "n_inputs": ')
    if end < 0 or b'"latencies": ' in line:
        return None
    with suppress(ValueError):
        found: dict[str, Any] = json.loads(line[:end] + b"}")
        return found if found.keys() | USUAL.keys() >= {*IDENTITY} else None
    return None


class Store:
    """The records of one suite, to which several runs append. A record is on disk when `append` returns.

    What is kept of a record is where it stands. What cannot be read is left out with a warning.

    Args:
        each: called when the file is read with every record that was timed, and with which case others are of.
        mend: what cannot be read is moved to `NAME.aside`.
    """

    def __init__(self, path: Path, each: Callable[[dict[str, Any]], object] = id, *, mend: bool = False) -> None:
        self.path = path
        self.aside = ""
        """Which lines were moved."""
        self._places: dict[tuple[Any, ...], lines.Place] = {}
        self._new: set[tuple[Any, ...]] = set()
        self._lines = lines.Followed(path, "record", _is_record)
        self._read(each, _head)
        if mend and self._lines.is_damaged:
            self.aside = set_aside(path)
            self._read(each, _head)
        lines.warn(path, self._lines.bad)
        self._new.clear()

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records, in order, read anew."""
        return read(self.path)

    def find(self, asked: Question, code: str | None, proofs: SameBits) -> dict[str, Any] | None:
        """The last record of the case, if it answers what is asked by this code, or by one shown to give the same."""
        place = self._places.get(identity(asked.said))
        record = place and self._lines.at(place)
        if record is None or asked.differences(record) or not proofs.same(record, code_of(record), code):
            return None
        return record

    def is_new(self, record: Mapping[str, Any]) -> bool:
        """Whether the case has a record that was not there when this object was made."""
        return identity(record) in self._new

    def refresh(self) -> list[dict[str, Any]]:
        """Take over what this and other runs have appended since; the records that are new."""
        found: list[dict[str, Any]] = []
        self._read(found.append, lambda line: None)
        lines.warn(self.path, self._lines.bad)
        return found

    def _read(self, each: Callable[[dict[str, Any]], object], head: Callable[[bytes], dict[str, Any] | None]) -> None:
        """What has come since the last time; where the file was replaced, what it has that was not there."""
        before: dict[tuple[Any, ...], lines.Place] = {}
        if self._lines.starts_again():
            before, self._places = self._places, {}
        for place, record in self._lines.more(head):
            which = identity(record)
            self._places[which] = place
            if which not in before or before[which].hash != place.hash:
                self._new.add(which)
                each(record)

    def append(self, record: Record) -> None:
        """Write one line, whole or not at all.

        Raises:
            Unwritable: it cannot be written.
        """
        lines.append(self.path, f"{lines.sealed(record.as_json())}\n".encode())
        self.refresh()


class Siblings:
    """The records of a folder's other suites, of which one may have answered a case of this suite already.

    Files are read when the first case asks, and what has come since whenever one asks again.
    """

    def __init__(self, own: Path) -> None:
        self._own = own
        self._stores: dict[Path, Store] = {}

    def find(self, asked: Question, code: str | None, proofs: SameBits) -> Record | None:
        """What another suite has of the case, as `Store.find`; never from before records told their code."""
        for path in record_files(self._own.parent):
            if path == self._own:
                continue
            if path in self._stores:
                self._stores[path].refresh()
            else:
                self._stores[path] = Store(path)
            known = self._stores[path].find(asked, code, proofs)
            if known is not None and known.get("code"):
                return Record.read({**known, "suite": self._own.stem})
        return None


def set_aside(path: Path) -> str:
    """Move what cannot be read of a record file to `NAME.aside`; which lines those were, or empty.

    Raises:
        Unwritable: it cannot be written.
    """
    return lines.set_aside(path, "record", _is_record)
