"""Who works on what: items in line, slots that work on one each, and a second try for what dies with its process."""

import os
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import wait as wait_for
from typing import Any, Generic, Protocol, TypeVar

from wfbench.execution.worker import LOOK, Died, Overdue, Worker

T = TypeVar("T")


@dataclass
class Job:
    """A piece of work.

    Args:
        item: the caller's.
        request: what a worker is sent.
        limit: seconds that it may spend in places.
        apart: whose process it is for: ours, or that of the stranger of this name; None for this process.
        died: how the process died that tried it first.
    """

    item: Any
    request: Any
    limit: float | None = None
    apart: str | None = ""
    died: Died | None = None


class Slot(Protocol):
    """Where one job at a time is worked on."""

    def send(self, job: Job) -> None:
        """Begin a job, in a new process where it was tried before."""

    def answer(self) -> list[Any]:
        """What came of it, in a list that is empty while it goes on; raises as `Worker.answer`."""

    def rest(self) -> None:
        """There is nothing to do for now; what others may be waiting for is given back."""

    def end(self) -> None:
        """Nothing of it is left."""


class Processes:
    """A slot on this machine: a process for our work, and one for strangers', which is a new one for each of them.

    Args:
        work: what is done in a process of its own.
        here: what is done in this one.
    """

    def __init__(self, work: Callable[[Any], Any], here: Callable[[Any], Any] | None = None) -> None:
        self._ours, self._theirs, self._here = Worker(work), Worker(work), here
        self._whose = ""
        self._job: Job

    @property
    def _worker(self) -> Worker:
        return self._theirs if self._job.apart else self._ours

    def send(self, job: Job) -> None:
        self._job = job
        if job.apart and job.apart != self._whose:
            self._theirs.end()
            self._whose = job.apart
        if job.died is not None:
            self._worker.end()
        if job.apart is not None:
            self._worker.send(job.request, job.limit)

    def answer(self) -> list[Any]:
        if self._job.apart is None:
            assert self._here is not None, "this slot has processes of its own alone"
            return [self._here(self._job.request)]
        return self._worker.answer(0.0)

    def rest(self) -> None:
        """Nobody waits for what a process here has."""

    def end(self) -> None:
        self._ours.end()
        self._theirs.end()

    @staticmethod
    def wait(slots: "Sequence[Processes]", seconds: float) -> None:
        """Until one of them may have an answer."""
        pipes = [slot._worker.pipe for slot in slots if slot._job.apart is not None]
        if len(pipes) == len(slots) and None not in pipes:
            wait_for(pipes, seconds)


class Pool:
    """Jobs on several slots; one whose process dies is tried once more, in a new one.

    Args:
        slots: all of one kind.
        wait: returns as soon as one of those given may have an answer, or after so many seconds.
    """

    def __init__(self, slots: Sequence[Any], wait: Callable[[list[Any], float], None]) -> None:
        self._slots, self._wait = list(slots), wait
        self._jobs: dict[int, Job] = {}
        self._again: deque[Job] = deque()

    def free(self) -> list[int]:
        """The slots that have nothing to do, once what died is tried again."""
        idle = [one for one in range(len(self._slots)) if one not in self._jobs]
        while idle and self._again:
            self.give(idle.pop(0), self._again.popleft())
        return idle

    def give(self, slot: int, job: Job) -> None:
        """Begin a job on a free slot."""
        self._jobs[slot] = job
        self._slots[slot].send(job)

    def rest(self, slot: int) -> None:
        """There is nothing for a free slot."""
        self._slots[slot].rest()

    @property
    def is_idle(self) -> bool:
        return not self._jobs and not self._again

    def finished(self) -> list[tuple[Job, Any]]:
        """The jobs that are done, each with what came of it, an error too; waits for a moment where there is none."""
        if self._jobs:
            self._wait([self._slots[one] for one in self._jobs], LOOK)
        else:
            time.sleep(LOOK)
        done: list[tuple[Job, Any]] = []
        for slot, job in list(self._jobs.items()):
            try:
                found = self._slots[slot].answer()
            except Died as death:
                found = [death]
            except Exception as error:
                found = [error]
            if found:
                del self._jobs[slot]
                done += self._settled(job, found[0])
        return done

    def _settled(self, job: Job, found: Any) -> list[tuple[Job, Any]]:
        if isinstance(found, Died) and not isinstance(found, Overdue):
            if job.died is None:
                job.died = found
                self._again.append(job)
                return []
            found = Died(found.place, f"{found.how}; tried twice")
        return [(job, found)]

    def end(self) -> None:
        for slot in self._slots:
            slot.end()


class Line(Generic[T]):
    """Items in groups that share what they read. A taker keeps to its group; without one it takes the first that
    nobody has, or half of what is left of the largest.

    Args:
        kind: neighbours of one kind share the most; where a group is halved it is between two kinds.
    """

    def __init__(self, kind: Callable[[T], Hashable]) -> None:
        self._kind = kind
        self._groups: list[deque[T]] = []
        self._of: dict[int, deque[T]] = {}

    def add(self, group: Iterable[T]) -> None:
        self._groups.append(deque(group))

    def next(self, taker: int, begin: Callable[[T], bool | None], first: T) -> bool:
        """Whether something was begun or settled.

        Args:
            begin: True where an item was begun, False where there is nothing to do for it, None where somebody outside
                is at it; then they are at its group, which is left to them while there are others.
            first: what somebody waits for; it is taken before the others unless another taker has its group.
        """
        choice = self._choice(taker)
        wanted = [(group, group.index(first)) for group in choice if first in group]
        places = chain(wanted, ((group, 0) for group in choice), self._everywhere())
        for group, index in places:
            if begin(group[index]) is not None:
                del group[index]
                self._of[taker] = group
                self._groups = [one for one in self._groups if one]
                return True
        return False

    def _everywhere(self) -> Iterator[tuple[deque[T], int]]:
        """Every place; several who look for what is left of a group begin in different ones."""
        for group in self._groups:
            begin = os.getpid() % len(group)
            yield from ((group, index) for index in [*range(begin, len(group)), *range(begin)])

    def _choice(self, taker: int) -> list[deque[T]]:
        """The groups that it may take from, the best first."""
        own = [group for group in (self._of.get(taker),) if group]
        held = [group for other, group in self._of.items() if other != taker and group]
        free = [one for one in self._groups if not any(one is group for group in (*own, *held))]
        if not (own or free) and (largest := max(held, key=len, default=None)) and len(largest) > 1:
            free = [self._half(largest)]
        return own + free

    def _half(self, group: deque[T]) -> deque[T]:
        """The last half of a group, now a group of its own."""
        items = list(group)
        middle = (len(items) + 1) // 2
        cuts = [at for at in range(1, len(items)) if self._kind(items[at - 1]) != self._kind(items[at])]
        cut = min(cuts, key=lambda at: abs(at - middle), default=middle)
        part = deque(items[cut:])
        for _ in part:
            group.pop()
        self._groups.append(part)
        return part
