"""A time limit within this process, for what cannot be in another: work on a device that a fork does not carry over."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class CaseTimeout(Exception):
    """The method took longer than `--case-timeout`."""


def overdue(seconds: float) -> str:
    """The reason of a record that took longer."""
    return f"took longer than the {seconds:g} s of --case-timeout; raise it and give --retry-failed"


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `CaseTimeout` in here after so many seconds; not before a call into C returns."""

    def ring(number: int, frame: object) -> None:
        raise CaseTimeout(overdue(seconds))

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
