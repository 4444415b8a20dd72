"""A report in a real browser, for tests of the page."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wfbench.report import html as report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
browser_test = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install it: apt-get install chromium")
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}
EVERYTHING = "#all=everything"


def started() -> Iterator[Any]:
    """A browser, until the caller goes on."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


def written(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "s.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return report.write(folder)


class Opened:
    """A page with what it complained of and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, size: str = "desktop", fragment: str = "", **options: Any) -> None:
        width, height = SIZES[size]
        self.page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
        self.trouble: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", lambda request: request.url.startswith("file:") or self.trouble.append(request.url))
        self.page.on("dialog", lambda dialog: self.trouble.append(dialog.message) or dialog.dismiss())
        self.page.goto(f"{path.as_uri()}{fragment}")
        self.page.wait_for_selector("body[data-ready=yes]")

    def methods(self) -> list[str]:
        return self.page.locator("#board tbody th bdi").all_inner_texts()

    def column(self, number: int) -> list[str]:
        cells = self.page.locator(f"#board tbody tr > :nth-child({number})")
        return [text.strip() for text in cells.all_inner_texts()]
