"""One-line descriptions of Debian's packages by section, from the list of packages of one point release, Debian 12.15.

It is known by its SHA-256. Only packages of `main` are in it, whose licences are all free; none of their text is part
of wfbench.
"""

import hashlib
import lzma
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from wfbench.draws import draw_indices
from wfbench.errors import WfbenchError
from wfbench.tasks.cache import cache_folder, content
from wfbench.writing import whole

APT = Path("/var/lib/apt/lists")
HELPER = "/usr/lib/apt/apt-helper"
LIST = "dists/bookworm/main/binary-amd64/Packages.xz"
SHA256 = "515e692f2c4121c6fcec444ef100cc18f79a991910615f3a88c8b7becfc94d2f"
"""Of the list, decompressed."""
SECTIONS = (
    *("admin", "editors", "fonts", "games", "gnu-r", "graphics", "java", "mail"),
    *("math", "net", "php", "python", "science", "sound", "text", "web"),
)
SIZES = {"test": 45, "validation": 20, "train": 120}
"""Descriptions of each section."""
FIELD = re.compile(r"^(Package|Source|Section|Description): ([^\n]*)", re.MULTILINE)


def path() -> Path:
    """Where the list is, or is put."""
    return cache_folder() / "packages" / "debian-12.15-Packages.xz"


def fetch() -> Path:
    """Put the list into the cache folder from apt's own, unless it is there; the verified file.

    Raises:
        WfbenchError: apt has none of this release, or the file is damaged.
    """
    if not path().exists():
        path().parent.mkdir(parents=True, exist_ok=True)
        packed = lzma.compress(_of_apt(), preset=1)
        with whole(path()) as part:
            part.write_bytes(packed)
    _verified()
    return path()


def _of_apt() -> bytes:
    for found in sorted(APT.glob("*main_binary-amd64_Packages*")):
        read = subprocess.run([HELPER, "cat-file", str(found)], capture_output=True).stdout
        if hashlib.sha256(read).hexdigest() == SHA256:
            return read
    raise WfbenchError(
        f"apt has no list of Debian 12.15 in {APT}; run `apt-get update` on Debian 12, or put {LIST} of a mirror or "
        f"archive of Debian at {path()}"
    )


def _verified() -> bytes:
    packed = content(path(), "run `wfbench fetch debian-minilm-l6` once")
    try:
        found = lzma.decompress(packed)
    except lzma.LZMAError:
        found = b""
    if hashlib.sha256(found).hexdigest() != SHA256:
        raise WfbenchError(f"{path()} is not {LIST} of Debian 12.15 (wrong SHA-256); delete it and fetch it again")
    return found


@cache
def splits() -> dict[str, list[tuple[str, int]]]:
    """Descriptions and the number of their section, by split."""
    return split(_verified().decode())


def split(packages: str) -> dict[str, list[tuple[str, int]]]:
    """As many of each section, in a mixed order, none of them twice.

    Raises:
        WfbenchError: a section has too few.
    """
    by_section: dict[str, list[str]] = {name: [] for name in SECTIONS}
    for section, description in described(packages):
        if section in by_section:
            by_section[section].append(description)
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in SIZES}
    for label, (section, texts) in enumerate(by_section.items()):
        order = iter(draw_indices(len(texts), sum(SIZES.values()), 0, f"section {section}"))
        for name, size in SIZES.items():
            found[name] += [(texts[next(order)], label) for _ in range(size)]
    return found


def described(packages: str) -> Iterator[tuple[str, str]]:
    """Section and description of the first package of every source, unless another says the same of itself.

    Packages of one source are described alike, and must not be on both sides of a split.
    """
    stanzas: list[dict[str, str]] = [dict(FIELD.findall(part)) for part in packages.split("\n\n") if part.strip()]
    sources, said = set[str](), set[str]()
    for fields in sorted(stanzas, key=lambda fields: fields["Package"]):
        source = (fields.get("Source") or fields["Package"]).split(" ")[0]
        if source not in sources and fields["Description"] not in said:
            yield fields["Section"], fields["Description"]
        sources.add(source)
        said.add(fields["Description"])
