"""Numbers as people read them, and decisions that do not hang on the last digit of floating point.

Sums and logarithms may differ in the 15th digit between processors. What is equal or on the edge of a rounding must
not fall to one side here and to the other there, so values that close count as equal.
"""

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

NOISE = 1e-9
"""Accuracies, ranks and shares that are closer than this are the same number."""
DIGITS = 10
"""Significant digits that are taken to mean something before a number is written with fewer."""
WIDE = Context(prec=400)
"""Holds every float64 with its decimals."""
PARTS = re.compile(
    rb"<!--.*?-->"  # holds names of methods
    rb'|\s(?:d|x|y|x1|x2|y1|y2|width|height|viewBox)="[^"]*"'
    rb"|translate\([^)]*\)"
    rb'|(?P<before>\sid="|href="#|url\(#)(?P<name>[a-z][0-9a-f]{10})(?=["\)])',
    re.DOTALL,
)
"""Of an SVG: what is left as it is, where coordinates are, and names that are hashes of what they name."""
COORDINATE = re.compile(rb"-?\d+\.\d+")


def fixed(value: float, decimals: int, rounding: str = ROUND_HALF_EVEN) -> str:
    """The value with so many decimals; a half goes to the even digit, unless `decimal`'s `rounding` says otherwise."""
    if not np.isfinite(value):
        return f"{value:.{decimals}f}"
    exact = Decimal(f"{value:.{DIGITS}g}").quantize(Decimal(1).scaleb(-decimals), rounding, WIDE)
    return f"{exact:f}" if exact else f"{0:.{decimals}f}"  # no negative zero


def significant(value: float, digits: int) -> float:
    """The value cut down to so many significant digits."""
    return float(f"{float(f'{value:.{DIGITS}g}'):.{digits}g}")


def snapped(values: Any) -> Float[ndarray, "*shape"]:
    """The values, those within noise of their next neighbour made equal to the least of them; NaN stays."""
    array = np.asarray(values, dtype=float)
    flat = array.ravel()
    order = np.argsort(flat, kind="stable")  # NaN comes last
    ordered = flat[order]
    first = np.concatenate([[True], ~(np.diff(ordered) <= NOISE)]) if len(flat) else np.zeros(0, dtype=bool)
    found = np.empty_like(flat)
    found[order] = ordered[first][np.cumsum(first) - 1] if len(flat) else ordered
    return found.reshape(array.shape)


def settled_svg(drawing: bytes) -> bytes:
    """An SVG with coordinates to a hundredth of a point, and names by the order in which they first come."""
    names: dict[bytes, bytes] = {}

    def settled(found: re.Match[bytes]) -> bytes:
        if name := found["name"]:
            return found["before"] + names.setdefault(name, name[:1] + b"%d" % len(names))
        return found[0] if found[0].startswith(b"<!--") else COORDINATE.sub(_hundredths, found[0])

    return PARTS.sub(settled, drawing)


def _hundredths(number: re.Match[bytes]) -> bytes:
    """By way of four decimals: many coordinates are multiples of an eighth, halfway between two hundredths."""
    return b"%.10g" % (round(round(float(number[0]), 4), 2) + 0.0)
