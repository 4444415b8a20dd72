"""What a method leaves behind in the process changes no other record by a bit: it is put back, or a broken rule."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.cases import DEVICES, blob_task, case_of
from wfbench import Network, Runner, ScorePruner
from wfbench.errors import BrokenRule
from wfbench.execution.leftovers import SETTINGS, put_back
from wfbench.harness.record import SCIENCE, Record
from wfbench.network import Params

TASK = blob_task()
OTHERS = [("magnitude", "none"), ("woodfisher-joint", "repair"), ("kfac", "batchnorm"), ("lobs", "correction")]


@dataclass(frozen=True)
class Leaks(ScorePruner[None]):
    """Magnitude, which leaves something behind."""

    leak: Callable[[Network], object]
    name: ClassVar[str] = "leaks"

    def scores(self, net: Network, data: None) -> Params:
        scores = {name: weight.abs() for name, weight in net.weights.items()}
        self.leak(net)
        return scores


def zeros(self: nn.Module, x: Tensor) -> Tensor:
    return x.new_zeros(len(x), 8)


def first(net: Network) -> nn.Module:
    return next(iter(net.layers.values()))


def weight(net: Network) -> Tensor:
    return next(iter(net.weights.values()))


PUT_BACK: dict[str, Callable[[Network], object]] = {
    "default dtype": lambda _: torch.set_default_dtype(torch.float64),
    "default device": lambda _: torch.set_default_device("meta"),
    "grad off": lambda _: torch.set_grad_enabled(False),
    "threads": lambda _: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic": lambda _: torch.use_deterministic_algorithms(True, warn_only=True),
    "anomalies": lambda _: torch.set_anomaly_enabled(True),
    "autocast": lambda _: torch.set_autocast_enabled("cpu", True),
    "denormals": lambda _: torch.set_flush_denormal(True),
    "precision": lambda _: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "precision as of old": lambda _: torch.set_float32_matmul_precision("medium"),
    "no mkldnn": lambda _: setattr(torch.backends.mkldnn, "enabled", False),
    "a layer's forward": lambda _: setattr(nn.Linear, "forward", zeros),
    "a layer's call": lambda _: setattr(nn.BatchNorm1d, "__call__", zeros),
    "a function": lambda _: setattr(nn.functional, "cross_entropy", lambda *_, **__: torch.zeros(())),
    "torch's own": lambda _: setattr(torch, "cat", lambda *_, **__: torch.zeros(3)),
    "a tensor's": lambda _: setattr(Tensor, "abs", lambda self: -self),
    "a hook on all": lambda _: nn.modules.module.register_module_forward_hook(lambda _, __, out: 2 * out),
}
REFUSED: dict[str, tuple[str, Callable[[Network], object]]] = {
    "a hook": ("hooks of 0", lambda net: first(net).register_forward_hook(lambda _, __, out: 2 * out)),
    "a hook before": ("hooks of 0", lambda net: first(net).register_forward_pre_hook(lambda _, x: (2 * x[0],))),
    "mode": ("mode of 0", lambda net: first(net).train()),
    "grad on": ("weight of 0", lambda net: weight(net).requires_grad_()),
    "a gradient": ("weight of 0", lambda net: setattr(weight(net), "grad", torch.ones_like(weight(net)))),
    "dtype": ("weight of 0", lambda net: first(net).double()),
    "a new weight": ("weight of 0", lambda net: setattr(first(net), "weight", nn.Parameter(weight(net).clone()))),
    "values": ("a tensor", lambda net: weight(net).mul_(2)),
    "popped weights": ("weights", lambda net: net.weights.pop(next(iter(net.weights)))),
    "other weights": ("weights", lambda net: net.weights.update({next(iter(net.weights)): weight(net).clone()})),
    "a popped layer": ("parts of Sequential", lambda net: net._module.pop(3)),  # type: ignore[operator]
    "a layer in its place": ("parts of Sequential", lambda net: net._module.__setitem__(2, nn.Tanh())),  # type: ignore[operator]
    "its own forward": ("forward of 0", lambda net: setattr(first(net), "forward", lambda x: 2 * x)),
    "the network's logits": ("attributes", lambda net: setattr(net, "logits", lambda *_: torch.zeros(1, 3))),
}


def science(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in SCIENCE}


@cache
def alone(device: str) -> list[dict[str, Any]]:
    """The other records, with nothing before them."""
    return others(Runner(device))


def others(runner: Runner) -> list[dict[str, Any]]:
    found = [science(runner.run(case_of(method, recovery=recovery, task=TASK))) for method, recovery in OTHERS]
    assert [one["status"] for one in found] == ["ok"] * len(OTHERS)
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("leak", PUT_BACK)
def test_what_is_left_in_torch_is_put_back(leak: str, device: str) -> None:
    before = [get() for get, _ in SETTINGS]
    expected, runner = alone(device), Runner(device)
    for _ in range(2):
        assert runner.run(case_of(Leaks(PUT_BACK[leak]), task=TASK)).status == "ok"
    assert [get() for get, _ in SETTINGS] == before
    assert others(runner) == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("leak", REFUSED)
def test_what_is_left_in_the_dense_network_is_a_broken_rule_and_gone(leak: str, device: str) -> None:
    what, does = REFUSED[leak]
    expected, runner = alone(device), Runner(device)
    runner.run(case_of("magnitude", task=TASK))
    with pytest.raises(BrokenRule, match=rf"^leaks changed the dense network \({what}\); work on a copy$"):
        runner.run(case_of(Leaks(does), task=TASK))
    assert others(runner) == expected


def test_every_leak_is_one() -> None:
    """Without what puts it back or refuses it, another record would be another one, or not be there."""
    for leak in ("a layer's forward", "a function", "torch's own", "a tensor's", "a hook on all"):
        with put_back():
            PUT_BACK[leak](Network(nn.Linear(2, 2)))
            try:
                found = science(Runner().run(case_of("woodfisher-joint", recovery="repair", task=TASK)))
            except Exception:
                continue
            assert found != alone("cpu")[1], leak


def test_a_function_that_was_imported_since_stays() -> None:
    with put_back():
        torch.mine = lambda: 1  # type: ignore[attr-defined]
    assert torch.mine() == 1  # type: ignore[attr-defined]
    del torch.mine  # type: ignore[attr-defined]
