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

    def __reduce__(self) -> tuple[type["Died"], tuple[str, str]]:
        return type(self), (self.place, self.how)


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
        self._lifeline: Connection
        self._limit: float | None = None
        self.pipe: Any = None

    def ask(self, request: Any, limit: float | None = None) -> Any:
        """What the work returns, waited for; `send` and `answer` in one."""
        self.send(request, limit)
        while not (found := self.answer(LOOK)):
            pass
        return found[0]

    def send(self, request: Any, limit: float | None = None) -> None:
        """Begin a request; a process that is not there is started.

        Args:
            limit: seconds that the work may spend in places (`at`).
        """
        self._limit, self._place, self._since, self._spent = limit, "", 0.0, 0.0
        with self._or_ended():
            if self._process is None:
                self._start()
            with suppress(OSError):  # it has died since; `answer` says how
                if self._process is not None:
                    self.pipe.send(request)

    def answer(self, wait: float) -> list[Any]:
        """What the work returned, in a list that is empty while it goes on; waited for as long as said.

        Raises:
            Died: there is no answer.
            BrokenRule, WfbenchError: the work raised it.
            RuntimeError: it raised something else; the message is its traceback.
        """
        with self._or_ended():
            if not (heard := self._heard(time.monotonic() + wait)):
                return []
        kind, found = heard
        if kind == "raised":
            raise found
        return [found]

    def _heard(self, until: float) -> tuple[str, Any] | None:
        """The next word of the process that is not where it is."""
        if self._process is None:
            raise Died("", "no process could be started")
        while True:
            is_there, left = self._process.is_alive(), min(LOOK, until - time.monotonic(), self._left())
            try:
                if self.pipe.poll(max(left, 0.0) if is_there else 0):
                    kind, found, now = pickle.loads(self.pipe.recv_bytes())
                    if kind != "at":
                        return kind, found
                    self._spent += now - self._since if self._place else 0.0
                    self._place, self._since = found, now
                    continue
            except (EOFError, OSError):
                is_there = False
                self._process.join(LOOK)
                self._process.kill()  # where it has closed its pipe and goes on
            if not is_there:
                self._process.join()
                raise Died(self._place, _ended(self._process.exitcode))
            if self._left() <= 0:
                raise Overdue(self._place, "took longer than its limit")
            if time.monotonic() >= until:
                return None

    def _left(self) -> float:
        """Seconds until it is overdue."""
        if self._limit is None or not self._place:
            return float("inf")
        return self._limit - self._spent - (time.monotonic() - self._since)

    @contextmanager
    def _or_ended(self) -> Iterator[None]:
        """Whatever is raised inside, an interrupt too, ends the process, which may be in the middle of something."""
        try:
            yield
        except BaseException:
            self.end()
            raise

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
        self._close()

    def _close(self) -> None:
        for one in (self.pipe, self._lifeline):
            _ENDS.discard(one)
            one.close()
        self._process = self.pipe = None

    def _start(self) -> None:
        context = get_context("fork")
        (self.pipe, there), (held, self._lifeline) = context.Pipe(), context.Pipe(duplex=False)
        _ENDS.update((self.pipe, self._lifeline))
        self._process = context.Process(target=_serve, args=(there, held, self._work))

        def fork() -> None:
            with suppress(OSError):  # for want of memory or processes
                self._process.start()

        with warnings.catch_warnings():  # of forks beside threads: see above
            warnings.simplefilter("ignore", DeprecationWarning)
            self._forking = threading.Thread(target=fork)
            self._forking.start()
            self._forking.join()
        there.close()
        held.close()
        if self._process.pid is None:
            self._close()


def _ended(code: int | None) -> str:
    """How a process ended, by its exit code as Python has it."""
    if code == SHORT:
        return "there was too little memory"
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (for want of memory, as it may be)" if name == "SIGKILL" else ""
        return f"the process died of {name}{hint}"
    return f"the process ended itself with exit status {code}"


_ENDS: set[Connection] = set()
"""This process's ends of all its workers' pipes, which none of them may hold open."""
SHORT = 77
"""Exit status of a process that has too little memory."""
_ANSWERED = [0]
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


def has_worked() -> bool:
    """Whether this process has answered before, and may be short of what that has left behind."""
    return _ANSWERED[0] > 0


def _serve(pipe: Connection, lifeline: Connection, work: Callable[[Any], Any]) -> None:
    """The process: answers until nobody asks; it, and what it started, end with the process that asks."""
    for one in _ENDS:
        one.close()
    _ENDS.clear()
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
            pipe.send_bytes(pickle.dumps(("at", place, time.monotonic())))

    _TELL[:] = [tell]
    _ANSWERED[0] = 0
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        answer = _answer(work, request)
        if os.getpid() != me:  # a fork that the work left behind
            os._exit(0)
        pipe.send_bytes(answer)
        _ANSWERED[0] += 1


def _answer(work: Callable[[Any], Any], request: Any) -> bytes:
    try:
        return pickle.dumps(("done", work(request), time.monotonic()))
    except (BrokenRule, WfbenchError) as error:
        return pickle.dumps(("raised", type(error)(str(error)), 0.0))
    except MemoryError:
        os._exit(SHORT)
    except BaseException:
        return pickle.dumps(("raised", RuntimeError(traceback.format_exc()), 0.0))
