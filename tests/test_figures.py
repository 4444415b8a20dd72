"""Pictures: what they name, what their axes span, and that points stand where they belong."""

from xml.etree import ElementTree

import numpy as np
import pytest

from tests.test_tables import cells, record
from wfbench.output import figures
from wfbench.output import files as pages
from wfbench.output.budgets import headline
from wfbench.output.looks import GREY, looks
from wfbench.report import frames


def test_the_figure_shows_every_method_and_sparsity() -> None:
    records = [
        record(seed, 0.6 + 0.1 * seed, method=method, budget=budget, sparsity=sparsity)
        for seed in range(2)
        for method in ("a", "bb")
        for budget in (4, 16)
        for sparsity in (0.5, 0.9)
    ]
    figure = headline(cells(records))
    assert [axis.get_title() for axis in figure.axes] == ["50 % of weights removed", "90 % of weights removed"]
    for axis in figure.axes:
        lines = {container.get_label(): container[0].get_ydata().tolist() for container in axis.containers}
        assert lines == {"a": pytest.approx([65, 65]), "bb": pytest.approx([65, 65])}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "bb"]


def test_eight_methods_are_named_the_references_among_them_and_the_rest_is_grey() -> None:
    names = [f"m{number:02}" for number in range(14)] + ["magnitude", "woodfisher"]
    records = [
        record(0, 0.9 - 0.05 * place, method=name, budget=budget)
        for place, name in enumerate(names)
        for budget in (4, 16)
    ]
    figure = headline(cells(records))
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["others", *names[:6], "magnitude", "woodfisher"]
    assert sum(line.get_color() == GREY for line in figure.axes[0].lines) == 8


def test_a_method_that_was_run_on_the_easy_task_alone_does_not_lead() -> None:
    found = {("easy", "a"): 0.9, ("easy", "b"): 0.8, ("easy", "only"): 0.7, ("hard", "a"): 0.3, ("hard", "b"): 0.2}
    records = [record(0, accuracy, task=task, method=method) for (task, method), accuracy in found.items()]
    assert list(looks(cells(records))) == ["a", "b", "only"]  # by plain means: only, a, b


Points = list[list[tuple[float, float]]]


def points(picture: bytes) -> list[tuple[list[float], Points]]:
    """Of every panel of an SVG: where its ticks on x are, and the points of each line that has markers."""
    use, found = "{http://www.w3.org/2000/svg}use", []
    for panel in ElementTree.fromstring(picture).iter():
        if not str(panel.get("id")).startswith("axes_"):
            continue
        ticks = [next(group.iter(use)) for group in panel.iter() if str(group.get("id")).startswith("xtick_")]
        lines = [group.iter(use) for group in panel if str(group.get("id")).startswith("line2d_")]
        marked = [[(float(mark.attrib["x"]), float(mark.attrib["y"])) for mark in line] for line in lines]
        found.append(([float(tick.attrib["x"]) for tick in ticks], [line for line in marked if line]))
    return found


def test_points_stand_at_their_budgets() -> None:
    """One alone exactly; those that would overlap side by side, as far to the left as to the right."""
    levels = {"alone": 0.8, "c": 0.502, "a": 0.5, "b": 0.5, "magnitude": 0.2, "woodfisher": 0.2}
    budgets = (10, 50, 100, 1000)
    records = [
        record(seed, level + 0.1 * seed, method=method, budget=budget)
        for method, level in levels.items()
        for seed in range(3)
        for budget in budgets
    ]
    ((ticks, lines),) = points(pages.render("s", records)["figures/s.svg"])
    assert len(ticks) == 4
    decades = np.diff(ticks) / np.diff(np.log10(budgets))
    assert decades == pytest.approx([decades[0]] * 3, rel=1e-3)
    assert len(lines) == len(levels)
    for number, tick in enumerate(ticks):
        alone, c, a, b, magnitude, woodfisher = (line[number][0] for line in lines)
        assert alone == tick
        assert a == pytest.approx(tick, abs=0.01)
        assert (c + b) / 2 == pytest.approx(tick, abs=0.01)
        assert (magnitude + woodfisher) / 2 == pytest.approx(tick, abs=0.01)
        assert c < a < b
        assert magnitude < woodfisher
        assert b - c < 0.1 * decades[0]  # less than a tenth of a decade: 10 is read as 10


def test_an_axis_spans_what_differs_among_the_named() -> None:
    levels = {f"m{number}": 0.99 - 0.001 * number for number in range(8)} | {"poor": 0.1}
    records = [
        record(0, level, method=name, budget=n, dense_accuracy=0.995) for name, level in levels.items() for n in (4, 16)
    ]
    low, high = headline(cells(records)).axes[0].get_ylim()
    assert 97.5 < low < 98.3
    assert 99 < high <= 100


def test_one_budget_is_a_dot_a_method() -> None:
    levels = {f"m{number}": 0.9 - 0.05 * number for number in range(10)}
    records = [
        record(seed, level + 0.01 * seed, method=name, sparsity=sparsity)
        for name, level in levels.items()
        for seed in range(3)
        for sparsity in (0.5, 0.9)
    ]
    figure = headline(cells(records))
    axis, other = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [*list(levels)[:8], "2 others"]
    dots = [(container[0].get_xdata().item(), container[0].get_ydata().item()) for container in other.containers]
    assert dots == [(pytest.approx(91 - 5 * number), number) for number in range(8)]
    assert "16 samples" in axis.get_xlabel()


def test_profiles_show_the_share_of_cases_that_keep_a_share_of_the_dense_accuracy() -> None:
    accuracies = (0.9, 0.45, None)
    records = [record(seed, accuracies[seed], recovery=recovery) for seed in range(3) for recovery in ("none", "x")]
    figure = figures.profiles(frames.frame_of(records))
    assert len(figure.axes) == 2
    (line,) = figure.axes[0].lines
    kept = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert (kept[0], kept[50], kept[51], kept[100]) == pytest.approx((200 / 3, 200 / 3, 100 / 3, 100 / 3))
