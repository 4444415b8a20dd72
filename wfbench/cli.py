"""The program `wfbench`."""

import argparse
import os
import sys
from collections.abc import Sequence

from wfbench.commands import Commands
from wfbench.definitions.installed import version_of
from wfbench.errors import WfbenchError
from wfbench.execution.allocator import keep_freed_memory
from wfbench.storage.lines import said_plainly

INTERRUPTED = 130
"""The exit status of a program that SIGINT ended, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; 0 when all is well, 1 when a check failed, 2 for what the user can mend, 130 when interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser(given[0] if given else None).parse_args(given)
    keep_freed_memory()
    try:
        with said_plainly():
            status: int = options.run(options)
        sys.stdout.flush()  # here, where a reader that left is no error, and not at the interpreter's end
        return status
    except WfbenchError as error:
        print(f"wfbench: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a folder or file that cannot be used, wherever it was met
        if error.filename is None:
            raise
        print(f"wfbench: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        ended = "\n" if sys.stderr.isatty() else ""  # the line of the ^C, or of a progress bar
        print(f"{ended}wfbench: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser(called: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "wfbench",
        description="Benchmark of pruning with little data. Suites run through pytest: pytest suites -m smoke",
    )
    version = version_of("wfbench") or "(not installed)"
    parser.add_argument("--version", action="version", version=f"wfbench {version}")
    Commands(parser, called)
    return parser
