"""The plan's steps against what is counted and timed: `python -m benchmarks.plan --samples 32`, EfficientNet-Lite0."""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from tabulate import tabulate
from torch import nn

from benchmarks.counting import Counted
from wfbench import Network, Target, Unlabeled, discover
from wfbench.curvature.memory import bound, bytes_of, limit_to
from wfbench.curvature.rows import gradients
from wfbench.deploy import machine as machines
from wfbench.deploy.machine import measured
from wfbench.deploy.plan import TIMED, plan
from wfbench.tasks.imagenet import NETWORKS
from wfbench.woodfisher.variants import WoodFisherUnlabeled

Region: TypeAlias = tuple[tuple[str, ...], Callable[[], Any]]


def regions(net: Network, data: Unlabeled, method: Any, sparsity: float) -> Iterator[Region]:
    """What a method runs, piece by piece, and the steps of the plan that each piece is; no names are all others."""
    if not isinstance(method, WoodFisherUnlabeled):
        yield (), lambda: method.fit(net, data).prune(Target(sparsity, scope=method.scope))
        return
    made: list[Any] = []
    yield (
        ("check of the rows", "forward", "files", "backward", "rows"),
        lambda: made.append(gradients(net, data, method.fisher, draws=method.draws)),
    )
    yield ("Gram",), lambda: made[0].gram
    yield (
        ("eigenvalues", "factor", "diagonal"),
        lambda: made.append(method._fitted(net, data, made[0])),
    )
    yield ("removal and update", "predicted change"), lambda: made[1].prune(Target(sparsity))


def times_of(found: Iterator[Region]) -> Iterator[tuple[float, float]]:
    """Seconds of each piece, and seconds of the processor."""
    for _, run in found:
        began, spent = time.perf_counter(), time.process_time()
        run()
        yield time.perf_counter() - began, time.process_time() - spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=32, metavar="N")
    parser.add_argument("--sparsity", type=float, default=0.5, metavar="S")
    parser.add_argument("--network", choices=list(NETWORKS), default="efficientnet-lite0")
    parser.add_argument("--random", action="store_true", help="random weights, so that none need be there")
    about = "methods without labels (default: %(default)s)"
    parser.add_argument("--methods", nargs="*", default=["woodfisher-unlabeled"], metavar="M", help=about)
    parser.add_argument("--memory", metavar="BYTES", help="bound (default: half of what is free)")
    about = "time by the processor's clock: on a busy machine, with one thread"
    parser.add_argument("--processor", action="store_true", help=about)
    options = parser.parse_args()
    limit_to(options.memory and bytes_of(options.memory))
    if options.processor:
        machines.clock = time.process_time
    published, registry = NETWORKS[options.network], discover()
    module: nn.Module = published.build().eval() if options.random else published.dense()
    x = torch.randn(options.samples, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    data, lines = Unlabeled(x), []
    for name in options.methods:
        method, machine = registry.pruner(name), measured()
        told = plan(options.network, Network(module), x[:TIMED], method, len(x), options.sparsity, machine, bound())
        steps = {step.name: step for step in told.steps or ()}
        timed = list(times_of(regions(Network(module), data, method, options.sparsity)))  # counting takes time
        both = zip(regions(Network(module), data, method, options.sparsity), timed, strict=True)
        for (names, run), took in both:
            with Counted() as counted:
                run()
            chosen = [step for step in steps.values() if not names or step.name in names]
            each = [
                (sum(getattr(step.work, kind) for step in chosen), getattr(counted, kind))
                for kind in ("flops32", "flops64", "moved")
            ]
            times = sum(step.seconds for step in chosen), *took
            ratios = [f"{said / found:.3f}" if found else "" for said, found in each]
            numbers = [f"{found / 1e9:.3g}" for _, found in each]
            cells = [cell for pair in zip(numbers, ratios, strict=True) for cell in pair]
            lines.append([name, ", ".join(names) or "all", *cells, *(f"{seconds:.3g}" for seconds in times)])
            print(lines[-1], flush=True)
    heads = [
        "method",
        "steps",
        "GFLOP32",
        "plan/it",
        "GFLOP64",
        "plan/it",
        "GB",
        "plan/it",
        "plan s",
        "s",
        "processor s",
    ]
    print(tabulate(lines, headers=heads, disable_numparse=True))


if __name__ == "__main__":
    main()
