"""What a reader of the report sees: who leads, where options lead, what a smaller network costs, what others report."""

import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import CHROMIUM, EVERYTHING, SIZES, Opened, browser_test, written
from tests.test_tables import many, record
from wfbench import load_results
from wfbench.report import html as report
from wfbench.report import literature
from wfbench.report.frames import frame_of
from wfbench.report.leaders import leaders

RESULTS = Path(__file__).parent.parent / "results"
METHODS = ("magnitude", "aa", "bb", "ccc", "dddd")


def noisy(spread: float = 0.02, **changes: Any) -> list[dict[str, Any]]:
    """Five methods that differ by about as much as their draws do, one of them failing once."""
    generator = random.Random(0)
    return [
        record(
            seed,
            None if (method, seed) == ("aa", 2) else 0.8 + spread * (generator.random() + METHODS.index(method) / 4),
            method=method, budget=budget, recovery=recovery, chance=0.1, **changes,
        )
        for budget in (4, 16, 64)
        for recovery in ("none", "repair")
        for seed in range(5)
        for method in METHODS
    ]  # fmt: skip


def choices(page: Any) -> list[tuple[str, str, bool, str]]:
    """Every option but `all`: its select's id, its value, whether it can be chosen, what it says."""
    found = page.evaluate(
        "[...document.querySelectorAll('#filters select')].flatMap(one => [...one.options].filter(o => o.value !== '')"
        ".map(o => [one.id, o.value, !o.disabled, o.textContent]))"
    )
    return [tuple(one) for one in found]


def test_suites_open_where_most_methods_stand_and_variants_open_nothing() -> None:
    """`lead` has three methods on a task, `variants` four names of one; of `lead`'s views one has all three methods."""
    lead = [one for one in many() if (one["method"], one["budget"]) != ("bb", 4) and one["sparsity"] == 0.9]
    names = ("m[a=1]", "m[a=2]", "m+other", "m-as-other")
    variants = [{**one, "suite": "variants"} for one in many(names) if one["task"] == "t"]
    cases = report._told(frame_of([{**one, "suite": "lead"} for one in lead] + variants))
    first, second = report.openings(cases)
    assert (first["suite"], second["suite"]) == ("lead", "variants")
    assert {name: first[name] for name in report.VIEW} == {
        "task": "t", "budget": 16, "sparsity": 0.9, "recovery": "batchnorm", "pattern_kind": "weights",
        "draw_kind": "ordinary",
    }  # fmt: skip


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two draws of everything: they decide the opening as all do, in less than half the time."""
    path: Path = tmp_path_factory.mktemp("report") / "index.html"
    cases = load_results(RESULTS)
    path.write_bytes(report.page(cases[cases["seed"] < 2].reset_index(drop=True)))
    return path


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_repositorys_report_opens_on_one_ranking(browser: Any, real: Path, size: str, scheme: str) -> None:
    opened = Opened(browser, real, size, color_scheme=scheme)
    page = opened.page
    assert opened.trouble == []
    assert page.locator("#filter-suite").input_value() == "lead"
    for name in ("task", "budget", "sparsity", "recovery"):
        assert page.locator(f"#filter-{name}").input_value() != ""
    methods = opened.methods()
    assert len(methods) >= 20
    assert not [name for name in methods if "+" in name or "-as-" in name]
    best = page.locator("#said strong").inner_text()
    assert best.startswith(methods[0])
    assert page.locator("tr.best bdi").inner_text() == methods[0]
    assert page.locator("#said").bounding_box()["y"] < 300
    for select, value, enabled, said in choices(page):
        assert enabled == (re.search(r"\(\d+\)$", said) is not None), (select, value, said)
        assert enabled or "(none with" in said
    edge = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.ends')].map(o => o.getBoundingClientRect().right))"
    )
    assert edge <= SIZES[size][0]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#filter-suite").select_option("structured")
    heads = [text.replace("\xa0", " ") for text in page.locator("#board thead th").all_inner_texts()]
    assert [text for text in heads if text in ("MACs, %", "parameters, %", "latency, ms", "speed-up")] == heads[4:8]
    assert page.locator("#by-cost svg circle").count() > 6
    assert opened.trouble == []


@browser_test
def test_every_option_gives_the_cases_it_says_or_says_why_none(browser: Any, tmp_path: Path) -> None:
    other = [record(seed, 0.5, suite="r", task="w", budget=8, method="x", draw="k-shot") for seed in range(2)]
    page = Opened(browser, written(tmp_path, many() + other)).page
    start = page.evaluate("location.hash")
    options = choices(page)
    assert {enabled for _, _, enabled, _ in options} == {True, False}
    for select, value, enabled, said in options:
        if enabled:
            page.locator(f"#{select}").select_option(value)
            cases = int(page.locator("#about").inner_text().split()[0])
            if select == "filter-suite":
                assert cases > 0
            else:
                assert f"({cases})" in said
        else:
            page.evaluate(f"choose({select.removeprefix('filter-')!r}, {value!r})")
            assert page.locator("#about").inner_text().startswith("0 cases")
            assert "Let go of" in page.locator("#said").inner_text()
            assert "Let go of" in page.locator("#board tbody").inner_text()
        page.evaluate("hash => { location.hash = hash || '#'; restore(); }", start)
    why = {value: said for select, value, _, said in options if select == "filter-task"}
    assert why["w"] == "w (none with these choices)"
    assert page.locator("#filter-suite option[value=r]").inner_text() == "r (2)"
    page.get_by_role("button", name="Show everything").click()
    page.get_by_role("combobox", name="task").select_option("w")
    assert page.locator("#filter-budget option[value='16']").inner_text() == "16 (none with this task)"


@browser_test
def test_ordinary_draws_can_be_chosen(browser: Any, tmp_path: Path) -> None:
    odd = [{**one, "draw": "k-shot"} for one in many(("magnitude",))]
    worse = [{**one, "wrong_labels": 0.3} for one in many(("bb",))]
    page = Opened(browser, written(tmp_path, many() + odd + worse), fragment=EVERYTHING).page
    for kind, cases in {"ordinary": 144, "k-shot": 48, "30 % wrong labels": 48}.items():
        page.get_by_role("combobox", name="draw kind").select_option(kind)
        assert page.locator("#about").inner_text().startswith(f"{cases} cases")


@browser_test
def test_who_leads_is_what_the_tables_of_leaders_say(browser: Any, tmp_path: Path) -> None:
    path = written(tmp_path, noisy())
    page = Opened(browser, path).page
    rows = page.locator("#leaders tbody tr").all()
    budgets = [row.locator("th").inner_text() for row in rows]
    recoveries = ["none", "repair"]
    found = list(leaders(load_results(tmp_path)))
    assert len(found) == 6
    assert {len(leader.level) for _, leader in found} != {0}
    for (_, _, budget, recovery, _), leader in found:
        cell = rows[budgets.index(str(budget))].locator("td").nth(recoveries.index(recovery))
        level = f" ({len(leader.level)} level)" if leader.level else ""
        assert cell.inner_text() == f"{leader.method} {100 * leader.accuracy:.1f}{level}"
        assert all(method in str(cell.get_attribute("title")) for method in leader.level)
        page.locator("#filter-budget").select_option(str(budget))
        page.locator("#filter-recovery").select_option(recovery)
        assert page.locator("#said strong").inner_text() == f"{leader.method} {100 * leader.accuracy:.1f} %"
        assert set(page.locator("tr.level th bdi").all_inner_texts()) == set(leader.level)


@browser_test
def test_costs_are_columns_and_axes(browser: Any, tmp_path: Path) -> None:
    """Three draws with 40, 50 and 60 of 100 MACs, 2.5 times as fast; one timed too unsteadily, one not at all."""
    shrunk = {"pattern": "filter", "of": "macs", "scope": "layer", "params": 30, "dense_params": 40, "dense_macs": 100}
    timed = {"batch": 1, "median": 2.5, "low": 2.4, "high": 2.6, "latency": 0.002, "dense_latency": 0.005}
    records = [record(seed, 0.8, macs=40 + 10 * seed, latencies=[timed], **shrunk) for seed in range(3)]
    records += [record(0, 0.7, macs=50, method="untimed", latency=0.001, dense_latency=0.005, **shrunk)]
    records += [record(0, 0.6, macs=50, method="unsteady", latencies=[timed | {"high": 3.1}], **shrunk)]
    opened = Opened(browser, written(tmp_path, records))
    page = opened.page
    assert [opened.column(place) for place in range(5, 9)] == [
        3 * ["50.0"], 3 * ["75.0"], ["2.00", "–", "–"], ["2.50", "–", "–"],
    ]  # fmt: skip
    page.get_by_role("button", name="MACs").click()
    assert page.locator("#board th[aria-sort=ascending]").inner_text().startswith("MACs")
    for value, dots in {"macs": 3, "params": 3, "latency": 1, "speed": 1}.items():
        page.get_by_role("combobox", name="Accuracy against").select_option(value)
        assert page.locator("#by-cost svg circle").count() == dots
    assert "speed-up" in str(page.locator("#by-cost svg").get_attribute("aria-label"))
    assert page.locator("#by-cost circle title").text_content() == "m, 50 % removed, speed-up 2.50: 80.0 [80.0, 80.0]"
    without = Opened(browser, written(tmp_path / "plain", many())).page
    assert "MACs" not in without.locator("#board thead").inner_text()
    assert not without.locator("#costs").is_visible()


@browser_test
def test_methods_are_searched_for_by_a_part_of_their_name(browser: Any, tmp_path: Path) -> None:
    path = written(tmp_path, many())
    opened = Opened(browser, path)
    search = opened.page.get_by_role("searchbox", name="method search")
    search.fill("MAG")
    assert opened.methods() == ["magnitude"]
    again = Opened(browser, path, fragment=str(opened.page.locator("#permalink").get_attribute("href")))
    assert again.methods() == ["magnitude"]
    search.fill("nobody")
    assert opened.methods() == []
    assert "a name with “nobody”" in opened.page.locator("#said").inner_text()
    search.fill("")
    assert len(opened.methods()) == 3
    assert opened.trouble == []


@browser_test
def test_figures_of_the_literature_are_shown_as_reported(browser: Any, tmp_path: Path) -> None:
    page = Opened(browser, written(tmp_path, [*many(), record(0, 0.5, suite="i", task="imagenet-resnet50[2000]")])).page
    rows = page.locator("#reported tbody tr")
    everything = literature.figures()
    numbers = re.findall(r"(?<=\t)\d+\.\d(?=\t)", page.locator("#reported tbody").inner_text())
    assert len(numbers) == len(everything) + rows.count()  # each row's dense accuracy too
    assert "of no task in view" in page.locator("#of-view").inner_text()
    page.locator("#filter-suite").select_option("i")
    assert "of imagenet-resnet50, the task in view" in page.locator("#of-view").inner_text()
    first = rows.filter(has_text="WoodFisher").first.locator("td").all_inner_texts()
    assert "75.3" in first  # their 90 %: 75.26
    assert literature.SOURCE in page.locator("#source").inner_text()


@browser_test
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_contrast_and_fields_have_names(browser: Any, tmp_path: Path, scheme: str) -> None:
    """WCAG 2.1: text 4.5, graphics 3."""
    page = Opened(browser, written(tmp_path, many()), color_scheme=scheme).page
    styles = "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()"

    def luminance(name: str) -> float:
        code = page.evaluate(styles, name).removeprefix("#")
        code = "".join(2 * one for one in code) if len(code) == 3 else code
        parts = [int(code[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for back in ("--back", "--panel", "--level"):
        for name in ("--text", "--soft", "--link", "--good", "--bad"):
            assert contrast(name, back) >= 4.5, (name, back)
    for number in range(6):
        assert contrast(f"--c{number}", "--back") >= 3, number
    for field in page.locator("select, input, button").all():
        named = "node => node.ariaLabel || node.textContent.trim() && node.tagName === 'BUTTON' || node.labels?.length"
        assert field.evaluate(named), field.evaluate("node => node.outerHTML")
