"""How the time of the inverse of the full matrix grows with the numbers of weights and of rows."""

from collections.abc import Iterable, Sequence
from math import log

import torch

from benchmarks.interleaving import interleaved
from wfbench.curvature.inverse import WoodburyInverse

COLUMNS, ROWS = (27_000, 90_000, 270_000, 900_000), (64, 128, 256, 512, 1024)
"""Weights at `FEW` rows, and rows at `NARROW` weights."""
FEW, NARROW, DAMPING = 64, 45_000, 1e-5


def exponent(sizes: Iterable[float], seconds: Iterable[float]) -> float:
    """The a of the least-squares line `log seconds = a log size + b`."""
    x, y = [log(size) for size in sizes], [log(time) for time in seconds]
    middle = sum(x) / len(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def growth(shapes: Sequence[tuple[int, int]], device: torch.device, repeats: int) -> list[float]:
    """Median seconds of the inverse's diagonal from rows of these shapes `(k, p)`, taken in turn."""
    made = {f"{k} × {p}": torch.randn(k, p, device=device) / k**0.5 for k, p in shapes}
    actions = {name: lambda rows=rows: WoodburyInverse(rows, DAMPING).diagonal() for name, rows in made.items()}
    return [*interleaved(repeats, device, **actions).values()]


def rows(device: torch.device, repeats: int) -> list[dict[str, object]]:
    """One against p, one against k, where the algorithm's FLOPs `3k²p` grow by exponents of 1 and 2."""
    found = []
    for against, sizes, shapes in (
        (f"p, at k = {FEW}", COLUMNS, [(FEW, p) for p in COLUMNS]),
        (f"k, at p = {NARROW}", ROWS, [(k, NARROW) for k in ROWS]),
    ):
        seconds = growth(shapes, device, repeats)
        found.append(
            {
                "against": against,
                "from": sizes[0],
                "to": sizes[-1],
                "exponent": exponent(sizes, seconds),
                "seconds": ", ".join(f"{one:.3g}" for one in seconds),
            }
        )
    return found
