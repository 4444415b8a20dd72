"""Files of JSON objects, one a line: appended whole, each with a digest, and what is damaged set aside."""

import fcntl
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from weakref import finalize

from wfbench.errors import WfbenchError
from wfbench.writing import Unwritable, whole

ASIDE = ".aside"
"""What the name of a file gets for the lines of it that cannot be read."""

SEAL = ', "digest": "{}"}}'
SEALED = len(SEAL.format("0" * 16))
CHANGED = "was changed, by its digest"


class Damaged(UserWarning):
    """Lines that were left out since they cannot be read."""


class Lines(NamedTuple):
    """What a text of lines holds.

    Args:
        good: the objects, in order.
        bad: place from 1 on, text, and what is wrong with each of the others.
    """

    good: list[dict[str, Any]]
    bad: list[tuple[int, bytes, str]]


class Place(NamedTuple):
    """Where a line stands in a file, its bytes without the end, and their hash, by which it is known again."""

    start: int
    size: int
    hash: int


def parse(text: bytes, kind: str, check: Callable[[dict[str, Any]], object], first: int = 1) -> Lines:
    """The objects of a text, whose first line is the file's line `first`.

    Args:
        kind: what an object is called.
        check: raises KeyError for an object that is none of that kind.
    """
    found = Lines([], [])
    *ended, rest = text.split(b"\n")
    for number, line in enumerate(ended + [rest] * bool(rest), start=first):
        one = _object(line, kind, check)
        if isinstance(one, dict):
            found.good.append(one)
        else:
            is_cut = number == first + len(ended) and one != CHANGED
            found.bad.append((number, line, "is cut short" if is_cut else one))
    return found


def _object(line: bytes, kind: str, check: Callable[[dict[str, Any]], object]) -> dict[str, Any] | str:
    """The object of a line, or what is wrong with it."""
    try:
        one: dict[str, Any] = json.loads(line)
        check(one)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"is not a {kind}"
    return one if not one.pop("digest", None) or is_sealed(line) else CHANGED


def sealed(line: str) -> str:
    """The JSON object with a digest of its text as the last member."""
    return line[:-1] + _seal(line[:-1].encode())


def is_sealed(line: bytes) -> bool:
    """Whether a line is what `sealed` gave."""
    return line.endswith(_seal(line[:-SEALED]).encode())


def _seal(text: bytes) -> str:
    return SEAL.format(hashlib.sha256(text).hexdigest()[:16])


def read(path: Path, kind: str, check: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """Every object of a file, none where there is no file; a `Damaged` warning names the lines that were left out.

    Nothing is written. While another process appends, it is waited for.

    Raises:
        WfbenchError: it is no regular file.
    """
    found = parse(_content(path), kind, check)
    warn(path, found.bad)
    return found.good


class Followed:
    """A file of lines to which other processes append; it is held open, so that places stay what they are."""

    def __init__(self, path: Path, kind: str, check: Callable[[dict[str, Any]], object]) -> None:
        self._path, self._kind, self._check = path, kind, check
        self._file: BinaryIO | None = None
        self._offset, self._number = 0, 1
        self.bad: list[tuple[int, bytes, str]] = []
        """Those of the last reading that cannot be read."""

    def starts_again(self) -> bool:
        """Whether the next reading is from the beginning, as the file is another one or is cut."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return False
        if self._file and os.path.samestat(status, os.fstat(self._file.fileno())) and status.st_size >= self._offset:
            return False
        self._file = self._path.open("rb", buffering=0)
        finalize(self, self._file.close)
        self._offset, self._number = 0, 1
        return True

    def more(self, head: Callable[[bytes], dict[str, Any] | None]) -> Iterator[tuple[Place, dict[str, Any]]]:
        """What has come since the last reading, up to the last whole line.

        Args:
            head: of the text of a line that is as it was written, all that is needed; None where it cannot be told.
        """
        self.bad = []
        if self._file is None or os.fstat(self._file.fileno()).st_size == self._offset:
            return
        with open(self._file.fileno(), "rb", closefd=False) as file:  # with a buffer that knows of no earlier reading
            file.seek(self._offset)
            for text in file:
                if not text.endswith(b"\n"):
                    break
                line, start = text[:-1], self._offset
                one = (is_sealed(line) and head(line)) or _object(line, self._kind, self._check)
                self._offset += len(text)
                self._number += 1
                if isinstance(one, dict):
                    yield Place(start, len(line), hash(line)), one
                else:
                    self.bad.append((self._number - 1, line, one))

    @property
    def is_damaged(self) -> bool:
        """Whether, by the last reading, there are lines that cannot be read, or there is one without its end."""
        return bool(self.bad or (self._file and os.fstat(self._file.fileno()).st_size > self._offset))

    def at(self, place: Place) -> dict[str, Any] | None:
        """The object of a line; None where it is no longer the one that was read."""
        line = os.pread(self._file.fileno(), place.size, place.start) if self._file else b""
        if hash(line) != place.hash:
            return None
        one: dict[str, Any] = json.loads(line)
        one.pop("digest", None)
        return one


def warn(path: Path, bad: list[tuple[int, bytes, str]]) -> None:
    """A `Damaged` warning that names the lines that cannot be read, where there are any."""
    if bad:
        warnings.warn(f"{_said(path, bad)}; left out", Damaged, stacklevel=3)


def _content(path: Path) -> bytes:
    if not path.exists():
        return b""
    if not path.is_file():
        raise WfbenchError(f"{path} is not a regular file; move it away")
    with path.open("rb") as file:
        with suppress(OSError):  # where nothing can be locked, a line that is being written looks cut short
            fcntl.flock(file, fcntl.LOCK_SH)
        return file.read()


def _said(path: Path, bad: list[tuple[int, bytes, str]]) -> str:
    numbers: dict[str, list[int]] = {}
    for number, _, why in bad:
        numbers.setdefault(why, []).append(number)
    parts = [f"line {', '.join(map(str, lines))} {why}" for why, lines in numbers.items()]
    return f"{path}: {'; '.join(parts)}"


def set_aside(path: Path, kind: str, check: Callable[[dict[str, Any]], object]) -> str:
    """Move the lines that cannot be read to `NAME.aside`, the others staying byte for byte; which they were, or empty.

    A whole last line without its end gets it.

    Raises:
        Unwritable: one of the two files cannot be written.
    """
    if not path.exists():
        return ""
    with _locked(path) as file:
        text = path.read_bytes()
        found = parse(text, kind, check)
        if not found.bad:
            if text and not text.endswith(b"\n"):
                _write(file, b"\n")
            return ""
        aside = path.with_name(path.name + ASIDE)
        bad = {number for number, _, _ in found.bad}
        append(aside, b"".join(line + b"\n" for _, line, _ in found.bad))
        kept = [line for number, line in enumerate(text.split(b"\n"), start=1) if number not in bad and line]
        with whole(path) as part, part.open("wb") as new:
            new.writelines(line + b"\n" for line in kept)
            os.fchmod(new.fileno(), os.fstat(file).st_mode)
            new.flush()
            os.fsync(new.fileno())
    return f"{_said(path, found.bad)}; kept in {aside.name}"


def append(path: Path, text: bytes) -> None:
    """On disk when it returns, whole or not at all, by one process at a time; never glued to a line without an end.

    Raises:
        Unwritable: it cannot be written, as on a full disk; the file is as it was.
    """
    with _locked(path) as file:
        size = os.fstat(file).st_size
        _write(file, b"\n" * (size > 0 and os.pread(file, 1, size - 1) != b"\n") + text)


def _write(file: int, left: bytes) -> None:
    size = os.fstat(file).st_size
    try:
        while left:  # a disk that fills up takes a part at first
            left = left[os.write(file, left) :]
        os.fsync(file)
    except BaseException:
        os.ftruncate(file, size)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The open file of that name, made where there is none, by one process at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if is_still(path, file):
                    yield file
                    return
            finally:
                os.close(file)
    except OSError as error:
        raise Unwritable(f"{path} cannot be written ({error.strerror}); make room, and start again") from error


def is_still(path: Path, file: int) -> bool:
    """Whether an open file is the one of that name, and was not replaced by another or removed."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False


@contextmanager
def said_plainly() -> Iterator[None]:
    """Until it ends, what was left out is one line on standard error, without the place in this code."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, Damaged):
            usual(message, category, *rest, **more)
        elif (text := str(message)) not in said:
            said.add(text)
            print(f"wfbench: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.showwarning = show
        yield
