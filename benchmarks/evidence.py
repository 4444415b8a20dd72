"""Tables and report of 20 000 records: `python -m benchmarks.evidence` (the report's part needs Chromium)."""

import itertools
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from wfbench.output import files as pages
from wfbench.report import html as report
from wfbench.report import summary

RECORDS = 20_000
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


def records(count: int = RECORDS) -> list[dict[str, Any]]:
    """Random accuracies over a grid of 34 methods, 4 tasks, 3 budgets, 5 sparsities, 2 recoveries and 5 draws."""
    generator = random.Random(0)
    methods = [f"method-{number}" for number in range(32)] + ["magnitude", "woodfisher"]
    grid = itertools.product(
        "abcd", (10, 100, 1000), range(5), methods, (0.6, 0.7, 0.8, 0.9, 0.95), ("none", "batchnorm")
    )
    found = []
    for task, budget, seed, method, sparsity, recovery in itertools.islice(grid, count):
        accuracy = generator.random()
        found.append(
            {
                "suite": "s", "task": task, "method": method, "track": "labeled", "budget": budget, "seed": seed,
                "replicate": 0, "sparsity": sparsity, "pattern": "unstructured", "scope": "global",
                "recovery": recovery, "accuracy": accuracy, "dense_accuracy": 0.95, "loss": generator.random(),
                "achieved_sparsity": sparsity, "magnitude_overlap": 0.9, "seconds": generator.random(),
                "status": "ok", "reason": None, "key": f"{generator.getrandbits(256):064x}",
                "options": {"damping": 1e-5}, "environment": {"torch": "2.15.0", "machine": "m", "threads": 2},
            }
        )  # fmt: skip
    return found


def main() -> None:
    made = records()
    began = time.perf_counter()
    files = pages.render("s", made)
    print(f"tables and figure of {len(made)} records: {time.perf_counter() - began:.1f} s, {len(files)} files")
    began = time.perf_counter()
    page = report.page(summary.frame_of(made))
    print(f"report: {time.perf_counter() - began:.1f} s, {len(page) / 2**20:.2f} MiB")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("no Chromium here, so no filter is timed; install it: apt-get install chromium")
        return
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "index.html"
        path.write_bytes(page)
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        opened = browser.new_page()
        began = time.perf_counter()
        opened.goto(path.as_uri())
        opened.wait_for_selector("body[data-ready=yes]")
        print(f"page ready after {1000 * (time.perf_counter() - began):.0f} ms")
        for name, value in (("budget", "100"), ("task", "a"), ("recovery", "none"), ("sparsity", "0.8")):
            opened.get_by_role("combobox", name=name).select_option(value)
            print(f"  filter by {name}: {opened.evaluate('document.body.dataset.milliseconds')} ms")
        opened.get_by_role("button", name="Show everything").click()
        print(f"  show everything: {opened.evaluate('document.body.dataset.milliseconds')} ms")
        browser.close()


if __name__ == "__main__":
    main()
