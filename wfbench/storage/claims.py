"""Several runs in one results folder: who is at which case, by locks that the kernel drops when a process dies."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wfbench.storage.lines import is_still
from wfbench.writing import Unwritable

NAME = ".claims"
ANYONE, LEAVING = 0, 1
"""Bytes of the file that are locked: shared by every run that is there; by the one that is about to go."""


class Claims:
    """Locks on bytes of `.claims`, a file without content: one byte a case, one a suite, one for all.

    They belong to the process, not to what it starts, and end with it however it ends. One object a process and folder:
    the kernel drops all when any handle of the file is closed.

    Args:
        folder: of the results; it must be there.

    Raises:
        Unwritable: the file cannot be made or locked.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        try:
            while True:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
                fcntl.lockf(self._file, fcntl.LOCK_SH, 1, ANYONE)
                if is_still(self._path, self._file):
                    break
                os.close(self._file)  # the last run was about to remove it
        except OSError as error:
            raise Unwritable(f"{self._path} cannot be locked ({error.strerror}); choose another folder") from error

    def enter(self, suite: str) -> None:
        """This run is at that suite."""
        fcntl.lockf(self._file, fcntl.LOCK_SH, 1, _place(f"suite {suite}"))

    @contextmanager
    def case(self, digest: str) -> Iterator[bool]:
        """Until it ends no other run is at that case; False where one is."""
        if not self._try(place := _place(f"case {digest}")):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    @contextmanager
    def leaving(self, suites: list[str]) -> Iterator[set[str]]:
        """The suites that no other run is at; whoever else leaves is waited for, and waits. Afterwards it is closed."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, LEAVING)
            places = {suite: _place(f"suite {suite}") for suite in suites}
            alone = {suite for suite, place in places.items() if self._try(place)}
            for place in places.values():
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
            yield alone
            if self._try(ANYONE):
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._file)

    def _try(self, place: int) -> bool:
        """Whether nobody else has that byte; it is then this process's alone."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):  # what POSIX lets a system say
            return False
        return True


def _place(name: str) -> int:
    return 2 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
