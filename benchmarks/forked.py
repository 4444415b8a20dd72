"""Processes that begin where this one stands, with all that it has imported, and can be killed at any time."""

import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Process:
    """One run; its words, and how it ended."""

    pid: int
    pipe: int
    began: float = field(default_factory=time.perf_counter)
    words: bytes = b""
    status: int | None = None
    seconds: float = 0.0

    def poll(self) -> None:
        """Take what it has said; the end of that is its end."""
        if part := os.read(self.pipe, 1 << 16):
            self.words += part
            return
        os.close(self.pipe)
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.seconds = time.perf_counter() - self.began


def start(action: Callable[[], int]) -> Process:
    """Fork a process that exits with what the action returns."""
    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        return Process(pid, reading)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.closerange(3, 1024)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    status = 70
    try:
        status = action()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(*processes: Process, kill: Callable[[], bool] = lambda: False) -> None:
    """Wait for all; the first is killed as soon as `kill` says so."""
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process.pipe, selectors.EVENT_READ, process)
        alive = True
        while selector.get_map():
            if alive and processes[0].status is None and kill():
                os.kill(processes[0].pid, signal.SIGKILL)
                alive = False
            for key, _ in selector.select(0.002):
                selector.unregister(key.fd)
                key.data.poll()
                if key.data.status is None:
                    selector.register(key.fd, selectors.EVENT_READ, key.data)


def after(seconds: float) -> Callable[[], bool]:
    until = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= until
