"""Latencies: of one architecture one measurement, in pairs with the dense network."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.test_filters import case_of
from wfbench import Runner
from wfbench.channels import latency
from wfbench.channels.latency import Timing, architecture, latencies
from wfbench.execution.clock import now
from wfbench.harness.measures import Timings
from wfbench.harness.record import Record

WITH_TIMES = ("latency", "dense_latency", "latencies")


def times(record: Record) -> list[Any]:
    return [getattr(record, name) for name in WITH_TIMES]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that were timed."""
    found: list[nn.Module] = []

    def counted(dense: nn.Module, small: nn.Module, x: Tensor) -> list[Timing]:
        found.append(small)
        return latencies(dense, small, x)

    monkeypatch.setattr("wfbench.harness.runner.latencies", counted)
    return found


def test_equal_architectures_have_equal_latencies_and_others_their_own(measured: list[nn.Module]) -> None:
    """Norms of filters differ in which channels go; layer by layer, not in how many."""
    runner = Runner()
    first, second, more = (
        runner.run(case_of(method, sparsity=sparsity, scope="layer"))
        for method, sparsity in (("filter-l1", 0.4), ("filter-l2", 0.4), ("filter-l1", 0.7))
    )
    assert (first.status, second.status, more.status) == ("ok", "ok", "ok")
    assert first.architecture == second.architecture != more.architecture
    assert times(first) == times(second) != times(more)
    assert len(measured) == 2
    assert first.latencies is not None
    assert [found["batch"] for found in first.latencies] == list(latency.BATCHES) == [1, 16]
    assert first.latency == first.latencies[0]["latency"]
    assert first.dense_latency == first.latencies[0]["dense_latency"]


def test_a_later_run_takes_what_is_stored_for_the_same_place(measured: list[nn.Module]) -> None:
    case = case_of("filter-l1", scope="layer")
    before = Runner().run(case)
    stored = json.loads(before.as_json())
    elsewhere = {**stored, "environment": {**stored["environment"], "threads": 99}}
    for records, known in (([stored], True), ([elsewhere], False), ([{**stored, "task": "other"}], False), ([], False)):
        count, runner = len(measured), Runner()
        runner.timings.learn(records)
        assert (times(runner.run(case)) == times(before)) == known
        assert len(measured) == count + (not known)


def test_the_first_stored_measurement_counts_and_old_records_have_none() -> None:
    place = {"machine": "a machine", "threads": 1, "device": "cpu", "torch": "2"}
    record = {"task": "t", "architecture": "a", "environment": place}
    measurements = [[{"batch": 1, "latency": value, "dense_latency": 2.0}] for value in (1.0, 3.0)]
    timings = Timings()
    timings.learn([{"task": "t", "latency": 7.0, "environment": place}])  # from before there were architectures
    timings.learn([{**record, "latencies": found} for found in measurements])
    found = timings.take("t", "a", place, lambda: pytest.fail("measured"))
    assert found == {"latency": 1.0, "dense_latency": 2.0, "latencies": measurements[0]}


def test_the_ratio_is_paired_and_its_range_is_that_of_the_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven ratios 1 to 11 besides the one that warms up."""
    pairs = iter(
        [[9.0, 1.0]] * 2 + [[2e-3 * ratio, 2e-3] for ratio in (3, 9, 1, 11, 5, 7, 2, 10, 4, 8, 6) for _ in "ab"]
    )
    monkeypatch.setattr(latency, "REPETITIONS", 11)
    monkeypatch.setattr(latency, "_least", lambda dense, small, x: next(pairs))
    one, more = latencies(nn.Linear(2, 2), nn.Linear(2, 2), torch.zeros(1, 2))
    assert {**one, "batch": 16} == more
    assert (one["median"], one["low"], one["high"]) == pytest.approx((6, 1, 11))
    assert (one["latency"], one["dense_latency"]) == pytest.approx((2e-3, 12e-3))


def test_both_networks_are_called_in_turn_on_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    monkeypatch.setattr(latency, "CALLS", 4)
    monkeypatch.setattr(latency, "REPETITIONS", 1)
    called: list[tuple[str, int]] = []

    class Told(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            called.append((self.name, len(x)))
            return x

    latencies(Told("dense"), Told("small"), torch.zeros(1, 3))
    turn = ["dense", "small", "small", "dense"] if called[0][0] == "dense" else ["small", "dense", "dense", "small"]
    assert called == [(name, batch) for _ in range(2) for batch in (1, 16) for name in turn * 2]


def layers() -> Iterator[nn.Module]:
    yield nn.Linear(3, 4)
    yield nn.Linear(3, 5)
    yield nn.Linear(3, 4, bias=False)
    yield nn.Sequential(nn.Linear(3, 4))


def test_an_architecture_is_its_shapes_and_not_its_values() -> None:
    assert len({architecture(module) for module in layers()}) == 4
    assert [architecture(module) for module in layers()] == [architecture(module) for module in layers()]


def test_one_thread_on_the_processor_has_a_clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {}
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        clocks[threads] = latency._clock(torch.device("cpu"))
    before = [clock() for clock in clocks.values()]
    time.sleep(0.2)  # in which this thread has no time on the processor
    slept, waited = (clock() - began for clock, began in zip(clocks.values(), before, strict=True))
    assert slept < 0.1 < 0.19 < waited


def test_on_cuda_events_around_the_call_tell_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle, began, the call, ended, waited for; milliseconds by the device."""
    seen: list[str] = []

    class Event:
        def __init__(self, device: torch.device, enable_timing: bool) -> None:
            assert (device.type, enable_timing) == ("cuda", True)

        def record(self) -> None:
            seen.append("record")

        def synchronize(self) -> None:
            seen.append("wait")

        def elapsed_time(self, end: "Event") -> float:
            return 3.0 if end is not self else 0.0

    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: seen.append(f"idle {device}"))
    seconds = latency._timer(lambda: seen.append("call"), torch.device("cuda", 1))()
    assert (seconds, seen) == (0.003, ["idle cuda:1", "record", "call", "record", "wait"])


def test_seconds_on_a_device_begin_and_end_when_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    card = torch.device("cuda")
    first, second = now(card), now(card)
    assert (first <= second, waited) == (True, [card, card])
    assert second <= now(torch.device("cpu"))
    assert len(waited) == 2
