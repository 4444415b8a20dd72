"""WoodburyInverse against a dense inverse, with 40 digits where float64 would not do, and against the recursion."""

import resource
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.recursion import matrix_free_diagonal
from tests.cases import DAMPINGS, DEVICES
from tests.oracles import blocks_of, curvature, exact_inverse, exact_product, recursion_inverse
from tests.processes import CONTEXT
from wfbench import WfbenchError, WoodburyInverse
from wfbench.curvature.gram import gram
from wfbench.linalg import ForwardSubstitution
from wfbench.tiles import HOST


def rows_of(kind: str, k: int, p: int, scale: float = 1.0) -> Tensor:
    """Rows with the Fisher's own 1/√k."""
    rows = torch.randn(k, p, dtype=torch.float64, generator=torch.Generator().manual_seed(k * p))
    if kind == "duplicates":
        rows[:] = rows[:1].clone()
    elif kind == "zero rows":
        rows[k // 2 :] = 0
    elif kind == "one entry":
        rows[-1] = 0
        rows[-1, p // 2] = 1
    elif kind == "dead columns":
        rows[:, ::2] = 0
    return rows * scale / k**0.5


KINDS = ["random", "duplicates", "zero rows", "one entry", "dead columns"]


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("k", [1, 63, 64, 65, 200])
def test_forward_substitution_solves_the_system_to_rounding(k: int, batch: tuple[int, ...]) -> None:
    """Of a factor whose condition is 1e6: what is left is the rounding of sums, as a triangular solve leaves."""
    drawn = torch.Generator().manual_seed(k)
    rows = torch.randn(*batch, k, 3, dtype=torch.float64, generator=drawn)
    lower = torch.linalg.cholesky(rows @ rows.mT + 1e-10 * torch.eye(k, dtype=torch.float64))
    right = torch.randn(*batch, k, 70, dtype=torch.float64, generator=drawn)
    found, expected = ForwardSubstitution(lower)(right), torch.linalg.solve_triangular(lower, right, upper=False)
    terms = lower.abs() @ expected.abs() + right.abs()
    assert ((lower @ found - right).abs() <= 1e-14 * k * terms.amax(-2, keepdim=True)).all()
    assert (found - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("block", [None, 1, 50, 128])
@pytest.mark.parametrize("p", [5, 300])
@pytest.mark.parametrize("k", [1, 7, 64])
def test_diagonal_and_solve_equal_the_dense_inverse(
    k: int, p: int, block: int | None, damping: float, device: str
) -> None:
    """Tolerance 1e-5 as promised; the oracle is a float64 inverse, refined until its own residual is rounding."""
    for kind in KINDS:
        rows = rows_of(kind, k, p)
        matrix = curvature(rows, damping, block)
        dense = torch.linalg.inv(matrix)
        inverse = WoodburyInverse(rows.to(device), damping, block)
        error = (inverse.diagonal().cpu() - dense.diagonal()).abs() / dense.diagonal()
        assert error.max() < 1e-5, kind
        v = torch.randn(p, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        expected = torch.linalg.solve(matrix, v)
        error = (inverse.solve(v.to(device)).cpu() - expected).norm() / expected.norm()
        assert error < 1e-5, kind


@pytest.mark.parametrize("block", [None, 3, 5])
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4, 12])
def test_a_row_of_the_rows_is_solved_without_cancellation(k: int, kind: str, damping: float, block: int | None) -> None:
    """For v in the row space the answer is λ times smaller than v/λ; 40 digits, because float64 loses it."""
    rows = rows_of(kind, k, 8)
    dense = exact_inverse(curvature(rows, damping, block))
    for v in (rows[-1], rows[0] * 1e3):
        with_digits = exact_product(curvature(rows, 0, block), v, damping)
        found = WoodburyInverse(rows, damping, block).solve(v)
        assert (found - with_digits).norm() <= 1e-5 * with_digits.norm()
    torch.testing.assert_close(WoodburyInverse(rows, damping, block).diagonal(), dense.diagonal(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("block", [None, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_many_is_solved_without_cancellation(kind: str, block: int | None) -> None:
    """k = 64, p = 300, λ = 1e-7. Oracle: `A⁻¹Rᵀu = RᵀS⁻¹u` block by block with 40 digits."""
    rows = rows_of(kind, 64, 300)
    expected = []
    for where in blocks_of(300, block):
        part = rows[:, where]
        unit = torch.zeros(64, dtype=torch.float64)
        unit[-1] = 1
        expected.append(exact_product(part @ part.T, unit, 1e-7) @ part)
    found = WoodburyInverse(rows, 1e-7, block).solve(rows[-1])
    assert (found - torch.cat(expected)).norm() <= 1e-5 * torch.cat(expected).norm()


@pytest.mark.parametrize("block", [None, 1, 50, 128])
@pytest.mark.parametrize("k", [1, 7, 64])
def test_the_rank_one_recursion_is_the_same_inverse(k: int, block: int | None) -> None:
    rows = rows_of("random", k, 300)
    expected = recursion_inverse(rows, 1e-3, block)
    inverse = WoodburyInverse(rows, 1e-3, block)
    torch.testing.assert_close(inverse.diagonal(), expected.diagonal(), rtol=1e-8, atol=0)
    v = torch.ones(300, dtype=torch.float64)
    torch.testing.assert_close(inverse.solve(v), expected @ v, rtol=1e-8, atol=1e-8)
    if block is None:
        torch.testing.assert_close(matrix_free_diagonal(rows, 1e-3), expected.diagonal(), rtol=1e-8, atol=0)


@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    k=st.integers(1, 12),
    exponent=st.floats(-6, 1),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_any_blocks_equal_the_dense_block_diagonal(widths: list[int], k: int, exponent: float, seed: int) -> None:
    p, damping = sum(widths), 10**exponent
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(k, p, dtype=torch.float64, generator=generator)
    kept = torch.rand(p, generator=generator) < 0.6
    matrix = curvature(rows, damping, widths)
    inverse = WoodburyInverse(rows, damping, widths)
    torch.testing.assert_close(inverse.diagonal(), torch.linalg.inv(matrix).diagonal(), rtol=1e-5, atol=0)
    # the inverse of what is left
    restricted = torch.linalg.inv(matrix[kept][:, kept])
    left = WoodburyInverse(rows, damping, widths, kept=kept)
    torch.testing.assert_close(left.diagonal()[kept], restricted.diagonal(), rtol=1e-5, atol=0)
    w = torch.randn(p, dtype=torch.float64, generator=generator)
    compensation = restricted @ matrix[kept][:, ~kept] @ w[~kept]
    torch.testing.assert_close(left.compensate(w)[kept], compensation, rtol=1e-6, atol=1e-7)
    assert not left.compensate(w)[~kept].any()


def test_a_width_of_p_or_more_is_the_full_matrix() -> None:
    rows = rows_of("random", 7, 30)
    full = WoodburyInverse(rows, 1e-3).diagonal()
    for block in (30, 31, 1000):
        torch.testing.assert_close(WoodburyInverse(rows, 1e-3, block).diagonal(), full, rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", [1, 10, 16, 17, 64, 100, HOST.height, HOST.height + 5, 3 * HOST.height])
def test_a_smaller_gram_is_the_leading_part_of_a_larger_one_bit_for_bit(k: int) -> None:
    rows = torch.randn(3 * HOST.height, 2500)
    assert torch.equal(gram(rows)[:k, :k], gram(rows[:k].clone()))
    torch.testing.assert_close(gram(rows), rows.double() @ rows.double().T, rtol=1e-12, atol=1e-10)


def test_float32_rows_lose_nothing_but_their_own_rounding() -> None:
    rows = rows_of("random", 64, 300).float()
    expected = torch.linalg.inv(curvature(rows.double(), 1e-7)).diagonal()
    torch.testing.assert_close(WoodburyInverse(rows, 1e-7).diagonal(), expected, rtol=1e-5, atol=0)
    assert WoodburyInverse(rows, 1e-7).diagonal().dtype == torch.float64


@pytest.mark.parametrize(
    ("rows", "damping", "block", "message"),
    [
        (torch.ones(2, 4), 0.0, None, "damping 0.0 must be positive"),
        (torch.ones(2, 4), float("nan"), None, "damping nan must be positive"),
        (torch.full((2, 4), torch.nan), 1.0, None, "NaN"),
        (torch.ones(2, 4), 1.0, 0, "block_size 0"),
        (torch.ones(2, 4), 1.0, [3, 2], "sum to the 4 columns"),
        (1e9 * torch.ones(2, 4), 1e-9, None, "raise the damping"),
    ],
)
def test_bad_input_is_named(rows: Tensor, damping: float, block: int | list[int] | None, message: str) -> None:
    with pytest.raises(WfbenchError, match=message):
        WoodburyInverse(rows, damping, block).diagonal()


def test_blocks_of_covers_every_column_once() -> None:
    assert [where.stop - where.start for where in blocks_of(300, 128)] == [128, 128, 44]


def peak_of(block: int | None) -> float:
    """MiB by which an inverse, its diagonal and a solve raise the peak."""
    rows = torch.randn(512, 100_000)
    torch.linalg.cholesky(torch.eye(9).double())  # what is loaded at the first call is not counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inverse = WoodburyInverse(rows, 1e-3, block)
    inverse.diagonal(), inverse.solve(torch.ones(100_000).double())
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in other units elsewhere")
@pytest.mark.parametrize("block", [None, 2000])
def test_memory_stays_within_the_rows_and_a_chunk(block: int | None) -> None:
    """Rows of 195 MiB; a float64 copy of rows or V would be 390 MiB more. The bound is half the rows."""
    with ProcessPoolExecutor(1, CONTEXT) as apart:
        assert apart.submit(peak_of, block).result() < 97
