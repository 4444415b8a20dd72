"""`python -m benchmarks.injector FOLDER`: faults injected into runs of a small suite, and what became of its records.

Every run is the suite as a user starts it, in a process of its own, which is forked from one that has imported torch
and all else already, since importing takes seconds; pytest loads no plugins but ours. What a fault left behind is
completed by one more run and held against an undisturbed one.
"""

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sklearn.datasets  # noqa: F401, for the runs
import torch
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.damages import DAMAGES, Damage, cut, flipped, overwritten
from benchmarks.forked import Process, after, finish, start
from wfbench import pytest_plugin  # noqa: F401, for the runs
from wfbench.cli import main as program
from wfbench.harness.plugins import discover
from wfbench.harness.record import SCIENCE
from wfbench.harness.session import STEPS
from wfbench.harness.store import identity, read
from wfbench.storage.lines import ASIDE, Damaged

ROOT = Path(__file__).parent.parent
SUITE = ["-m", "smoke", "--methods", "magnitude,random,diag-fisher,gradual[steps=3]-magnitude", "--budgets", "16"]
SUITE += ["--sparsities", "0.5,0.8", "--seeds", "2"]
RECORDS = "smoke.jsonl"
BAD = ("lost", "wrong", "duplicate", "tracebacks", "odd exits")
KILLED, DONE, FAILED, REFUSED = -9, 0, 1, 4
"""How a run may end: by the signal, with all records, with a case that has none, with a usage error."""


def suite(folder: Path, before: Callable[[], object] = lambda: None) -> Process:
    """A run of the suite with its results in that folder."""

    def action() -> int:
        os.chdir(ROOT)
        before()
        return int(pytest.main(["suites", "-p", "no:cacheprovider", *SUITE, "--results", str(folder)]))

    return start(action)


def lines(folder: Path, suffix: str = "") -> list[bytes]:
    """The lines of the record file, or of what was set aside, a torn last one too."""
    path = folder / (RECORDS + suffix)
    return [line for line in path.read_bytes().split(b"\n") if line] if path.exists() else []


def whole_lines(folder: Path) -> list[bytes]:
    path = folder / RECORDS
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


class Injector:
    """The faults; each method injects one kind so many times, and adds to the counts of that kind.

    Args:
        folder: for the results of every run.
        seed: of what is chosen at random.
        bar: moved by one a fault.
    """

    def __init__(self, folder: Path, seed: int, bar: "tqdm[None]") -> None:
        self.random, self.bar, self.counts = random.Random(seed), bar, Counter[tuple[str, str]]()
        self.kinds: Counter[str] = Counter()
        self.right, self.there, self.disk = (folder / name for name in ("undisturbed", "disturbed", "disk"))
        for path in (self.right, self.there, self.disk):
            shutil.rmtree(path, ignore_errors=True)
        finish(first := suite(self.right))
        if first.status:
            raise SystemExit(first.words.decode())
        self.seconds = first.seconds
        self.truth = {identity(one): one for one in read(self.right / RECORDS)}

    def kills(self, count: int) -> None:
        """A run is killed at any time and started again, until it ends by itself."""
        while count:
            folder, seen, runs = self._fresh(), set[bytes](), list[Process]()
            while count and (not runs or runs[-1].status == KILLED):
                runs.append(suite(folder))
                finish(runs[-1], kill=after(self.random.uniform(0, self.seconds)))
                seen |= set(whole_lines(folder))
                if runs[-1].status == KILLED:
                    count -= 1
                    self._one("killed")
            self._judge("killed", folder, seen, runs, (KILLED, DONE))

    def together(self, count: int, runs: int, kill: bool = False) -> None:
        """Several runs in one folder, from the same moment on; the first may be killed."""
        kind = f"{runs} runs in one folder" + ", one killed" * kill
        for _ in range(count):
            folder = self._fresh()
            processes = [suite(folder) for _ in range(runs)]
            finish(*processes, kill=after(self.random.uniform(0, runs * self.seconds)) if kill else lambda: False)
            self.counts[kind, "lost"] += len(self.truth) - len({*map(identity, read(folder / RECORDS))})
            self._judge(kind, folder, set(lines(folder)), processes, (KILLED, DONE) if kill else (DONE,))
            self._one(kind)

    def limits(self, count: int) -> None:
        """No file may become larger than some size."""
        for _ in range(count):
            folder, size = self._fresh(), self.random.randrange(2 * (self.right / RECORDS).stat().st_size)
            limit = (size, resource.RLIM_INFINITY)
            finish(one := suite(folder, lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, limit)))  # type: ignore[misc]
            self._judge("limited file size", folder, set(lines(folder)), [one], (DONE, FAILED, REFUSED))
            self._one("limited file size")

    def full_disks(self, count: int) -> None:
        """A disk with too little room, then with enough."""
        for _ in range(count):
            with self._mounted(f"size={4 * self.random.randrange(1, 60)}k") as remount:
                finish(one := suite(self.disk))
                seen = set(lines(self.disk))
                remount("size=100m")
                self._judge("full disk", self.disk, seen, [one], (DONE, FAILED, REFUSED))
            self._one("full disk")

    def read_only(self, count: int) -> None:
        """A disk that takes nothing, half the times with damaged records: a run is refused, what reads is not."""
        where = str(self.disk)
        for turn in range(count):
            with self._mounted("size=100m") as remount:
                shutil.copytree(self.right, self.disk, dirs_exist_ok=True)
                if turn % 2:
                    self._damage(self.disk / RECORDS, self.random.choice(DAMAGES))
                seen = set(lines(self.disk))
                remount("ro")
                commands = [["tables", "--check", "--results", where], ["compare", where, where]]
                commands += [["report", "--check", "--results", where], ["tables", "--results", where]]
                runs = [start(lambda these=these: program(these)) for these in commands]  # type: ignore[misc]
                finish(*runs, refused := suite(self.disk))
                self.counts["read-only", "odd exits"] += (refused.status != REFUSED) + (runs[3].status != 2)
                remount("rw")
                self._judge("read-only", self.disk, seen, [*runs, refused], (0, 1, 2, REFUSED))
            self._one("read-only")

    def damaged_records(self, count: int) -> None:
        for turn in range(count):
            damage = DAMAGES[turn % len(DAMAGES)]
            folder, kind = self._fresh(), f"records {damage.__name__}"
            shutil.copytree(self.right, folder)
            self._damage(folder / RECORDS, damage)
            self._judge(kind, folder, set(lines(folder)), [], ())
            self._one(kind)

    def damaged_steps(self, count: int) -> None:
        """A run is killed while a case takes its steps, which are damaged or put in each other's place."""
        for turn in range(count):
            folder = self._fresh()

            def found(folder: Path = folder) -> list[Path]:
                return sorted((folder / STEPS).glob("*/*/*.safetensors"))

            one = suite(folder)
            finish(one, kill=lambda found=found, least=1 + turn % 2: len(found()) >= least)  # type: ignore[misc]
            seen = set(lines(folder))
            for path in found():
                other = path.with_name("2.safetensors" if path.name == "1.safetensors" else "1.safetensors")
                if turn % 4 == 3:
                    shutil.copyfile(path, other)
                else:
                    self._damage(path, (flipped, cut, overwritten)[turn % 4])
            self._judge("steps", folder, seen, [one], (KILLED,))
            self._one("steps")

    def _judge(self, kind: str, folder: Path, seen: set[bytes], runs: list[Process], allowed: tuple[int, ...]) -> None:
        """Complete what is there by one more run, and count what is not as it should be.

        Args:
            seen: lines that were there, and have to be still, if only set aside.
            runs: what has run so far, and may have ended as `allowed`.
        """
        finish(last := suite(folder))
        finish(check := start(lambda: program(["tables", "--check", "--results", str(folder)])))
        found = Counter(map(identity, records := read(folder / RECORDS)))
        gone = seen - {*lines(folder), *lines(folder, ASIDE)}
        differ = [
            one for one in records if any(one.get(name) != self.truth[identity(one)].get(name) for name in SCIENCE)
        ]
        told = [process.words for process in (*runs, last, check)]
        bad = {
            "lost": len(self.truth.keys() - found.keys()) + len(gone),
            "wrong": len(differ) + (check.status != DONE),
            "duplicate": sum(found.values()) - len(found),
            "tracebacks": sum(text.count(b"Traceback (most") + text.count(b"INTERNALERROR") for text in told),
            "odd exits": sum(one.status not in allowed for one in runs) + (last.status != DONE),
        }
        for name, times in bad.items():
            self.counts[kind, name] += times
        if any(bad.values()):
            self.bar.write(f"{kind}: {bad}\n{b''.join(told)[-4000:].decode(errors='replace')}")

    def _one(self, kind: str) -> None:
        self.kinds[kind] += 1
        self.bar.set_description(kind)
        self.bar.update()

    def _fresh(self) -> Path:
        shutil.rmtree(self.there, ignore_errors=True)
        return self.there

    def _damage(self, path: Path, damage: Damage) -> None:
        path.write_bytes(damage(path.read_bytes(), self.random))

    @contextmanager
    def _mounted(self, options: str) -> Iterator[Callable[[str], object]]:
        """A disk in memory; what it yields changes its options."""
        self.disk.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs"]
        subprocess.run([*mount, "-o", options, "tmpfs", self.disk], check=True)
        try:
            yield lambda other: subprocess.run(["mount", "-o", f"remount,{other}", self.disk], check=True)
        finally:
            subprocess.run(["umount", self.disk], check=True)


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.injector", description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="where the runs put their results; what is there of an earlier run goes"
    )
    parser.add_argument("--kills", type=int, default=500, metavar="N", help="SIGKILLs at random times (default: 500)")
    parser.add_argument("--each", type=int, default=20, metavar="N", help="faults of every other kind (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (default: 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    warnings.simplefilter("ignore", Damaged)
    discover()
    each = options.each
    with tqdm(total=options.kills + 10 * each, unit="fault", dynamic_ncols=True) as bar:
        faults = Injector(options.folder.absolute(), options.seed, bar)
        faults.together(each, 2)
        faults.together(each, 4)
        faults.together(each, 2, kill=True)
        faults.together(each, 4, kill=True)
        faults.limits(each)
        faults.damaged_records(2 * each)
        faults.damaged_steps(each)
        if os.geteuid() == 0:  # who else may not mount
            faults.full_disks(each)
            faults.read_only(each)
        else:
            bar.write("full disks and read-only ones are left out: only root can mount them")
            bar.update(2 * each)
        faults.kills(options.kills)
    rows = [[kind, times, *(faults.counts[kind, name] for name in BAD)] for kind, times in faults.kinds.items()]
    rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    print(tabulate(rows, headers=["fault", "times", *BAD]))
    return 1 if any(rows[-1][2:]) else 0


if __name__ == "__main__":
    sys.exit(main())
