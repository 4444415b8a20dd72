"""Record files: whole lines, nothing lost, the last record of a case counting."""

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cases import case_of
from wfbench import Record, Runner, WfbenchError, run
from wfbench.harness.store import SameBits, Siblings, Store, identity, latest, read, set_aside
from wfbench.storage import lines
from wfbench.writing import Unwritable


@pytest.fixture(scope="module")
def record() -> Record:
    return run(case_of("magnitude"))


def test_a_start_reads_of_a_record_no_more_than_which_case_it_is(record: Record, tmp_path: Path) -> None:
    """Also of one as they all are, from which the usual values are left out."""
    Store(tmp_path / "one.jsonl").append(record)
    seen: list[dict[str, Any]] = []
    Store(tmp_path / "one.jsonl", seen.append)
    assert [identity(one) for one in seen] == [identity(json.loads(record.as_json()))]
    assert "copies" not in seen[0]
    assert "accuracy" not in seen[0]


def test_records_come_back_as_they_were_written(record: Record, tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "suite.jsonl")
    asked, proofs = Runner().question(case_of("magnitude")), SameBits(tmp_path)
    assert store.find(asked, record.code, proofs) is None
    store.append(record)
    again = Store(store.path)
    assert again.find(asked, record.code, proofs) == json.loads(record.as_json())
    assert again.path.read_text() == lines.sealed(record.as_json()) + "\n"


def test_another_suites_record_answers_where_it_tells_its_code(record: Record, tmp_path: Path) -> None:
    """What is appended later is seen, and what the suite itself has is not another's."""
    own, other = tmp_path / "own.jsonl", Store(tmp_path / "other.jsonl")
    asked, proofs, siblings = Runner().question(case_of("magnitude")), SameBits(tmp_path), Siblings(own)
    Store(own).append(record)
    other.append(replace(record, code=None))
    assert siblings.find(asked, record.code, proofs) is None
    other.append(record)
    assert siblings.find(asked, record.code, proofs) == replace(record, suite="own")
    assert siblings.find(asked, "another", proofs) is None


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


def whole_and(path: Path, record: Record, damaged: bytes) -> bytes:
    """Two records, the bytes between them, as they are written to the file."""
    line = f"{lines.sealed(record.as_json())}\n".encode()
    path.write_bytes(line + damaged + line)
    return line


DAMAGED = {
    "": "is not a record",
    "[]": "is not a record",
    '{"task": "a"}': "is not a record",
    "text": "is not a record",
    "\0" * 40: "is not a record",
    "[" * 100_000: "is not a record",
}


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_line_is_named_left_out_and_set_aside(text: str, record: Record, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    line = whole_and(path, record, f"{text}\n".encode())
    before = path.read_bytes()
    with pytest.warns(lines.Damaged, match=rf"suite.jsonl: line 2 {DAMAGED[text]}; left out"):
        assert len(read(path)) == 2
    assert path.read_bytes() == before
    assert set_aside(path) == f"{path}: line 2 {DAMAGED[text]}; kept in suite.jsonl.aside"
    assert path.read_bytes() == 2 * line
    assert (tmp_path / "suite.jsonl.aside").read_bytes() == f"{text}\n".encode()
    assert set_aside(path) == ""
    assert read(path) == 2 * [json.loads(record.as_json())]


def test_no_flipped_bit_of_a_record_changes_what_is_read(record: Record, tmp_path: Path) -> None:
    """But for the name of the digest itself, whose record is then read as one from before there were digests."""
    line = lines.sealed(record.as_json()).encode()
    known, name = json.loads(record.as_json()), range(line.index(b', "digest"'), line.rindex(b'"', 0, -18))
    kinds = set()
    for at in range(len(line)):
        for bit in (0, 1, 5):
            other = bytearray(line)
            other[at] ^= 1 << bit
            found = lines.parse(bytes(other) + b"\n", "record", lambda one: [one[field] for field in known])
            kinds |= {why for _, _, why in found.bad}
            assert found.bad or (at in name and {**found.good[0], **known} == found.good[0]), (at, other[at])
    assert kinds == {"is not a record", "was changed, by its digest"}


def test_a_torn_last_line_is_set_aside_and_never_glued_to(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    line = whole_and(path, record, b"")[:-1]
    path.write_bytes(line + b"\n" + line[:100])
    with pytest.warns(lines.Damaged, match="suite.jsonl: line 2 is cut short; left out"):
        assert len(read(path)) == 1
    store = Store(path)
    with pytest.warns(lines.Damaged, match="suite.jsonl: line 2 is not a record; left out"):
        store.append(record)  # as another run does, which has begun before
    assert path.read_bytes() == line + b"\n" + line[:100] + b"\n" + line + b"\n"
    path.write_bytes(line + b"\n" + line[:100])
    assert set_aside(path) == f"{path}: line 2 is cut short; kept in suite.jsonl.aside"
    assert path.read_bytes() == line + b"\n"
    path.write_bytes(line)  # a whole record that lacks its end is one
    assert len(read(path)) == 1
    assert set_aside(path) == ""
    assert path.read_bytes() == line + b"\n"


def test_what_another_run_appends_or_replaces_is_seen(record: Record, tmp_path: Path) -> None:
    one, other = Store(tmp_path / "suite.jsonl"), Store(tmp_path / "suite.jsonl")
    known = json.loads(record.as_json())
    one.append(record)
    assert (one.refresh(), one.is_new(known)) == ([], True)
    assert (other.refresh(), other.is_new(known)) == ([known], True)
    with one.path.open("ab") as file:
        file.write(b"text\n")
    with pytest.warns(lines.Damaged, match="line 2 is not a record"):
        other.refresh()
    assert set_aside(one.path)
    assert one.refresh() == []
    other.append(record)
    assert (one.refresh(), len(read(one.path))) == ([known], 2)
    assert not Store(one.path).is_new(known)


def test_a_record_file_that_is_none_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "suite.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("suite.jsonl", "folder.jsonl"):
        with pytest.raises(WfbenchError, match=f"{name} is not a regular file; move it away"):
            read(tmp_path / name)


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


def test_which_case_a_record_is_of_does_not_hang_on_where_its_fields_stand(record: Record, tmp_path: Path) -> None:
    asked, proofs = Runner().question(case_of("magnitude")), SameBits(tmp_path)
    known = json.loads(record.as_json())
    timed = [{"latency": 0.1}]
    others = [
        dict(reversed(known.items())),
        {"options": {"deeper": 1, "n_inputs": 0}, **known} | {"options": known["options"]},
        {"n_inputs": 0, "n_labels": 0, **known},
        {"reason": 'of a text, "n_inputs": 0', **known},
        known | {"latencies": timed},
    ]
    for count, other in enumerate(others):
        path, seen = tmp_path / f"{count}.jsonl", list[dict[str, object]]()
        path.write_text("".join(f"{lines.sealed(json.dumps(one))}\n" for one in (known, other)))
        assert Store(path, seen.append).find(asked, record.code, proofs) == other
        assert [one.get("latencies") for one in seen] == [None, other.get("latencies")]


def test_a_line_that_is_changed_in_its_place_is_no_record(record: Record, tmp_path: Path) -> None:
    asked, proofs, store = Runner().question(case_of("magnitude")), SameBits(tmp_path), Store(tmp_path / "suite.jsonl")
    store.append(record)
    assert store.find(asked, record.code, proofs)
    with store.path.open("r+b") as file:
        file.seek(store.path.read_bytes().index(b"accuracy"))
        file.write(b"A")
    assert store.find(asked, record.code, proofs) is None


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
    line = lines.sealed(record.as_json()) + "\n"
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
