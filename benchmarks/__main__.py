"""`python -m benchmarks`: prints every figure with its floor; timings of rivals interleaved, medians of the repeats."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from tabulate import tabulate
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from benchmarks import harness
from benchmarks.layers import actions
from benchmarks.recursion import batched_recursion, recursion
from wfbench.curvature.inverse import WoodburyInverse
from wfbench.curvature.rows import fisher_rows
from wfbench.data import Labeled
from wfbench.errors import WfbenchError
from wfbench.execution.allocator import keep_freed_memory, thresholds
from wfbench.execution.clock import now
from wfbench.execution.precision import precise
from wfbench.harness.plugins import discover
from wfbench.harness.record import environment
from wfbench.network import Network
from wfbench.tasks.models import resnet20

P, BLOCK, SMALL, DAMPING = 270_000, 2000, 50, 1e-5
RECORDS = 100_000
ENGINE = ("2000", "50", "full", "gradients", "layers")


CPU = torch.device("cpu")


def interleaved(repeats: int, device: torch.device = CPU, **actions: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each action, A B A B …, after one warm-up of each."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            began = now(device)
            action()
            if turn:
                times[name].append(now(device) - began)
    return {name: sorted(found)[len(found) // 2] for name, found in times.items()}


def gemm_rate(device: torch.device = CPU) -> float:
    """The device's float64 matrix product, FLOP/s."""
    a = torch.randn(2000, 2000, dtype=torch.float64, device=device)
    return 2 * 2000**3 / interleaved(3, device, gemm=lambda: a @ a)["gemm"]


def table(title: str, rows: list[dict[str, object]]) -> None:
    print(f"\n{title}\n{tabulate(rows, headers='keys', floatfmt='.3g')}", flush=True)


def inverse_at_2000(device: torch.device, ks: tuple[int, ...], repeats: int, rate: float) -> None:
    """Blocks of 2000: the inverse's diagonal, then a solve, against the recursion in float64 and float32."""
    found = []
    for k in ks:
        rows, v = torch.randn(k, P, device=device) / k**0.5, torch.randn(P, dtype=torch.float64, device=device)
        two = [rows[:, start : start + BLOCK].double() for start in (0, BLOCK)]

        def textbook(dtype: torch.dtype, two: list[torch.Tensor] = two) -> None:
            for one in two:
                recursion(one.to(dtype), DAMPING)

        times = interleaved(
            repeats,
            device,
            ours=lambda rows=rows: WoodburyInverse(rows, DAMPING, BLOCK).diagonal(),  # type: ignore[misc]
            textbook64=lambda: textbook(torch.float64),
            textbook32=lambda: textbook(torch.float32),
            solve=lambda rows=rows, v=v: WoodburyInverse(rows, DAMPING, BLOCK).solve(v),  # type: ignore[misc]
        )
        blocks = P / BLOCK
        flops = 3 * k * k * P + k**3 / 3 * blocks
        found.append(
            {
                "k": k,
                "ours s": times["ours"],
                "float64 recursion s": times["textbook64"] * blocks / 2,
                "ratio": times["textbook64"] * blocks / 2 / times["ours"],
                "float32 recursion s": times["textbook32"] * blocks / 2,
                "ratio ": times["textbook32"] * blocks / 2 / times["ours"],
                "our solve s": times["solve"],
                "floor GFLOP": flops / 1e9,
                "floor GB": 4 * k * P / 1e9,
                "floor s at GEMM rate": flops / rate,
            }
        )
    table(
        f"Inverse and its diagonal, blocks of {BLOCK}, p = {P}; recursion timed on 2 blocks, extrapolated to "
        f"{P // BLOCK}; a solve factorises anew, since nothing but the rows is kept",
        found,
    )


def inverse_at_50(device: torch.device, ks: tuple[int, ...], repeats: int, rate: float) -> None:
    """Diagonal, blocks of 50, against the recursion batched over all blocks."""
    found = []
    for k in ks:
        rows = torch.randn(k, P, device=device) / k**0.5
        times = interleaved(
            repeats,
            device,
            ours=lambda rows=rows: WoodburyInverse(rows, DAMPING, SMALL).diagonal(),  # type: ignore[misc]
            batched=lambda rows=rows: batched_recursion(rows.double(), DAMPING, SMALL),  # type: ignore[misc]
        )
        flops = 2 * k * SMALL * P + 2 / 3 * SMALL**2 * P
        found.append(
            {
                "k": k,
                "ours s": times["ours"],
                "batched recursion s": times["batched"],
                "ratio": times["batched"] / times["ours"],
                "floor GFLOP": flops / 1e9,
                "floor GB": 4 * k * P / 1e9,
                "floor s at GEMM rate": flops / rate,
            }
        )
    table(f"Inverse, blocks of {SMALL}, p = {P}: diagonal, against a rank-one recursion batched over the blocks", found)


def full_matrix(device: torch.device, ks: tuple[int, ...], repeats: int, rate: float) -> None:
    """Diagonal, full matrix: how much of the machine's float64 GEMM rate, counting 3k²p."""
    found = []
    for k in ks:
        rows = torch.randn(k, P, device=device) / k**0.5
        a = torch.randn(2000, 2000, dtype=torch.float64, device=device)
        times = interleaved(
            repeats,
            device,
            ours=lambda rows=rows: WoodburyInverse(rows, DAMPING).diagonal(),  # type: ignore[misc]
            gemm=lambda a=a: a @ a,  # type: ignore[misc]
        )
        measured = 2 * 2000**3 / times["gemm"]
        flops = 3 * k * k * P
        found.append(
            {
                "k": k,
                "ours s": times["ours"],
                "GEMM GFLOP/s": measured / 1e9,
                "ours GFLOP/s": flops / times["ours"] / 1e9,
                "fraction": flops / times["ours"] / measured,
                "floor GFLOP": flops / 1e9,
                "floor GB": 2 * 4 * k * P / 1e9,
                "floor s at GEMM rate": flops / measured,
            }
        )
    table(f"Inverse, full matrix, p = {P}: fraction of the measured float64 GEMM rate, counting 3k²p", found)


def per_sample(device: torch.device, n: int, repeats: int) -> None:
    """Per-sample gradients of ResNet-20 against a backward loop, one batched pass, and vmap."""
    torch.manual_seed(0)
    module = resnet20().to(device).eval()
    net, x, y = Network(module), torch.randn(n, 1, 28, 28), torch.randint(0, 10, (n,))
    x, y = x.to(device), y.to(device)
    parameters = {name: tensor.detach() for name, tensor in module.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], one: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional_call(module, weights, (one[None],)), label[None])

    def ours() -> None:
        net.memo.clear()
        fisher_rows(net, Labeled(x, y))

    def plain() -> None:
        module.zero_grad()
        functional.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]

    def loop() -> None:
        for i in range(n):
            module.zero_grad()
            functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1]).backward()  # type: ignore[no-untyped-call]

    times = interleaved(
        repeats,
        device,
        ours=ours,
        plain=plain,
        loop=loop,
        vmap=lambda: vmap(grad(loss), (None, 0, 0))(parameters, x, y),
    )
    macs = 30.8e6
    found = [
        {
            "n": n,
            "ours s": times["ours"],
            "loop / ours": times["loop"] / times["ours"],
            "ours / batched pass": times["ours"] / times["plain"],
            "vmap / batched pass": times["vmap"] / times["plain"],
            "floor GFLOP": 6 * macs * n / 1e9,
            "floor GB": 4 * n * 270_608 / 1e9,
        }
    ]
    table("Per-sample gradients, ResNet-20 on 28×28", found)


def layer_wise(name: str, net: Network, x: torch.Tensor, repeats: int) -> None:
    """One pass a network against passes for every layer, products now and then against one a removal; 90 % go.

    What was before runs with the C library's memory as it was then, too.
    """
    found = []
    for what, (before, after) in actions(net, x, 0.9).items():
        results: dict[str, dict[str, torch.Tensor]] = {}

        def old(action: Callable[[], dict[str, torch.Tensor]] = before, results: dict[str, Any] = results) -> None:
            thresholds(2**25, 2**26)  # as glibc comes to do by itself
            results["before"] = action()

        def new(action: Callable[[], dict[str, torch.Tensor]] = after, results: dict[str, Any] = results) -> None:
            keep_freed_memory()
            results["after"] = action()

        times = interleaved(repeats, net.device, before=old, after=new)
        same = all(torch.equal(tensor, results["before"][name]) for name, tensor in results["after"].items())
        found.append(
            {
                "what": what,
                "before s": times["before"],
                "now s": times["after"],
                "before / now": times["before"] / times["after"],
                "same bits": same,
            }
        )
    table(f"Layer-wise, {name}, n = {len(x)}", found)


def layers(device: torch.device, repeats: int) -> None:
    """On ResNet-20 and, where its package is here, EfficientNet-Lite0: random inputs, 50 and 16 samples."""
    torch.manual_seed(0)
    small = Network(discover().task("fashion-resnet20").dense().to(device))
    layer_wise("ResNet-20 on 28×28", small, torch.randn(50, 1, 28, 28).to(device), repeats)
    try:
        large = discover().task("imagenet-efficientnet-lite0").dense()
    except WfbenchError as error:
        print(f"\nLayer-wise, EfficientNet-Lite0: {error}")
        return
    layer_wise("EfficientNet-Lite0", Network(large.to(device)), torch.randn(16, 3, 224, 224).to(device), 1)


def engine(device: torch.device, only: str | None = None, repeats: int = 3) -> None:
    """Prints the tables, or one of them."""
    with precise(device):
        rate, where = gemm_rate(device), environment(device)
        threads = f"{where['threads']} threads, torch {where['torch']}"
        print(f"{where['machine']}, {threads}, float64 GEMM {rate / 1e9:.0f} GFLOP/s")
        print("Floors: FLOPs of the algorithm in float64, bytes of the float32 rows read once a pass.")
        if only in (None, "gradients"):
            per_sample(device, 256, repeats)
        if only in (None, "layers"):
            layers(device, repeats)
        if only in (None, "50"):
            inverse_at_50(device, (64, 256), repeats, rate)
        if only in (None, "2000"):
            inverse_at_2000(device, (64, 256, 1000), repeats, rate)
        if only in (None, "full"):
            full_matrix(device, (64, 256, 1000), repeats, rate)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="timed repeats of each action (default 3)")
    parser.add_argument("--only", choices=[*ENGINE, "harness"], help="one part alone")
    parser.add_argument("--device", type=torch.device, default=CPU, help="cpu, cuda, cuda:1, … (default: cpu)")
    options = parser.parse_args()
    if options.only != "harness":
        engine(options.device, options.only, options.repeats)
    if options.only in (None, "harness"):
        print(f"\nThe harness, on {cpu_name()}")
        for title, rows in harness.measured(options.repeats, RECORDS):
            table(title, rows)


if __name__ == "__main__":
    main()
