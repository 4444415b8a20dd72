"""A process of its own for work that may end it, hang it, or fill its memory.

It is forked, so that it has everything this process has read, and nothing need be imported or pickled: it is there in
hundredths of a second, a new interpreter in seconds. A fork of a process whose main thread has computed in parallel
would wait for OpenMP's threads, which it does not have. They belong to the thread that made them, so the fork is made
by a thread that has computed nothing; in the new process that is the main one, and makes threads of its own. What a
fork does not carry over is the state of other devices.
"""

import faulthandler
import fcntl
import os
import pickle
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from wfbench.errors import BrokenRule, WfbenchError

LOOK = 0.2
"""Seconds between two looks whether the process is there: what it started may hold its pipe open."""


class Died(Exception):
    """The process ended before it answered.

    Args:
        place: where it was (`at`); empty outside.
        how: it ended.
    """

    def __init__(self, place: str, how: str) -> None:
        self.place, self.how = place, how
        super().__init__(f"{place}: {how}" if place else how)


class Overdue(Died):
    """It was ended, as it was in places for longer than the limit."""


class Worker:
    """Calls one function in a process of its own, one request at a time; a new process where the last one died.

    Args:
        work: called there with a request; what it returns must be what pickle takes.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work
        self._process: Any = None
        self._forking: threading.Thread
        self._pipe: Connection
        self._lifeline: Connection

    def ask(self, request: Any, limit: float | None = None) -> Any:
        """What the work returns.

        Args:
            limit: seconds that the work may spend in places (`at`).

        Raises:
            Died: there is no answer.
            BrokenRule, WfbenchError: the work raised it.
            RuntimeError: it raised something else; the message is its traceback.
        """
        place, spent, answered = "", 0.0, False
        try:
            if self._process is None:
                self._start()
            self._pipe.send(request)
            while True:
                left = limit - spent if limit is not None and place else None
                kind, found, seconds = self._next(place, left)
                if kind != "at":
                    break
                spent += seconds if place else 0.0
                place = found
            answered = True
        finally:
            if not answered:  # whatever happened, an interrupt too
                self.end()
        if kind == "raised":
            raise found
        return found

    def _next(self, place: str, left: float | None) -> tuple[str, Any, float]:
        """The next word of the process, and the seconds until it came."""
        began = time.monotonic()
        while True:
            waited = time.monotonic() - began
            if left is not None and waited >= left:
                raise Overdue(place, "took longer than its limit")
            is_there = self._process.is_alive()
            wait = min(LOOK, left - waited) if left is not None else LOOK
            with suppress(EOFError, OSError):
                if self._pipe.poll(wait if is_there else 0):
                    return (*pickle.loads(self._pipe.recv_bytes()), time.monotonic() - began)
                if is_there:
                    continue
            self._process.join()
            raise Died(place, _ended(self._process.exitcode))

    def end(self) -> None:
        """The process and all that it started are gone when this returns."""
        if self._process is None:
            return
        self._forking.join()
        with suppress(ProcessLookupError, PermissionError):  # it may not have its own group yet
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()
        self._lifeline.close()
        self._process = None

    def _start(self) -> None:
        context = get_context("fork")
        (self._pipe, there), (held, self._lifeline) = context.Pipe(), context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(there, held, (self._pipe, self._lifeline), self._work))
        with warnings.catch_warnings():  # of forks beside threads: see above
            warnings.simplefilter("ignore", DeprecationWarning)
            self._forking = threading.Thread(target=self._process.start)
            self._forking.start()
            self._forking.join()
        there.close()
        held.close()


def _ended(code: int | None) -> str:
    """How a process ended, by its exit code as Python has it."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (for want of memory, as it may be)" if name == "SIGKILL" else ""
        return f"the process died of {name}{hint}"
    return f"the process ended itself with exit status {code}"


_TELL: list[Callable[[str], None]] = []
"""How this process says where it is; empty in one that nobody waits for."""


@contextmanager
def at(place: str) -> Iterator[None]:
    """Until it ends, who waits for this process knows that it is there; time there counts."""
    for tell in _TELL:
        tell(place)
    try:
        yield
    finally:
        for tell in _TELL:
            tell("")


def is_worker() -> bool:
    """Whether somebody waits for this process; ^C reaches that one alone."""
    return bool(_TELL)


def _serve(pipe: Connection, lifeline: Connection, theirs: tuple[Connection, ...], work: Callable[[Any], Any]) -> None:
    """The process: answers until nobody asks; it, and what it started, end with the process that asks."""
    for one in theirs:
        one.close()
    me = os.getpid()
    faulthandler.disable()  # who asks says in one line what it died of
    os.setpgid(0, 0)  # a group of its own, so that ^C reaches the one who asks alone, who ends it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -me)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_RDONLY | os.O_ASYNC)  # SIGIO at its end, in the middle of a C call too
    with suppress(OSError):  # where memory is short, the kernel ends this process and not the one that asks
        Path("/proc/self/oom_score_adj").write_text("1000")

    def tell(place: str) -> None:
        if os.getpid() == me:
            pipe.send_bytes(pickle.dumps(("at", place)))

    _TELL[:] = [tell]
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        answer = _answer(work, request)
        if os.getpid() != me:  # a fork that the work left behind
            os._exit(0)
        pipe.send_bytes(answer)


def _answer(work: Callable[[Any], Any], request: Any) -> bytes:
    try:
        return pickle.dumps(("done", work(request)))
    except (BrokenRule, WfbenchError) as error:
        return pickle.dumps(("raised", type(error)(str(error))))
    except BaseException:
        return pickle.dumps(("raised", RuntimeError(traceback.format_exc())))
