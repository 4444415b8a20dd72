"""`python -m benchmarks.precision`: what TF32 and a float32 Gram would change, emulated on the processor.

TF32 as in `benchmarks.tf32`: by CUDA's defaults (convolutions alone), and everywhere. All against the same in float32,
Grams against float64.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, backends

from benchmarks.tf32 import AsOnCuda, rounded
from wfbench import Network, Target
from wfbench.channels.coupled import shrunk
from wfbench.channels.limits import AGREEMENT, differ
from wfbench.curvature.gram import gram
from wfbench.curvature.inverse import WoodburyInverse
from wfbench.curvature.rows import gradients
from wfbench.data import Labeled, Unlabeled
from wfbench.draws import draw
from wfbench.harness.case import pattern_of
from wfbench.harness.plugins import Registry, discover
from wfbench.network import flatten
from wfbench.recoveries.names import RECOVERIES
from wfbench.sparsity import keep_largest
from wfbench.tasks.task import Task
from wfbench.tiles import HOST

DAMPINGS = (1e-5, 1e-7)
SPARSITY = 0.9
CHANNELS = (0.3, 0.5, 0.7)
FILTERS = ("filter-l2", "fpgm", "random-filter")


def off(found: Tensor, wanted: Tensor) -> float:
    """The difference as a share of what is wanted, in the 2-norm."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def as_on_cuda(products: str, action: Callable[[], Any]) -> Any:
    """What the action gives where CUDA would round: convolutions always, matrix products too where they are tf32."""
    told = [(backends.cuda.matmul, products), (backends.cudnn, "tf32")]
    try:
        for where, precision in told:
            where.fp32_precision = precision  # type: ignore[attr-defined]
        with AsOnCuda():
            return action()
    finally:
        for where, _ in told:
            where.fp32_precision = "none"  # type: ignore[attr-defined]


def kept_by_magnitude(net: Network) -> dict[str, Tensor]:
    return keep_largest({name: weight.abs() for name, weight in net.weights.items()}, Target(SPARSITY))


def joint_update(rows: Tensor, net: Network, damping: float, known: Tensor | None = None) -> Tensor:
    """What the kept weights move by when all others go, the smallest 90 %."""
    kept = flatten(kept_by_magnitude(net))
    return WoodburyInverse(rows, damping, kept=kept, gram=known).compensate(flatten(net.weights))


def tf32(task: Task, registry: Registry, n: int) -> list[list[object]]:
    """Rows, joint updates, a repair, and scores: how far TF32 moves each."""
    data = draw(task.train_set, n, 0)
    assert isinstance(data, Labeled)
    net = Network(task.dense())
    dense = gradients(net, data)
    mask = kept_by_magnitude(net)
    pruned = registry.pruner("magnitude").fit(net, None).prune(Target(SPARSITY))
    x = task.test_set.take(range(min(500, len(task.test_set)))).inputs

    def measured() -> dict[str, Tensor]:
        fresh = Network(task.dense())
        rows = gradients(fresh, data).rows
        repaired = RECOVERIES["repair"].apply(fresh, pruned, Unlabeled(data.inputs)).state
        moved = torch.cat([(repaired[name] - net.weights[name])[mask[name]] for name in net.weights])
        with torch.no_grad():
            return {"rows": rows, "repair": moved, "logits": fresh.logits({}, x)}

    def update(rows: Tensor, damping: float) -> Tensor:
        return joint_update(rows / dense.count**0.5, net, damping)

    whole = measured()
    found: list[list[object]] = []
    for name, products in (("convolutions", "ieee"), ("convolutions, products", "tf32")):
        coarse = as_on_cuda(products, measured)
        errors = [off(a, b) for a, b in zip(coarse["rows"], whole["rows"], strict=True)]
        updates = [off(update(coarse["rows"], by), update(whole["rows"], by)) for by in DAMPINGS]
        flipped = int((coarse["logits"].argmax(1) != whole["logits"].argmax(1)).sum())
        median = float(torch.tensor(errors).median())
        repair = off(coarse["repair"], whole["repair"])
        found.append([task.name, name, median, max(errors), *updates, repair, f"{flipped} of {len(x)}"])
    return found


def shrinking(task: Task, registry: Registry, n: int) -> list[list[object]]:
    """Masked against shrunk networks, as a share of the largest logit; the rule allows `AGREEMENT`."""
    data = draw(task.train_set, n, 0)
    found: list[list[object]] = []
    for name, products in (("nowhere", None), ("convolutions", "ieee"), ("convolutions, products", "tf32")):
        worst = []
        for method in FILTERS:
            net = Network(task.dense())
            pruner = registry.pruner(method)
            given: Any = Unlabeled(data.inputs) if pruner.licence is Unlabeled else None
            fitted = pruner.fit(net, given)
            for sparsity in CHANNELS:
                pruned = fitted.prune(Target(sparsity, pattern_of("filter", task, "macs"), of="macs"))
                gone = {layer: list(removed) for layer, removed in pruned.removed_channels.items()}
                small = shrunk(net, pruned.state, data.inputs[:1], gone)

                def both(small: Any = small, net: Network = net, state: Any = pruned.state) -> tuple[Tensor, Tensor]:
                    with torch.no_grad():
                        return net.logits(state, data.inputs[:1]), small(data.inputs[:1])

                worst.append(differ(*(both() if products is None else as_on_cuda(products, both))))
        broken = sum(not one <= AGREEMENT for one in worst)
        found.append([task.name, name, max(worst), f"{broken} of {len(worst)}"])
    return found


def summed(rows: Tensor, product: Callable[[Tensor], Tensor], width: int | None = HOST.columns) -> Tensor:
    """A Gram whose products are float32, summed in float64 between chunks of so many columns."""
    out = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for part in rows.split(width or rows.shape[1], 1):
        out += product(part).double()
    return out


def three(part: Tensor, high: Callable[[Tensor], Tensor]) -> Tensor:
    """`(a + b)(a + b)ᵀ` without `bbᵀ`: a the leading bits, b the rest."""
    a = high(part)
    b = high(part - a)
    mixed = a @ b.T
    return a @ a.T + (mixed + mixed.T)


def half(x: Tensor) -> Tensor:
    """The leading 12 bits: products of two such numbers are exact in float32."""
    return (x.contiguous().view(torch.int32) & ~0xFFF).view(torch.float32)


GRAMS: dict[str, Callable[[Tensor], Tensor]] = {
    "float32, one sum": lambda rows: summed(rows, lambda part: part @ part.T, None),
    "float32": lambda rows: summed(rows, lambda part: part @ part.T),
    "float32, 3 products of 12 bits": lambda rows: summed(rows, lambda part: three(part, half)),
    "TF32": lambda rows: summed(rows, lambda part: rounded(part) @ rounded(part).T),
    "TF32, 3 products": lambda rows: summed(rows, lambda part: three(part, rounded)),
}


def grams(task: Task, n: int) -> list[list[object]]:
    """What is left of a float64 Gram's accuracy: of itself, of joint updates, and of solves in the rows' space."""
    net, data = Network(task.dense()), draw(task.train_set, n, 0)
    found = gradients(net, data)
    rows = (found.rows / found.count**0.5).float()
    kept = flatten(kept_by_magnitude(net))
    whole, left = gram(rows), rows[:, kept].contiguous()
    v = torch.randn(len(rows), generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ rows.double()
    exact = {by: (joint_update(rows, net, by), WoodburyInverse(rows, by).solve(v)) for by in DAMPINGS}
    table: list[list[object]] = []
    for name, make in GRAMS.items():
        line: list[object] = [task.name, name, off(make(rows), whole)]
        for by, (update, solved) in exact.items():
            line += [off(joint_update(rows, net, by, make(left)), update)]
            line += [off(WoodburyInverse(rows, by, gram=make(rows)).solve(v), solved)]
        table.append(line)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--tasks", default="digits-cnn,fashion-resnet20", help="names (default: those of the docs)")
    parser.add_argument("--samples", type=int, default=32, help="calibration samples (default 32)")
    asked = parser.parse_args()
    registry = discover()
    tasks = [registry.task(name) for name in asked.tasks.split(",")]
    updates = [f"update, λ {by:g}" for by in DAMPINGS]
    solves = [f"solve, λ {by:g}" for by in DAMPINGS]
    pairs = [name for pair in zip(updates, solves, strict=True) for name in pair]
    for title, headers, lines in (
        (
            f"TF32 against float32, {asked.samples} samples, {100 * SPARSITY:g} % of the weights gone",
            ["task", "TF32 in", "rows, median", "rows, worst", *updates, "repair", "answers changed"],
            (tf32(task, registry, asked.samples) for task in tasks),
        ),
        (
            f"Masked against shrunk networks, MACs to {', '.join(f'{100 * (1 - one):g} %' for one in CHANNELS)}, "
            f"{', '.join(FILTERS)}; allowed {AGREEMENT:g}",
            ["task", "TF32 in", "worst", "beyond"],
            (shrinking(task, registry, asked.samples) for task in tasks),
        ),
        (
            f"Grams against float64, {asked.samples} rows, chunks of {HOST.columns} columns summed in float64",
            ["task", "products in", "Gram", *pairs],
            (grams(task, asked.samples) for task in tasks),
        ),
    ):
        found = [line for of_task in lines for line in of_task]
        print(f"\n{title}\n{tabulate(found, headers, floatfmt='.1e')}", flush=True)


if __name__ == "__main__":
    main()
