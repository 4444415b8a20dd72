"""The plan's steps against what is counted and timed: `python -m benchmarks.plan --samples 32`, EfficientNet-Lite0.

`--task cifar10-jpeg-resnet20 --methods obc thinet --recoveries repair` is on the samples of a task of `wfbench list`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from math import inf
from typing import Any, TypeAlias, get_args

import torch
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.counting import Counted
from benchmarks.harness import Row
from wfbench import RECOVERIES, Filter, Labeled, Network, Target, Unlabeled, discover
from wfbench.curvature.memory import bound, bytes_of, limit_to
from wfbench.curvature.rows import gradients
from wfbench.deploy import machine as machines
from wfbench.deploy.machine import measured
from wfbench.deploy.plan import TIMED, Of, Step, plan
from wfbench.licence import handed
from wfbench.operations.methods import channels
from wfbench.tasks.imagenet import NETWORKS
from wfbench.woodfisher.variants import WoodFisherUnlabeled

Region: TypeAlias = tuple[tuple[str, ...], Callable[[], Any]]
KINDS = ("flops32", "flops64", "moved", "launches")


def target_of(method: Any, sparsity: float, x: Tensor, of: Of | None = None) -> Target:
    """Of single weights, or of whole channels by what they multiply."""
    if channels(method) or of == "macs":
        return Target(sparsity, Filter.of(x), of="macs")
    return Target(sparsity, scope=method.scope)


def regions(
    net: Network, data: Labeled | Unlabeled, method: Any, sparsity: float, target: Target | None = None
) -> Iterator[Region]:
    """What a method runs, piece by piece, and the steps of the plan that each piece is; no names are all others."""
    seen, target = handed(method.licence, data), target or target_of(method, sparsity, data.inputs)
    if not isinstance(method, WoodFisherUnlabeled):
        yield (), lambda: method.fit(net, seen).prune(target)
        return
    made: list[Any] = []
    yield (
        ("check of the rows", "forward", "files", "backward", "rows"),
        lambda: made.append(gradients(net, seen, method.fisher, draws=method.draws)),
    )
    yield ("Gram",), lambda: made[0].gram
    yield (
        ("eigenvalues", "factor", "diagonal"),
        lambda: made.append(method._fitted(net, seen, made[0])),
    )
    yield ("removal and update", "predicted change"), lambda: made[1].prune(target)


def lines(what: str, steps: tuple[Step, ...], found: Callable[[], Iterator[Region]]) -> Iterator[Row]:
    """A line of the table a region, which runs twice: timed, and then counted, which takes time itself."""
    timed = list[tuple[float, float]]()
    for _, run in found():
        began, spent = time.perf_counter(), time.process_time()
        run()
        timed.append((time.perf_counter() - began, time.process_time() - spent))
    for (names, run), took in zip(found(), timed, strict=True):
        with Counted() as counted:
            run()
        chosen = [step for step in steps if not names or step.name in names]
        row: Row = {"what": what, "steps": ", ".join(names) or "all"}
        for kind in KINDS:
            said, of = sum(getattr(step.work, kind) for step in chosen), getattr(counted, kind)
            row |= {kind: of, f"plan / {kind}": said / of if of else inf if said else 1.0}
        seconds = sum(step.seconds for step in chosen)
        yield row | {"plan s": seconds, "s": took[0], "processor s": took[1], "plan / processor": seconds / took[1]}


def problem(options: argparse.Namespace) -> tuple[nn.Module, Labeled]:
    """A task's network and its first samples, or an ImageNet network and random numbers."""
    if options.task:
        task = discover().task(options.task)
        found = task.train_set.take(range(options.samples))
        assert isinstance(found, Labeled)
        return task.dense(), found
    published = NETWORKS[options.network]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.samples, 3, 224, 224, generator=generator)
    labels = torch.randint(1000, (options.samples,), generator=generator)
    return published.build().eval() if options.random else published.dense(), Labeled(x, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=32, metavar="N")
    parser.add_argument("--sparsity", type=float, default=0.5, metavar="S")
    parser.add_argument("--task", metavar="TASK", help="in place of a network and random numbers")
    parser.add_argument("--network", choices=list(NETWORKS), default="efficientnet-lite0")
    parser.add_argument("--random", action="store_true", help="random weights, so that none need be there")
    parser.add_argument("--methods", nargs="*", default=["woodfisher-unlabeled"], metavar="M")
    parser.add_argument("--recoveries", nargs="*", default=[], metavar="R", help="each after magnitude")
    about = "what the sparsity counts; macs asks for whole channels of a method that takes either"
    parser.add_argument("--of", choices=get_args(Of), help=about)
    parser.add_argument("--memory", metavar="BYTES", help="bound (default: half of what is free)")
    about = "time by the processor's clock: on a busy machine, with one thread"
    parser.add_argument("--processor", action="store_true", help=about)
    options = parser.parse_args()
    limit_to(options.memory and bytes_of(options.memory))
    if options.processor:
        machines.clock = time.process_time
    registry, (module, data) = discover(), problem(options)
    magnitude, rows = registry.pruner("magnitude"), list[Row]()
    before = magnitude.fit(Network(module), None).prune(Target(options.sparsity))
    unlabeled = Unlabeled(data.inputs)
    wanted: list[tuple[str, Any, Any]] = [(name, registry.pruner(name), None) for name in options.methods]
    wanted += [(name, magnitude, RECOVERIES[name]) for name in options.recoveries]
    for name, method, recovery in wanted:
        asked = plan(
            name,
            Network(module),
            data.inputs[:TIMED],
            method,
            len(data),
            options.sparsity,
            measured(),
            bound(),
            recovery,
            options.of,
        )

        def found(method: Any = method, recovery: Any = recovery) -> Iterator[Region]:
            if recovery is None:
                target = target_of(method, options.sparsity, data.inputs, options.of)
                return regions(Network(module), data, method, options.sparsity, target)
            return iter([((), lambda: recovery.apply(Network(module), before, unlabeled))])

        for row in lines(name, asked.steps or (), found):
            rows.append(row)
            print({key: value if isinstance(value, str) else f"{value:.3g}" for key, value in row.items()}, flush=True)
    print(tabulate(rows, headers="keys", floatfmt=".3g"))


if __name__ == "__main__":
    main()
