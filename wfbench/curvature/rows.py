"""Curvature rows: per-sample gradients of log-likelihoods or of logits, shared by budgets that begin alike."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wfbench.curvature.cotangents import Kind, cotangents, probe_signs, streams
from wfbench.curvature.gram import gram
from wfbench.curvature.memory import PIECE, by_columns, check_finite, room, touched
from wfbench.curvature.parallel import Shares
from wfbench.curvature.per_sample import check_layers, per_sample_gradients, tile
from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError
from wfbench.network import Network

Over: TypeAlias = Literal["prunable", "movable"]

MAX_ROWS = 2000
MAX_ENTRIES = 2**30
"""What rows of every logit may hold, 4 GiB in float32; beyond it, and beyond `MAX_ROWS`, probes stand in."""
PROBE_ROWS = 256


@dataclass(frozen=True)
class Gradients:
    """Unscaled rows G: the curvature is `GᵀG / count`.

    Unscaled, because then the rows and the Gram matrix of a smaller budget are the leading part of a larger one's.

    Args:
        probes: how many a sample stand in for its classes or logits; None where every one has a row.
    """

    rows: Float[Tensor, "k p"]
    count: float
    samples: tuple[bytes, ...]
    seconds: float
    probes: int | None = None
    _whole: "Gradients | None" = field(default=None, repr=False)

    @cached_property
    def gram(self) -> Float[Tensor, "k k"]:
        """`GGᵀ`, float64."""
        k = len(self.rows)
        return gram(self.rows) if self._whole is None else self._whole.gram[:k, :k].clone()

    def prefix(self, n: int) -> "Gradients":
        """The gradients of the first `n` samples, sharing storage."""
        share = n / len(self.samples)
        k = round(len(self.rows) * share)
        return Gradients(self.rows[:k], self.count * share, self.samples[:n], self.seconds * share, self.probes, self)


def fisher_rows(
    net: Network,
    data: Labeled | Unlabeled,
    kind: Kind = "empirical",
    *,
    draws: int = 1,
    batch: int = 1,
    probes: int | None = None,
    over: Over = "prunable",
    seed: int = 0,
) -> Float[Tensor, "k p"]:
    """Rows R with curvature `RᵀR` [nats/weight²], in the network's dtype.

    Per-sample gradients of log p(y|x), nats per weight, network in eval mode, columns in the order of
    `named_parameters()`, row-major; rows sample-major. Where a sample has m places, the loss is the mean over them.

    * `empirical`: y the label, scaled by 1/√n. Needs `Labeled`. The empirical Fisher of Singh & Alistarh 2020.
      With `batch` B the mean gradient of each B consecutive samples, scaled by 1/√(n/B) (their `fisher_mini_bsz`).
    * `sampled`: y drawn from the network's own p(·|x), `draws` times, scaled by 1/√(n·draws). Needs no label. Of m
      places one y each, the sum of their gradients over √m: unbiased of the exact one's, and not of the scale of the
      empirical Fisher, whose row is the mean over places, as a mini-batch's is over samples.
    * `exact`: every class c, of every place, scaled by √(p_c/(n·m)): the Fisher itself, equal to the generalised
      Gauss-Newton matrix of the loss.
    * `logits`: the gradient of every logit less the mean of its place, scaled by 1/√(n·m): the Fisher of a unit
      Gaussian about the centred logits, [logit²/weight²]. It does not vanish where the network is sure of its class.

    With `probes` s, of `exact` and `logits` s random ±1 combinations a sample of the rows above, over √s: `RᵀR` is
    unbiased (Hutchinson 1989), with n·s rows in place of n·classes.

    Args:
        draws: label draws a sample, `sampled` alone. Draw d of the i-th sample depends on (seed, d, i) alone.
        probes: combinations a sample, `exact` and `logits` alone. Probe d of the i-th sample depends on (seed, d, i)
            and the number of classes alone.
        over: `prunable` coordinates, or `movable` ones (with biases and norm parameters).

    Raises:
        WfbenchError: no labels for `empirical`, `batch` that does not divide n, more than 2000 rows, a NaN.
    """
    found = gradients(net, data, kind, draws=draws, batch=batch, probes=probes, over=over, seed=seed)
    scaled = room(found.rows.shape, found.rows.dtype, found.rows.device)
    for where, part in by_columns(found.rows, PIECE):
        torch.div(part, math.sqrt(found.count), out=scaled[:, where])
        touched(scaled, part.nbytes)
    return scaled


def probes_of(net: Network, data: Labeled | Unlabeled, over: Over = "prunable") -> int | None:
    """Probes a sample where a row for every logit of every sample is too much, about 256 rows in all; None elsewhere.

    A row for every one is taken up to 2000 rows and 4 GiB of float32.
    """
    outputs = prod(net.shape(data.inputs))
    columns = sum(tensor.numel() for tensor in (net.weights if over == "prunable" else net.movable).values())
    return probes_for(len(data), outputs, columns)


def probes_for(n: int, outputs: int, columns: int) -> int | None:
    """The same for so many samples, outputs and columns."""
    rows = n * outputs
    return None if rows <= MAX_ROWS and rows * columns <= MAX_ENTRIES else max(1, PROBE_ROWS // n)


def gradients(
    net: Network,
    data: Labeled | Unlabeled,
    kind: Kind = "empirical",
    *,
    draws: int = 1,
    batch: int = 1,
    probes: int | None = None,
    over: Over = "prunable",
    seed: int = 0,
) -> Gradients:
    """As `fisher_rows`, unscaled; reused from `net.memo` where the samples begin those of an earlier call."""
    n, asked = len(data), _Asked(kind, draws, batch, probes, over, seed)
    _check(data, asked)
    samples = _chain(data, labels=kind == "empirical")
    known = net.memo.get(asked)
    if isinstance(known, Gradients) and known.samples[:n] == samples:
        found = known.prefix(n)
        net.memo.saved += found.seconds
        return found
    found = _compute(net, data, asked, samples)
    net.memo.keep(asked, found)
    return found


@dataclass(frozen=True)
class _Asked:
    """Which rows, of given samples."""

    kind: Kind
    draws: int
    batch: int
    probes: int | None
    over: Over
    seed: int


def _check(data: Labeled | Unlabeled, asked: _Asked) -> None:
    n, kind, draws, batch, probes = len(data), asked.kind, asked.draws, asked.batch, asked.probes
    if kind == "empirical" and not isinstance(data, Labeled):
        raise WfbenchError('the empirical Fisher reads labels; use kind="sampled" or "exact" for unlabelled data')
    if kind != "sampled" and draws != 1:
        raise WfbenchError(f'draws={draws} belongs to kind="sampled", not to "{kind}"')
    if kind != "empirical" and batch != 1:
        raise WfbenchError(f'batch={batch} belongs to kind="empirical", not to "{kind}"')
    if probes is not None and kind not in ("exact", "logits"):
        raise WfbenchError(f'probes={probes} belongs to kind="exact" and "logits", not to "{kind}"')
    if draws < 1 or batch < 1 or (probes is not None and probes < 1):
        raise WfbenchError(f"draws={draws}, batch={batch} and probes={probes} must be at least 1")
    if n % batch:
        raise WfbenchError(f"batch={batch} does not divide the {n} samples; choose a divisor")


def _compute(
    net: Network,
    data: Labeled | Unlabeled,
    asked: _Asked,
    samples: tuple[bytes, ...],
) -> Gradients:
    began = time.perf_counter()
    kind, batch = asked.kind, asked.batch
    n, coordinates = len(data), net.weights if asked.over == "prunable" else net.movable
    logits = net.shape(data.inputs)
    m = asked.draws if kind not in ("exact", "logits") else asked.probes or prod(logits)
    k, p = n * m // batch, sum(tensor.numel() for tensor in coordinates.values())
    if k > MAX_ROWS:
        every = kind in ("exact", "logits")
        advice = (
            "use fewer samples, probes, or the sampled Fisher" if every else "use fewer samples or draws, or batch=B"
        )
        raise WfbenchError(f"{kind} Fisher of {n} samples has {k} rows, more than {MAX_ROWS}; {advice}")
    rows, step = room((k, p), net.dtype, net.device, zeros=batch > 1), tile(net, data.inputs)
    part = rows if batch == 1 else room((min(n, step) * m, p), net.dtype, net.device)
    shares = Shares(n, step, batch)
    apart = check_layers(net, data.inputs[:step], coordinates)  # on the first samples, whichever process has them
    for start in shares:
        stop = min(start + step, n)
        labels = data.labels[start:stop] if isinstance(data, Labeled) else None
        drawn = _randoms(range(start, stop), asked, logits)
        place = rows[start * m : stop * m] if batch == 1 else part[: (stop - start) * m]
        per_sample_gradients(
            net,
            data.inputs[start:stop],
            lambda logits, y=labels, u=drawn: cotangents(  # type: ignore[misc]
                kind, logits, y, None if u is None else u.to(logits.device)
            ),
            coordinates,
            place.view(stop - start, m, p),
            apart,
            step,
        )
        if batch > 1:
            _add_means(rows, torch.arange(start, stop, device=net.device) // batch, place, batch)
    shares.complete(rows)
    check_finite(rows, "the per-sample gradients")
    count = n * asked.draws * (asked.probes or 1) / batch
    if kind != "empirical":
        count *= prod(logits[1:])
    return Gradients(rows, count, samples, time.perf_counter() - began, asked.probes)


def _add_means(rows: Float[Tensor, "k p"], to: Int[Tensor, " t"], place: Float[Tensor, "t p"], batch: int) -> None:
    """Every sample's share in the mean of its batch is added to that one's row."""
    for where, part in by_columns(place, PIECE):
        rows[:, where].index_add_(0, to, part, alpha=1 / batch)
        touched(rows, part.nbytes)


def _randoms(samples: range, asked: _Asked, logits: Sequence[int]) -> Tensor | None:
    """What the rows take at random: uniform numbers `[n, draws, *places]`, or probes `[n, probes, *logits]`."""
    if asked.probes is not None:
        return probe_signs(samples, asked.probes, logits, asked.seed)
    return streams(samples, asked.draws, asked.seed, logits[1:]) if asked.kind == "sampled" else None


def _chain(data: Labeled | Unlabeled, *, labels: bool) -> tuple[bytes, ...]:
    """A running digest of the samples: equal at i where the first i samples (and labels) are equal."""
    digest, found = hashlib.blake2b(digest_size=16), []
    for i, x in enumerate(data.inputs.cpu()):
        digest.update(x.contiguous().numpy().data)
        if labels and isinstance(data, Labeled):
            digest.update(data.labels[i].cpu().contiguous().numpy().data)
        found.append(digest.digest())
    return tuple(found)
