"""Record files: whole lines, nothing lost, the last record of a case counting."""

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cases import case_of
from wfbench import Record, Runner, WfbenchError, run
from wfbench.harness.store import SameBits, Store, latest, read
from wfbench.writing import Unwritable


@pytest.fixture(scope="module")
def record() -> Record:
    return run(case_of("magnitude"))


def test_records_come_back_as_they_were_written(record: Record, tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "suite.jsonl")
    asked, proofs = Runner().question(case_of("magnitude")), SameBits(tmp_path)
    assert store.find(asked, record.code, proofs) is None
    store.append(record)
    again = Store(store.path)
    assert again.find(asked, record.code, proofs) == json.loads(record.as_json())
    assert store.path.read_text() == record.as_json() + "\n"


def test_the_contracts_fields_are_there(record: Record) -> None:
    fields = (
        *(
            "suite",
            "task",
            "method",
            "track",
            "budget",
            "seed",
            "replicate",
            "sparsity",
            "achieved_sparsity",
            "pattern",
        ),
        *("scope", "recovery", "n_inputs", "n_labels", "accuracy", "dense_accuracy", "loss", "status", "seconds"),
    )
    assert set(fields) <= json.loads(record.as_json()).keys()


def test_a_line_cut_short_is_named_and_nothing_is_lost(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    line = record.as_json()
    for tail in (line[:100], line):  # half a record, and a whole one whose newline is missing
        path.write_text(f"{line}\n{tail}")
        with pytest.raises(WfbenchError, match=r"suite.jsonl: line 2 is cut short.*sed -i '2d'"):
            Store(path)
        assert path.read_text() == f"{line}\n{tail}"


def test_a_line_that_is_no_record_is_named(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    for wrong in ("", "[]", '{"task": "a"}', "text"):
        path.write_text(f"{wrong}\n{record.as_json()}\n")
        with pytest.raises(WfbenchError, match="line 1 is not a record"):
            read(path)


def test_the_last_record_of_a_case_counts(record: Record, tmp_path: Path) -> None:
    store = Store(tmp_path / "suite.jsonl")
    store.append(record)
    newer = json.loads(record.as_json()) | {"code": "other", "accuracy": 0.5}
    with store.path.open("a") as file:
        file.write(json.dumps(newer) + "\n")
    again = Store(store.path)
    assert latest(again.records) == [newer]
    asked, proofs = Runner().question(case_of("magnitude")), SameBits(tmp_path)
    assert again.find(asked, "other", proofs) == newer
    assert again.find(asked, record.code, proofs) is None


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a disk that is full."""
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_record_is_appended_whole_or_not_at_all(record: Record, tmp_path: Path) -> None:
    store = Store(tmp_path / "suite.jsonl")
    line = record.as_json() + "\n"
    store.append(record)
    with (
        room_for(len(line) + 100),
        pytest.raises(Unwritable, match=r"suite.jsonl cannot be written \(File too large\)"),
    ):
        store.append(record)
    assert store.path.read_text() == line
    assert len(store.records) == 1
    store.append(record)  # with room again
    assert store.path.read_text() == 2 * line


def test_an_interrupted_append_leaves_the_file_as_it_was(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "suite.jsonl")
    store.append(record)
    before = store.path.read_bytes()

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        store.append(record)
    assert store.path.read_bytes() == before
