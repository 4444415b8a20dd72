"""Rule 16 across machines: the last digits of floating point change no byte of tables, figures and report."""

import json
from collections.abc import Callable
from decimal import ROUND_CEILING
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfbench.output import files
from wfbench.report import html
from wfbench.report.frames import frame_of
from wfbench.report.rounding import NOISE, fixed, settled_svg, snapped

RESULTS = Path(__file__).parent.parent / "results"
Record = dict[str, Any]


def some(suite: str, keep: Callable[[Record], bool]) -> list[Record]:
    lines = (RESULTS / f"{suite}.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if keep(record)]


RECORDS: dict[str, Callable[[], list[Record]]] = {
    "smoke": lambda: some("smoke", lambda record: True),
    "lead": lambda: some("lead", lambda r: r["budget"] == 10 and r["sparsity"] == 0.9 and r["task"][0] == "d"),
    "structured": lambda: some(
        "structured", lambda r: (r["budget"], r["task"], r["recovery"]) == (100, "digits-cnn", "none")
    ),
    "damping": lambda: some("damping", lambda r: r["task"] == "digits-cnn" and r["sparsity"] == 0.9),
    "gradual": lambda: some("gradual", lambda record: True),
}


def nudged(value: Any, random: np.random.Generator) -> Any:
    """Every floating-point number of a record moved by a few units of its last place."""
    if isinstance(value, dict):
        return {name: nudged(inner, random) for name, inner in value.items()}
    if isinstance(value, list):
        return [nudged(inner, random) for inner in value]
    if isinstance(value, float) and value:
        return value * (1 + float(random.integers(-8, 9)) * 2.0**-52)
    return value


DECLARED = ("sparsity", "wrong_labels", "options", "recovery_options", "pattern_options")
"""What a case is, and so the same number everywhere."""


@pytest.mark.parametrize("suite", RECORDS)
def test_the_fifteenth_digit_changes_no_byte(suite: str) -> None:
    records = RECORDS[suite]()
    before = files.render(suite, records)
    page = html._unpacked(html.page(frame_of(records)))
    random = np.random.default_rng(0)
    others = [nudged(record, random) | {n: record[n] for n in DECLARED if n in record} for record in records]
    assert [a["accuracy"] for a in others] != [b["accuracy"] for b in records]
    after = files.render(suite, others)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == []
    assert html._unpacked(html.page(frame_of(others))) == page


@given(st.integers(-(10**6), 10**6), st.integers(0, 3), st.integers(-8, 8))
def test_a_number_on_the_edge_of_a_rounding_falls_to_one_side(units: int, decimals: int, ulps: int) -> None:
    """Halves go to the even digit, whatever the last digits are."""
    half = (units + 0.5) / 10**decimals
    assert fixed(half * (1 + ulps * 2.0**-52), decimals) == fixed(half, decimals)
    assert round(float(fixed(half, decimals)) * 10**decimals) % 2 == 0


def test_numbers_as_they_are_written() -> None:
    assert [fixed(value, 1) for value in (93.45, 93.55, 0.05, -0.04, 12.0, np.nan)] == [
        "93.4", "93.6", "0.0", "0.0", "12.0", "nan",
    ]  # fmt: skip
    assert fixed(1234567.891, 2) == "1234567.89"
    assert [fixed(value, 2, ROUND_CEILING) for value in (1.1901, 1.19, 1.19 + 1e-12)] == ["1.20", "1.19", "1.19"]
    assert len(fixed(1e300, 5)) == 307


def test_what_is_close_is_made_equal_and_the_rest_stays() -> None:
    values = np.array([[0.3, 0.1 + 0.2, np.nan], [0.3 + NOISE / 2, 0.3 + 1e-6, -1.0]])
    found = snapped(values)
    assert found[0, 0] == found[0, 1] == found[1, 0] == 0.3
    assert np.isnan(found[0, 2])
    assert (found[1, 1], found[1, 2]) == (0.3 + 1e-6, -1.0)
    assert snapped(pd.Series([], dtype=float)).shape == (0,)


def test_an_svg_keeps_its_scales_and_names_by_order() -> None:
    drawing = b'<g id="p0123456789"/><use href="#p0123456789" x="217.049913" clip-path="url(#paaaaaaaaaa)"/>'
    drawing += b'<clipPath id="paaaaaaaaaa"><g transform="translate(1.005 -0.001) scale(0.015625)"/>'
    drawing += b'<path d="M 1.23456 7 L 8.0 9.999"/><!-- d="1.23456" -->'
    expected = b'<g id="p0"/><use href="#p0" x="217.05" clip-path="url(#p1)"/>'
    expected += b'<clipPath id="p1"><g transform="translate(1 0) scale(0.015625)"/>'
    expected += b'<path d="M 1.23 7 L 8 10"/><!-- d="1.23456" -->'
    assert settled_svg(drawing) == expected
    other = drawing.replace(b"217.049913", b"217.049912").replace(b"paaaaaaaaaa", b"pbbbbbbbbbb")
    assert settled_svg(other) == expected
    assert settled_svg(b' x="0.125"') == settled_svg(b' x="0.124999"') == settled_svg(b' x="0.125001"')
