"""What the plan says a method costs, against what torch is counted to do."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.counting import Counted
from benchmarks.plan import regions
from tests.processes import CONTEXT
from wfbench import (
    RECOVERIES,
    Filter,
    Labeled,
    Network,
    Target,
    Unlabeled,
    WfbenchError,
    WoodFisher,
    WoodFisherUnlabeled,
    discover,
)
from wfbench.cli import main
from wfbench.deploy.machine import Machine, read_machine
from wfbench.deploy.plan import Plan, memory_of, plan
from wfbench.execution.allocator import keep_freed_memory
from wfbench.operations.asked import Asked
from wfbench.operations.methods import steps_of
from wfbench.operations.recoveries import recovery_steps
from wfbench.operations.shapes import shapes_of
from wfbench.operations.work import Work, total
from wfbench.recoveries.descent import BriefDistillation, FeatureDistillation, LogitDistillation
from wfbench.tiles import ACCELERATOR, HOST, KINDS, tiles
from wfbench.woodfisher.channel_variants import WoodFisherFilterLogits
from wfbench.woodfisher.restored import WoodFisherStaged

CARD = Machine("a card", 2.0**30, 1e12, 1e13, 1e12, 1e-5)
SPEC = {"memory_bytes": 2**30, "memory_gb_per_s": 1000, "tflops_float32": 10, "tflops_float64": 1, "launch_us": 1000}
SAMPLES, SPARSITY = 40, 0.6


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def conv() -> nn.Module:
    first = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
    grouped = nn.Conv2d(16, 32, 3, stride=2, groups=4), nn.ReLU(), nn.Conv2d(32, 32, 1)
    return nn.Sequential(*first, *grouped, nn.Flatten(), nn.Linear(1568, 10))


def wide() -> nn.Module:
    """Columns of several panels."""
    return nn.Sequential(nn.Linear(240, 32), nn.ReLU(), nn.Linear(32, 10))


def whole() -> nn.Module:
    """Channels that can go."""
    first = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, stride=2), nn.ReLU()
    return nn.Sequential(*first, nn.Conv2d(24, 12, 1), nn.ReLU(), nn.Flatten(), nn.Linear(588, 10))


NETWORKS = {"whole": (whole, (3, 16, 16)), "mlp": (mlp, (64,)), "conv": (conv, (3, 16, 16)), "wide": (wide, (240,))}
ON = {"full": "mlp", "exact": "mlp", "obc": "mlp", "wanda": "wide"}
CHANNELS: tuple[Any, ...] = ("filter-l1", "thinet", "obs-filter", "kfac-filter", "taylor-filter", "woodfisher-filter")
CHANNELS += ("woodfisher-filter-independent", "staged[stages=2]-filter-l1", WoodFisherFilterLogits(rank=30))
COMPOSED = ("obs-distilled", "global-obc", "obc-as-magnitude", "staged-magnitude", "magnitude-as-wanda", "wanda+obc")
METHODS = {
    "full": WoodFisherUnlabeled(block_size=None),
    "full-joint": WoodFisherUnlabeled(block_size=None, update="joint", stages=4),
    "wide-joint": WoodFisherUnlabeled(block_size=500, update="joint", stages=4),
    "narrow-joint": WoodFisherUnlabeled(block_size=30, update="joint", stages=4),
    "layer": WoodFisherUnlabeled(block_size="layer", draws=2),
    "exact": WoodFisherUnlabeled(block_size=2000, fisher="exact"),
    "lobs": "lobs",
    "obc": "obc",
    "sparsegpt": "sparsegpt",
    "wanda": "wanda",
    "kfac": "kfac-sampled",
    "kfac-exact": "kfac-exact",
    "staged": WoodFisherStaged(stages=3, steps=1),
}
RECOVERED = {
    "batchnorm": RECOVERIES["batchnorm"],
    "repair": RECOVERIES["repair"],
    "distill-batchnorm": BriefDistillation(steps=4),
    "distill": FeatureDistillation(steps=4),
    "distill-logits": LogitDistillation(steps=4),
}


def made(name: str) -> tuple[Network, torch.Tensor]:
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    return Network(build().eval()), torch.randn(SAMPLES, *shape)


SIZES = [("cpu", name) for name in METHODS] + [("cuda", name) for name in ("full-joint", "narrow-joint", "lobs")]


@pytest.mark.parametrize(("kind", "method"), SIZES)
def test_steps_are_what_is_counted(kind: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the sizes of what is computed at a time on a card, used here."""
    sizes = tiles(torch.device(kind))
    monkeypatch.setitem(KINDS, "cpu", sizes)
    net, x = made(ON.get(method, "conv"))
    chosen = METHODS[method]
    pruner = discover().pruner(chosen) if isinstance(chosen, str) else chosen
    steps = steps_of(pruner, Asked(net, shapes_of(net, x[:1]), SAMPLES, SPARSITY, sizes=sizes))
    assert steps is not None
    for names, run in regions(net, Unlabeled(x), pruner, SPARSITY):
        said = total([work for name, work in steps.items() if not names or name in names])
        held_against(said, run, names)


@pytest.mark.parametrize("method", CHANNELS)
def test_steps_of_methods_on_channels_are_what_is_counted(method: Any) -> None:
    """Where as large a part goes of every group, which a plan has to take for granted."""
    (net, x), pruner = made("whole"), discover().pruner(method) if isinstance(method, str) else method
    steps = steps_of(pruner, Asked(net, shapes_of(net, x[:1]), SAMPLES, SPARSITY))
    assert steps is not None
    even, data = Target(SPARSITY, Filter.of(x), "layer", "macs"), Labeled(x, torch.arange(SAMPLES) % 10)
    for _, run in regions(net.with_state(net.state()), data, pruner, SPARSITY, even):
        held_against(total([*steps.values()]), run)


@pytest.mark.parametrize("method", ["obs-distilled", "obs-filter-led-by-woodfisher-filter-logits[rank=64]"])
def test_amounts_that_are_led_cost_what_is_tried(method: str) -> None:
    (net, x), pruner = made("whole"), discover().pruner(method)
    steps = steps_of(pruner, Asked(net, shapes_of(net, x[:1]), SAMPLES, SPARSITY, channels=True))
    assert steps is not None
    target = Target(SPARSITY, Filter.of(x), "global", "macs")
    for _, run in regions(net.with_state(net.state()), Unlabeled(x), pruner, SPARSITY, target):
        held_against(total([*steps.values()]), run, within=0.05)


@pytest.mark.parametrize("method", COMPOSED)
def test_a_method_made_of_methods_costs_what_they_do(method: str) -> None:
    (net, x), pruner = made("mlp" if "obc" in method or "wanda" in method else "whole"), discover().pruner(method)
    steps = steps_of(pruner, Asked(net, shapes_of(net, x[:1]), SAMPLES, SPARSITY))
    assert steps is not None
    for _, run in regions(net, Unlabeled(x), pruner, SPARSITY):
        held_against(total([*steps.values()]), run)


@pytest.mark.parametrize("method", ["layer", "full-joint", "wide-joint"])
def test_vectors_of_the_weights_are_counted_where_rows_are_few(method: str) -> None:
    """Beside four rows they are most of what is moved; on many rows nobody would see one left out."""
    net, x = made("mlp")
    steps = steps_of(METHODS[method], Asked(net, shapes_of(net, x[:1]), 4, SPARSITY))
    assert steps is not None
    for names, run in regions(net, Unlabeled(x[:4]), METHODS[method], SPARSITY):
        held_against(total([work for name, work in steps.items() if name in names]), run, names, within=0.05)


def held_against(said: Work, run: Callable[[], Any], names: tuple[str, ...] = (), within: float = 0.2) -> None:
    """FLOPs and bytes within 20 %; a few passes of single samples, in which a network is looked at, are left out."""
    with Counted() as counted:
        run()
    for kind in ("flops32", "flops64", "moved"):
        expected, least = getattr(counted, kind), 1e-3 * (counted.flops32 + counted.flops64)
        assert getattr(said, kind) == pytest.approx(expected, rel=within, abs=least), (names, kind)


@pytest.mark.parametrize("name", RECOVERED)
def test_steps_of_recoveries_are_what_is_counted(name: str) -> None:
    net, x = made("conv")
    pruned = discover().pruner("magnitude").fit(net, None).prune(Target(SPARSITY))
    steps = recovery_steps(RECOVERED[name], Asked(net, shapes_of(net, x[:1]), SAMPLES, SPARSITY))
    assert steps
    held_against(total([*steps.values()]), lambda: RECOVERED[name].apply(net, pruned, Unlabeled(x)))


def test_sums_of_branches_are_read_and_written_too() -> None:
    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.out(torch.relu(x + self.first(x)))
            return found

    shapes = shapes_of(Network(Branched()), torch.ones(1, 6))
    assert shapes.between == 3 * 6 + 2 * 6
    assert shapes.activations == shapes.between + 12 + 8


def test_the_counter_is_torchs_own_where_that_is_right() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    module, x = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 16, 4)), torch.randn(2, 3, 6, 6)
    with FlopCounterMode(display=False) as torchs, Counted() as ours:
        module(x).sum().backward()
    assert ours.flops32 == torchs.get_total_flops() > 0


def test_a_grouped_convolutions_backward_has_twice_its_forward() -> None:
    module, x = nn.Conv2d(8, 8, 3, groups=4), torch.randn(2, 8, 6, 6, requires_grad=True)
    with Counted() as forward:
        out = module(x)
    with Counted() as backward:
        out.sum().backward()
    assert forward.flops32 == 2 * out.numel() * module.weight[0].numel()
    assert backward.flops32 == 2 * forward.flops32


def of(module: nn.Module, method: str, x: torch.Tensor, limit: int | None = None, samples: int = 64) -> Plan:
    return plan("mine", Network(module.eval()), x, discover().pruner(method), samples, 0.9, CARD, limit)


@pytest.mark.parametrize("method", ["woodfisher-unlabeled", "sparsegpt"])
def test_the_memory_of_a_case_holds_what_its_process_takes(method: str) -> None:
    """At its peak, beyond what one has that did the same on a small network and nothing else; without files' pages."""
    with ProcessPoolExecutor(1, CONTEXT) as pool:
        most = pool.submit(peak, method).result()
    shapes = shapes_of(Network(large()), torch.zeros(1, 1500))
    said = memory_of(discover().pruner(method), shapes, 1_209_610, 50, 2.0**30)
    assert said / 8 < most < said


def peak(method: str) -> int:
    """Bytes that a method takes on a large network."""
    pruner = discover().pruner(method)

    def works(net: Network, x: torch.Tensor) -> None:
        pruner.fit(net, Unlabeled(x)).prune(Target(0.5, scope=pruner.scope))

    torch.set_num_threads(1)
    assert keep_freed_memory()  # as every run does
    works(made("mlp")[0], torch.randn(50, 64))
    before, files = kilobytes("VmRSS"), kilobytes("RssFile")
    works(Network(large()), torch.randn(50, 1500))
    return 1024 * (kilobytes("VmHWM") - before - (kilobytes("RssFile") - files))


def large() -> nn.Module:
    return nn.Sequential(nn.Linear(1500, 800), nn.ReLU(), nn.Linear(800, 10)).eval()


def kilobytes(name: str) -> int:
    return int(re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def test_what_is_not_counted_is_said() -> None:
    x = torch.randn(2, 64)
    assert "obd are not counted; those of WoodFisher, K-FAC, layer-wise" in str(of(mlp(), "obd", x))
    assert of(mlp(), "magnitude", x).steps == ()
    assert "reads no samples" in str(of(mlp(), "magnitude", x))


def test_it_says_what_lies_where() -> None:
    x, size = torch.randn(2, 64), 4 * 64 * 17024
    small, large = of(mlp(), "woodfisher", x, 2 * size - 1), of(mlp(), "woodfisher", x, 2 * size)
    assert "rows: 64 of 17,024, 0.00436 GB, in a file" in str(small)
    assert "GB, in memory" in str(large)
    assert f"on the card, which {2**30 / 4 / 17024:,.0f} rows fill" in str(of(mlp(), "woodfisher", x))
    assert small.passes == (2, 2)
    assert small.rows == (64, 17024)


def test_too_many_rows_are_refused_beforehand() -> None:
    with pytest.raises(WfbenchError, match="2010 rows, more than 2000"):
        of(mlp(), "woodfisher-exact", torch.randn(2, 64), samples=201)
    with pytest.raises(WfbenchError, match="batch=2 does not divide the 7 samples"):
        plan("mine", Network(mlp()), torch.randn(2, 64), WoodFisher(batch=2), 7, 0.9, CARD)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def test_a_layer_with_a_module_inside_counts() -> None:
    layer = nn.Linear(8, 3)
    layer.add_module("pad", nn.Identity())
    assert shapes_of(Network(nn.Sequential(layer).eval()), torch.ones(1, 8)).macs == 24


def test_tensors_that_no_method_prunes_are_named_with_the_reason() -> None:
    found = of(nn.Sequential(Gate(), nn.Linear(8, 3)), "woodfisher", torch.ones(2, 8))
    assert found.left_out == (("0.weight", 64, "of Gate, which is no linear or convolution layer's weight"),)
    assert "no method can prune\n  0.weight: 64, of Gate" in str(found)


def test_seconds_are_of_the_machines_rates() -> None:
    work = Work(2e13, 3e12, 4e12, 1e5)
    assert CARD.seconds(work) == pytest.approx(2 + 3 + 4 + 1)
    assert CARD.floor(work) == pytest.approx(5)


def test_a_machine_is_read_from_toml_and_json(tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text("\n".join(f"{name} = {value}" for name, value in SPEC.items()))
    (tmp_path / "card.json").write_text(json.dumps(SPEC | {"name": "card"}))
    found = read_machine(tmp_path / "card.toml")
    assert found == read_machine(tmp_path / "card.json")
    assert found == Machine("card", 2.0**30, 1e12, 1e13, 1e12, 1000 * 1e-6, "cuda")
    (tmp_path / "other.json").write_text(json.dumps(SPEC | {"kind": "cpu"}))
    assert (found.sizes, read_machine(tmp_path / "other.json").sizes) == (ACCELERATOR, HOST)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory", "neither TOML nor JSON"),
        ("speed = 3", r"\['speed'\] is none of memory_bytes, "),
        ("memory_bytes = 1", "memory_gb_per_s is None; give a number above 0"),
        ("memory_bytes = -1", "memory_bytes is -1; give a number above 0"),
        (
            "\n".join([*(f"{name} = 1" for name in SPEC), 'kind = "card"']),
            'kind "card" is no device of torch; give cuda',
        ),
    ],
)
def test_a_file_that_is_no_machine_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text(text)
    with pytest.raises(WfbenchError, match=message):
        read_machine(tmp_path / "card.toml")
    with pytest.raises(WfbenchError, match=r"none\.toml: No such file"):
        read_machine(tmp_path / "none.toml")


def test_the_command_plans_for_this_machine_and_for_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "card.json").write_text(json.dumps(SPEC))
    asked = ["plan", "digits-cnn", "--budget", "64"]
    assert main([*asked, "--memory", "2MiB", "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert here["limit"] == 2**21
    assert [step["name"] for step in here["steps"]][:4] == ["check of the rows", "forward", "files", "backward"]
    assert main([*asked, "--device-spec", str(tmp_path / "card.json"), "--json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert there["machine"]["bandwidth"] == 1e12
    assert there["steps"][-1]["flops64"] == here["steps"][-1]["flops64"] > 0
    started, here_started = ({one["name"]: one["launches"] for one in of["steps"]}["Gram"] for of in (there, here))
    assert started < here_started / 10
    assert "files" not in [step["name"] for step in there["steps"]]
    assert main([*asked, "--device-spec", str(tmp_path / "card.json"), "--memory", "1GiB"]) == 2
    assert "--memory is of this machine" in capsys.readouterr().err
    assert main([*asked, "--method", "magnitude", "--recovery", "repair", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in after["steps"]] == [
        f"repair: {s}" for s in ("forward", "moments", "least squares")
    ]
    assert (after["method"], all(step["seconds"] > 0 for step in after["steps"])) == ("magnitude and repair", True)
    assert main([*asked, "--method", "obs-distilled", "--of", "macs", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["of"] == "MACs"
    assert {"channels", "held-out samples", "steps"} <= {step["name"] for step in whole["steps"]}
    assert main([*asked, "--of", "macs"]) == 2
    assert "of macs: woodfisher reaches unstructured" in capsys.readouterr().err
    assert main([*asked, "--recovery", "magic"]) == 2
    assert "unknown recovery" in capsys.readouterr().err
    assert main([*asked, "--method", "nothing"]) == 2
