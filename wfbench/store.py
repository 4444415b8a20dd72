"""Records on disk: one JSON object a line, appended whole, the last one of a case counting."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wfbench.case import Record
from wfbench.errors import WfbenchError

IDENTITY = (
    "task", "method", "budget", "seed", "replicate", "sparsity", "pattern", "scope", "of", "recovery", "draw",
    "wrong_labels",
)  # fmt: skip
USUAL: dict[str, Any] = {"of": "weights", "draw": "random", "wrong_labels": 0.0}
"""What a record means that does not say."""


def read(path: Path) -> list[dict[str, Any]]:
    """Every record of a file, in order; none where there is no file.

    Raises:
        WfbenchError: naming the file and the line that is no record.
    """
    if not path.exists():
        return []
    text = path.read_bytes()
    lines = text.splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            _ = [{**USUAL, **record}[name] for name in (*IDENTITY, "status", "key")]
        except (ValueError, KeyError, TypeError):
            record = None
        if record is None or (number == len(lines) and not text.endswith(b"\n")):
            rest = "the records before it are whole; " if number == len(lines) else ""
            what = "is cut short" if number == len(lines) else "is not a record"
            raise WfbenchError(
                f"{path}: line {number} {what}; {rest}remove it (`sed -i '{number}d' {path}`) and start again"
            )
        records.append(record)
    return records


def latest(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last record of every case, in the order in which the cases first came."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        found[tuple({**USUAL, **record}[name] for name in IDENTITY)] = record
    return list(found.values())


class Store:
    """The records of one suite. A record is on disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = read(path)
        self._keys = {record["key"]: record for record in latest(self.records)}

    def find(self, key: str) -> dict[str, Any] | None:
        """The record with this reuse key, unless a later one of its case took its place."""
        return self._keys.get(key)

    def append(self, record: Record) -> None:
        """Write one line in one piece, so that a killed run leaves whole lines."""
        line = record.as_json() + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
            os.fsync(file)
        finally:
            os.close(file)
        self.records.append(json.loads(line))
        self._keys[record.key] = self.records[-1]
