"""Files that are there whole or not at all, and folders known to take them before the work begins."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from wfbench.errors import WfbenchError


class Unwritable(WfbenchError):
    """A file or folder that cannot be written to; nothing that needs it is worth beginning."""


def check_file(path: Path) -> None:
    """Raises Unwritable where no file of that name can be written; its folder must be there."""
    if path.is_dir():
        raise Unwritable(f"{path} is a folder; name a file")
    if not path.parent.is_dir():
        raise Unwritable(f"there is no folder {path.parent} for {path.name}; make it, or choose another")
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        raise Unwritable(f"{path} is there and cannot be written; choose another")
    _check_writable(path.parent)


def check_folder(path: Path) -> None:
    """Raises Unwritable where nothing can be written to a folder, which may have to be made yet."""
    there = next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))
    if not there.is_dir():
        raise Unwritable(f"{there} is not a folder; choose another")
    _check_writable(there)


def _check_writable(folder: Path) -> None:
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(b"x")  # a full disk still takes names
    except OSError as error:
        raise Unwritable(f"nothing can be written to {folder} ({error.strerror}); choose another") from error


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what is to be the file: beside it, put in its place at the end, removed if that is not reached.

    Raises:
        Unwritable: it cannot be written.
    """
    path = path.resolve()  # what a link leads to is replaced, not the link
    part = path.with_name(f".wfbench-{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise Unwritable(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            part.unlink()
