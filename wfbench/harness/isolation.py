"""What surrounds every call into a method: its data, its random numbers, sealed splits, and its failures."""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from wfbench.data import Labeled, Unlabeled, sealed
from wfbench.draws import draw
from wfbench.errors import BrokenRule, CaseFailed, WfbenchError, kind_and_text, why
from wfbench.execution.devices import seeded_generators
from wfbench.execution.leftovers import put_back
from wfbench.execution.worker import SHORT, at, has_worked, is_worker
from wfbench.harness.case import Case
from wfbench.writing import Unwritable

HOST = torch.device("cpu")
LIMITS = (WfbenchError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)
"""What a network may raise outside of a method, when it is scored or shrunk."""


def drawn(case: Case) -> Labeled | Unlabeled:
    """The calibration samples; none where the case needs labels and there are none is a failure of the case."""
    with limits("draw"):
        drawn = draw(case.task.train_set, case.budget, case.seed, case.sampling)
        if case.track == "labeled" and not isinstance(drawn, Labeled):
            needing = case.method.name if case.method.licence is Labeled else f"recovery {case.recovery.name}"
            raise WfbenchError(f"{needing} needs labels, and {case.task.train_set.name} has none; choose one without")
    return drawn


@contextmanager
def stage(case: Case, name: str, device: torch.device = HOST) -> Iterator[None]:
    """Seeded, with every split sealed, and leaving torch as it was; whatever a method raises fails the record."""
    failure: BaseException | None = None
    with at(name), seeded(case, device), put_back(), sealed() as asked:
        try:
            yield
        except Unwritable:  # the disk's failure, not the method's
            raise
        except BaseException as error:
            failure = caught(error)
    if asked:
        raise BrokenRule(f"{case.method.name} read {asked[0]} in {name}; a method uses only what it is handed")
    if failure is not None:
        raise CaseFailed(f"{name}: {kind_and_text(failure)}") from failure


def caught(error: BaseException) -> BaseException:
    """The error of a stranger's code. The user's ^C is none and goes on; it does not arrive in a worker.

    A worker that is short of memory after earlier cases ends, so that the case is tried again in a new one.
    """
    if isinstance(error, KeyboardInterrupt) and not is_worker():
        raise error
    if is_worker() and has_worked() and _is_want_of_memory(error):
        os._exit(SHORT)
    return error


def _is_want_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return type(error) is RuntimeError and "t allocate memory" in str(
        error
    )  # the CPU's allocator has no error of its own


@contextmanager
def seeded(case: Case, device: torch.device = HOST) -> Iterator[None]:
    """Global generators seeded from (task, budget, seed, method, replicate), and put back afterwards."""
    parts = (case.task.name, case.budget, case.seed, case.method.name, case.replicate)
    value = int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
    python, numpy = random.getstate(), np.random.get_state()
    with seeded_generators(value, device):
        random.seed(value)
        np.random.seed(value)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def limits(what: str) -> Iterator[None]:
    """What the network or the data do not allow is the reason of a failed record, as what a method raises is."""
    try:
        yield
    except LIMITS as error:
        raise CaseFailed(f"{what}: {why(caught(error))}") from error
