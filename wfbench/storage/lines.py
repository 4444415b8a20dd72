"""Files of JSON objects, one a line: appended whole, each with a digest, and what is damaged set aside."""

import fcntl
import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from wfbench.errors import WfbenchError
from wfbench.writing import Unwritable, whole

ASIDE = ".aside"
"""What the name of a file gets for the lines of it that cannot be read."""

SEAL = re.compile(rb', "digest": "[0-9a-f]{16}"\}$')


class Damaged(UserWarning):
    """Lines that were left out since they cannot be read."""


class Lines(NamedTuple):
    """What a text of lines holds.

    Args:
        good: the objects, in order.
        bad: place from 1 on, text, and what is wrong with each of the others.
        again: it is the text from the beginning, of a file of which some was read before.
    """

    good: list[dict[str, Any]]
    bad: list[tuple[int, bytes, str]]
    again: bool = False


def parse(text: bytes, kind: str, check: Callable[[dict[str, Any]], object], first: int = 1) -> Lines:
    """The objects of a text, whose first line is the file's line `first`.

    Args:
        kind: what an object is called.
        check: raises KeyError for an object that is none of that kind.
    """
    found = Lines([], [])
    *ended, rest = text.split(b"\n")
    for number, line in enumerate(ended + [rest] * bool(rest), start=first):
        try:
            one = json.loads(line)
            check(one)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            is_last = number == first + len(ended)
            found.bad.append((number, line, "is cut short" if is_last else f"is not a {kind}"))
            continue
        digest, seal = one.pop("digest", None), SEAL.search(line)
        if digest and not (seal and _digest(line[: seal.start()]) == digest):
            found.bad.append((number, line, "was changed, by its digest"))
        else:
            found.good.append(one)
    return found


def sealed(line: str) -> str:
    """The JSON object with a digest of its text as the last member."""
    return f'{line[:-1]}, "digest": "{_digest(line[:-1].encode())}"}}'


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def read(path: Path, kind: str, check: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """Every object of a file, none where there is no file; a `Damaged` warning names the lines that were left out.

    Nothing is written. While another process appends, it is waited for.

    Raises:
        WfbenchError: it is no regular file.
    """
    found = parse(_content(path), kind, check)
    warn(path, found)
    return found.good


class Followed:
    """A file of lines to which other processes append."""

    def __init__(self, path: Path, kind: str, check: Callable[[dict[str, Any]], object]) -> None:
        self._path, self._kind, self._check = path, kind, check
        self._file, self._offset, self._number = (0, 0), 0, 1

    def more(self) -> Lines:
        """What has come since the last time, up to the last whole line; all of it where the file was replaced."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                which = status.st_dev, status.st_ino
                again = self._offset > 0 and (self._file != which or status.st_size < self._offset)
                if again:
                    self._offset, self._number = 0, 1
                self._file = which
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return Lines([], [])
        text = text[: text.rfind(b"\n") + 1]
        found = parse(text, self._kind, self._check, self._number)
        self._offset += len(text)
        self._number += text.count(b"\n")
        return found._replace(again=again)


def warn(path: Path, found: Lines) -> None:
    """A `Damaged` warning that names the lines that cannot be read, where there are any."""
    if found.bad:
        warnings.warn(f"{_said(path, found)}; left out", Damaged, stacklevel=3)


def _content(path: Path) -> bytes:
    if not path.exists():
        return b""
    if not path.is_file():
        raise WfbenchError(f"{path} is not a regular file; move it away")
    with path.open("rb") as file:
        with suppress(OSError):  # where nothing can be locked, a line that is being written looks cut short
            fcntl.flock(file, fcntl.LOCK_SH)
        return file.read()


def _said(path: Path, found: Lines) -> str:
    numbers: dict[str, list[int]] = {}
    for number, _, why in found.bad:
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
    return f"{_said(path, found)}; kept in {aside.name}"


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
