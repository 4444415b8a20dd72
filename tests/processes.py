"""Programs in processes of their own, each forked from one that has imported the library and done nothing else.

Such a process stands where a new one stands once its imports are done, which take seconds.
"""

import os
import runpy
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["wfbench.pytest_plugin", "wfbench.cli", "sklearn.datasets"])


class Program:
    """`python -m MODULE ARGUMENTS`, running; what it says goes into two files, or to a terminal.

    Args:
        folder: where it runs, and where it looks for modules first.
        out: of its standard output and, in a `.err` beside it, of its errors; a terminal takes both.
        environment: variables that it has besides ours.
    """

    def __init__(self, module: str, *arguments: str, out: Path, folder: Path = ROOT, **environment: str) -> None:
        self.command = [module, *arguments]
        self.out, self.err = out, out if out.is_char_device() else out.with_name(f"{out.name}.err")
        begin = (self.command, str(folder), {**os.environ, **environment}, str(self.out), str(self.err))
        self.process = CONTEXT.Process(target=_become, args=begin)
        self.process.start()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self, seconds: float = 300) -> "subprocess.CompletedProcess[str]":
        """Status and words of it, once it has ended."""
        self.process.join(seconds)
        status = self.process.exitcode
        assert status is not None, f"{self.command} runs on"
        words = ["", ""] if self.out is self.err else [path.read_text() for path in (self.out, self.err)]
        return subprocess.CompletedProcess(self.command, status, *words)


def _become(command: list[str], folder: str, environment: dict[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, folder)
    for number, path in enumerate((os.devnull, out, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o600), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins without
    module, *sys.argv[1:] = command
    runpy.run_module(module, run_name="__main__", alter_sys=True)
