"""A handful of the benchmark of deaths, and that it sees what it looks for."""

import json

import pytest

from benchmarks.deaths import BAD, ODD, RECORDS, Deaths, cases
from benchmarks.forked import Process
from wfbench.harness.plugins import discover
from wfbench.harness.runner import Runner


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Deaths:
    return Deaths(tmp_path_factory.mktemp("deaths") / "run", 0, discover([str(ODD)]))


@pytest.mark.parametrize("fault", ["worker", "driver", "exits"])
def test_nothing_is_lost_wrong_or_twice(fault: str, deaths: Deaths) -> None:
    deaths.counts.clear()
    getattr(deaths, fault)()
    assert not any(deaths.counts.values()), deaths.counts


def test_the_benchmark_counts_what_is_lost_wrong_and_twice(deaths: Deaths) -> None:
    made = cases(deaths.registry, "odd-exit")
    records = [json.loads(Runner().run(case, died="late").as_json()) for case in made[4:5]]
    records += [json.loads(json.dumps(one)) for one in list(deaths.truth.values())[:3]]
    wrong = {**records[-1], "accuracy": 0.125}
    path = deaths._fresh() / RECORDS
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in [*records, wrong]))
    deaths.counts.clear()
    deaths._judge("kind", [Process(0, 0, status=7)])
    expected = {"lost": len(deaths.truth) - 3, "wrong": 2, "duplicate": 1, "odd ends": 1}
    assert {name: deaths.counts["kind", name] for name in BAD} == expected
