"""The report in a real browser: it opens from disk, answers, and runs nothing that a record says."""

import base64
import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.browsing import EVERYTHING, SIZES, Opened, browser_test, written
from tests.test_tables import HOSTILE, many
from wfbench import WfbenchError, load_results
from wfbench.cli import main
from wfbench.report import html as report


def test_lists_in_records_are_written_out() -> None:
    """The accuracy of every step, and the dampings that were tried."""
    steps = [{"sparsity": 0.5, "accuracy": 0.9}]
    found = report.columns(pd.DataFrame({"method": ["a", "b"], "steps": [steps, None]}))["steps"]
    assert [found["of"][at] for at in found["at"]] == ['[{"accuracy": 0.9, "sparsity": 0.5}]', None]


@browser_test
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_loads_quietly_from_disk_at_every_size(browser: Any, tmp_path: Path, size: str, scheme: str) -> None:
    opened = Opened(browser, written(tmp_path, many()), size, color_scheme=scheme)
    assert opened.trouble == []
    assert opened.methods() == ["magnitude", "ccc", "bb"]
    assert opened.column(3)[0].split() == ["85.0", "[80.0,", "90.0]"]  # 0.85 ± 4.303 · 0.02 / √3
    assert opened.page.locator("#by-sparsity svg polyline").count() == 3
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    back = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")


@browser_test
def test_it_sorts_filters_opens_a_record_and_restores_a_permalink(browser: Any, tmp_path: Path) -> None:
    path = written(tmp_path, many())
    opened = Opened(browser, path, fragment=EVERYTHING)
    page = opened.page
    assert opened.column(3)[0].startswith("97.0 [")
    page.get_by_role("button", name="method", exact=True).click()
    assert opened.methods() == ["bb", "ccc", "magnitude"]
    assert page.locator("#board th[aria-sort=ascending]").inner_text().startswith("method")
    page.get_by_role("combobox", name="samples").select_option("4")
    page.get_by_role("combobox", name="recovery").select_option("none")
    assert page.locator("#about").inner_text() == "36 cases of 3 methods: samples 4, recovery none."
    assert opened.column(3)[0].startswith("50.0")
    page.get_by_role("button", name="ccc", exact=True).click()
    assert page.locator("#which").inner_text() == "ccc: 12 cases in this view."
    page.locator("#list button").first.click()
    fields = dict(row.split("\t", 1) for row in page.locator("#fields").inner_text().splitlines() if "\t" in row)
    assert (fields["method"], fields["budget"], fields["sparsity"]) == ("ccc", "4", "0.5")
    page.get_by_role("button", name="Close").click()
    link = page.locator("#permalink").get_attribute("href")
    again = Opened(browser, path, "phone", link)
    assert again.page.locator("#about").inner_text() == "36 cases of 3 methods: samples 4, recovery none."
    assert again.methods() == ["bb", "ccc", "magnitude"]
    assert again.page.locator("#which").inner_text() == "ccc: 12 cases in this view."
    page.get_by_role("button", name="Show everything").click()
    assert page.locator("#about").inner_text() == "144 cases of 3 methods."
    assert opened.trouble == again.trouble == []


@browser_test
def test_it_works_from_the_keyboard(browser: Any, tmp_path: Path) -> None:
    page = Opened(browser, written(tmp_path, many())).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the leaderboard"
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('th, [role=region]') !== null")
    page.get_by_role("button", name="accuracy, %").focus()
    page.keyboard.press("Enter")
    assert page.locator("#board th[aria-sort=ascending]").inner_text().startswith("accuracy")
    for table in page.locator("table").all():
        named = table.evaluate("node => node.closest('[aria-label], [aria-labelledby]') !== null")
        assert named


@browser_test
def test_failures_and_numbers_are_those_of_the_records(browser: Any, tmp_path: Path) -> None:
    records = [{**one, "reason": "fit: it broke"} if one["status"] == "failed" else one for one in many()]
    path = written(tmp_path, records)
    opened = Opened(browser, path, fragment=EVERYTHING)
    page = opened.page
    text = page.locator("#failed").inner_text()
    assert text.count("fit: it broke") == 2
    frame = load_results(tmp_path)
    means = frame[frame["status"] == "ok"].groupby(["method", "task", "seed"])["accuracy"].mean()
    expected = means.groupby(["method", "task"]).mean().groupby("method").mean()
    shown = dict(zip(opened.methods(), opened.column(3), strict=True))
    for method, accuracy in expected.items():
        assert shown[method].split()[0] == f"{100 * accuracy:.1f}"
    matrix = page.locator("#matrix tbody tr").first.locator("td").all_inner_texts()
    assert matrix[0] == ""


@browser_test
@pytest.mark.parametrize("name", [*HOSTILE, '"><img src=x onerror=alert(1)>', "</script><script>alert(1)</script>"])
def test_hostile_names_are_text(browser: Any, tmp_path: Path, name: str) -> None:
    records = [{**one, "method": name, "reason": name, "task": name} for one in many(("magnitude",), 2)]
    opened = Opened(browser, written(tmp_path, records))
    assert opened.trouble == []
    assert opened.page.locator("#board bdi").first.text_content() == name
    assert opened.page.locator("img").count() == 0
    opened.page.get_by_role("combobox", name="task").select_option(index=1)
    opened.page.locator("#board button.open").first.click()
    opened.page.locator("#list button").first.click()
    assert opened.trouble == []


def test_the_same_records_give_the_same_bytes_and_no_record_can_end_the_data(tmp_path: Path) -> None:
    records = [{**one, "method": "</script>"} for one in many(("magnitude",))]
    first = written(tmp_path / "a", records).read_bytes()
    assert written(tmp_path / "b", records[::-1]).read_bytes() == first
    assert first.count(b"</script>") == 2
    assert b"http" not in first.replace(b"http://www.w3.org/2000/svg", b"").replace(b"http-equiv", b"")


def test_check_catches_one_edited_character_and_not_another_compression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, many())
    command = ["report", "--results", str(tmp_path), "--check"]
    assert main(command) == 0
    content = path.read_bytes()
    before, data, after = report._unpacked(content)
    loose = base64.b64encode(gzip.compress(data, 1))
    path.write_bytes(before + report.MARK + loose + b"</script>" + after)
    assert main(command) == 0
    for changed in (
        content.replace(b"Leaderboard", b"Leaderbored", 1),
        before + report.MARK + base64.b64encode(gzip.compress(data.replace(b"0.9", b"0.8", 1))) + b"</script>" + after,
        content[:-40],
        content.replace(report.MARK, report.MARK + b"?"),
    ):
        path.write_bytes(changed)
        assert main(command) == 1
    path.unlink()
    assert main(command) == 1
    assert "is missing; run `wfbench report`" in capsys.readouterr().out


def test_the_command_writes_the_page_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "a", many())
    assert main(["report", "--results", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.strip().endswith("report/index.html")
    with pytest.raises(WfbenchError, match="no records"):
        report.write(tmp_path / "nowhere")
