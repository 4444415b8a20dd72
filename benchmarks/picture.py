"""The docs' picture of the report: `python -m benchmarks.picture` (needs Chromium)."""

import shutil
import sys
from pathlib import Path

from benchmarks.evidence import QUIET

PAGE = Path("results/report/index.html")
PICTURE = Path(__file__).with_name("report.png")
VIEW = "#task=fashion-resnet20&budget=100&sparsity=0.8&recovery=none"


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or not PAGE.exists():
        print(f"needs Chromium (apt-get install chromium) and {PAGE} (wfbench report)", file=sys.stderr)
        return 2
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        page = browser.new_page(viewport={"width": 1100, "height": 760})
        page.goto(PAGE.resolve().as_uri() + VIEW)
        page.wait_for_selector("body[data-ready=yes]")
        page.screenshot(path=PICTURE)
        browser.close()
    print(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
