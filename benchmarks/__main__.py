"""`python -m benchmarks`: prints every figure with its floor; timings of rivals interleaved, medians of the repeats."""

import argparse
from math import prod

import torch
from tabulate import tabulate
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from benchmarks import evaluation, exponents, harness
from benchmarks.interleaving import CPU, interleaved
from benchmarks.recursion import batched_recursion, matrix_free_diagonal, recursion
from wfbench.channels.footprint import footprint
from wfbench.curvature.inverse import WoodburyInverse
from wfbench.curvature.per_sample import check_layers
from wfbench.curvature.rows import gradients
from wfbench.data import Labeled
from wfbench.errors import WfbenchError
from wfbench.execution.allocator import keep_freed_memory
from wfbench.execution.precision import precise
from wfbench.harness.plugins import discover
from wfbench.harness.record import cpu_name, environment
from wfbench.network import Network
from wfbench.tasks.models import resnet20

P, BLOCK, SMALL, DAMPING = 270_000, 2000, 50, 1e-5
MATRIX_FREE = 256
"""Rows up to which M-FAC's recursion is timed: it reads all rows before for each one."""
RECORDS = 100_000
ENGINE = ("2000", "50", "full", "exponents", "gradients", "evaluation")


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
    """Diagonal, full matrix: share of the float64 GEMM rate, counting 3k²p; and M-FAC's recursion."""
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
        row: dict[str, object] = {
            "k": k,
            "ours s": times["ours"],
            "GEMM GFLOP/s": measured / 1e9,
            "ours GFLOP/s": flops / times["ours"] / 1e9,
            "fraction": flops / times["ours"] / measured,
            "floor GFLOP": flops / 1e9,
            "floor GB": 2 * 4 * k * P / 1e9,
            "floor s at GEMM rate": flops / measured,
        }
        if k <= MATRIX_FREE:
            wide = rows.double()
            free = interleaved(1, device, free=lambda wide=wide: matrix_free_diagonal(wide, DAMPING))["free"]  # type: ignore[misc]
            row |= {"M-FAC float64 s": free, "ratio": free / times["ours"]}
        found.append(row)
    table(f"Inverse, full matrix, p = {P}: fraction of the measured float64 GEMM rate, counting 3k²p", found)


def per_sample(device: torch.device, name: str, module: nn.Module, x: torch.Tensor, repeats: int) -> dict[str, object]:
    """Rows as methods take them against a backward loop, one batched pass, and vmap; the network's check apart."""
    module, n = module.to(device).eval(), len(x)
    net, x = Network(module), x.to(device)
    y = torch.randint(0, prod(net.shape(x)), (n,), device=device)
    parameters = {name: tensor.detach() for name, tensor in module.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], one: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional_call(module, weights, (one[None],)), label[None])

    def ours(*known: object) -> None:
        fresh = Network(module)
        fresh.memo.like(net.memo, *known)
        gradients(fresh, Labeled(x, y))

    def plain() -> None:
        module.zero_grad()
        functional.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]

    def loop() -> None:
        for i in range(n):
            module.zero_grad()
            functional.cross_entropy(module(x[i : i + 1]), y[i : i + 1]).backward()  # type: ignore[no-untyped-call]

    check_layers(net, x, net.weights)
    times = interleaved(
        repeats,
        device,
        ours=lambda: ours(("apart", *net.weights)),
        checked=ours,
        plain=plain,
        loop=loop,
        vmap=lambda: vmap(grad(loss), (None, 0, 0))(parameters, x, y),
    )
    macs = footprint(module, x[:1])["macs"]
    return {
        "network": name,
        "n": n,
        "ours s": times["ours"],
        "with the network's check s": times["checked"],
        "loop / ours": times["loop"] / times["ours"],
        "ours / batched pass": times["ours"] / times["plain"],
        "vmap / batched pass": times["vmap"] / times["plain"],
        "floor GFLOP": 6 * macs * n / 1e9,
        "floor GB": 4 * n * sum(weight.numel() for weight in net.weights.values()) / 1e9,
    }


def gradients_of(device: torch.device, repeats: int) -> None:
    """On ResNet-20 and, where its package is here, EfficientNet-Lite0; random inputs."""
    torch.manual_seed(0)
    found = [per_sample(device, "ResNet-20 on 28×28", resnet20(), torch.randn(256, 1, 28, 28), repeats)]
    try:
        large = discover().task("imagenet-efficientnet-lite0").dense()
    except WfbenchError as error:
        print(f"\nEfficientNet-Lite0: {error}")
    else:
        found.append(per_sample(device, "EfficientNet-Lite0", large, torch.randn(32, 3, 224, 224), repeats))
    table("Per-sample gradients of the prunable weights", found)


def engine(device: torch.device, only: str | None = None, repeats: int = 3) -> None:
    """Prints the tables, or one of them."""
    keep_freed_memory()  # as every run does
    with precise(device):
        rate, where = gemm_rate(device), environment(device)
        threads = f"{where['threads']} threads, torch {where['torch']}"
        print(f"{where['machine']}, {threads}, float64 GEMM {rate / 1e9:.0f} GFLOP/s")
        print("Floors: FLOPs of the algorithm in float64, bytes of the float32 rows read once a pass.")
        if only in (None, "gradients"):
            gradients_of(device, repeats)
        if only in (None, "50"):
            inverse_at_50(device, (64, 256), repeats, rate)
        if only in (None, "2000"):
            inverse_at_2000(device, (64, 256, 1000), repeats, rate)
        if only in (None, "full"):
            full_matrix(device, (64, 256, 1000), repeats, rate)
        if only in (None, "exponents"):
            table("Exponents of the time of the inverse of the full matrix", exponents.rows(device, repeats))
        if only in (None, "evaluation"):
            table("Scores on a test split, beside a bare loop over its batches", evaluation.rows(device, repeats))


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
