"""Cases of strangers run in a process of their own, so that nothing they do reaches the run or the other cases."""

import json
import re
import time
from pathlib import Path

import pytest

from tests.test_suites import TASK, suites
from wfbench.errors import LONGEST

METHODS = """
import ctypes, os, signal, sys, time
import torch
from wfbench import ScorePruner

class Odd(BaseException):
    pass

class Speechless(Exception):
    def __str__(self):
        raise Odd

def bare():
    while True:
        try:
            time.sleep(60)
        except:
            pass

def cleared():
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(60)

def forgets():
    if os.fork() == 0:
        time.sleep(60)
    os.kill(os.getpid(), signal.SIGSEGV)

def one(name_, does):
    class Method(ScorePruner[None]):
        name = name_
        def scores(self, net, data):
            does()
            return {key: weight.abs() for key, weight in net.weights.items()}
    return Method

def throws(error):
    def does():
        raise error
    return does

PRUNERS = [
    one("plain", lambda: None),
    one("exits", lambda: os._exit(0)),
    one("quits", lambda: sys.exit(7)),
    one("interrupts", throws(KeyboardInterrupt())),
    one("odd", throws(Odd("mine"))),
    one("segv", lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    one("forgets", forgets),
    one("killed", lambda: os.kill(os.getpid(), signal.SIGKILL)),
    one("memory", lambda: bytearray(1 << 60)),
    one("huge", throws(ValueError("x" * 20_000_000))),
    one("speechless", throws(Speechless())),
    one("control", throws(ValueError("a\\x1b[31mb\\x00c\\ud800d"))),
    one("bare", bare),
    one("cleared", cleared),
    one("call", lambda: ctypes.PyDLL(None).sleep(60)),
    one("last", lambda: None),
]
"""
GRID = ["-m", "smoke", "--tasks", "blobs", "--budgets", "4", "--sparsities", "0.5", "--seeds", "1"]
GRID += ["--recoveries", "none"]
LIMIT = r"fit: CaseTimeout: took longer than the 1 s of --case-timeout; raise it and give --retry-failed$"
REASONS = {
    "exits": r"fit: the process ended itself with exit status 0; .* --retry-failed runs it again$",
    "quits": "fit: SystemExit: 7$",
    "interrupts": "fit: KeyboardInterrupt: $",
    "odd": "fit: Odd: mine$",
    "segv": "fit: the process died of SIGSEGV; ",
    "forgets": "fit: the process died of SIGSEGV; ",
    "killed": r"fit: the process died of SIGKILL \(for want of memory, as it may be\); ",
    "memory": "fit: MemoryError: $",
    "huge": r"fit: ValueError: x{1900,}… \(20,000,012 characters\)$",
    "speechless": r"fit: Speechless: \(its text cannot be had: Odd\)$",
    "control": "fit: ValueError: a\N{REPLACEMENT CHARACTER}\\[31mb\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}d$",
    "bare": LIMIT,
    "cleared": LIMIT,
    "call": LIMIT,
}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "tasks.py").write_text(TASK)
    (folder / "methods.py").write_text(METHODS)
    return ["--task-path", str(folder / "tasks.py"), "--baseline-path", str(folder / "methods.py")]


def test_whatever_a_method_does_is_a_failed_record_with_a_short_reason(plugins: list[str], tmp_path: Path) -> None:
    names = ["plain", *REASONS, "last"]
    began = time.monotonic()
    found = suites(*GRID, *plugins, "--methods", ",".join(names), "--case-timeout", "1", "--results", str(tmp_path))
    assert found.returncode == 0, found.stdout + found.stderr
    assert time.monotonic() - began < 40  # three cases at the limit of a second each; one of them took a minute
    text = (tmp_path / "smoke.jsonl").read_text()
    records = {one["method"]: one for one in map(json.loads, text.splitlines())}
    assert list(records) == names
    assert text.count("\n") == len(names)
    for name, reason in REASONS.items():
        assert records[name]["status"] == "failed"
        assert re.match(reason, records[name]["reason"]), records[name]["reason"]
        assert len(records[name]["reason"]) < LONGEST + 100
        assert records[name]["n_inputs"] == records["plain"]["n_inputs"]
    assert records["plain"]["status"] == records["last"]["status"] == "ok"
    assert records["plain"]["accuracy"] == records["last"]["accuracy"]
