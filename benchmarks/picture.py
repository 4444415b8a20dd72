"""The docs' picture of the report: `python -m benchmarks.picture` (needs Chromium)."""

import shutil
import sys
from pathlib import Path

from benchmarks.evidence import QUIET

PAGE = Path("results/report/index.html")
PICTURE = Path(__file__).parent.parent / "docs" / "report.png"
COLOURS = 64
"""As many as the picture keeps: a third of the bytes, and no visible difference."""


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or not PAGE.exists():
        print(f"needs Chromium (apt-get install chromium) and {PAGE} (wfbench report)", file=sys.stderr)
        return 2
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(PAGE.resolve().as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        page.screenshot(path=PICTURE)
        browser.close()
    Image.open(PICTURE).convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
