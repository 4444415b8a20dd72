"""Curvature rows: per-sample gradients of log-likelihood, without a Python loop over samples.

One forward pass records every layer's input; one backward pass per cotangent gives every layer's output gradient; a
grouped convolution (one group a sample) turns the two into per-sample weight gradients. Weights themselves ask for no
gradient, so the pass costs about what a plain batched one does.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wfbench.curvature.gram import gram
from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError
from wfbench.network import Network

Kind: TypeAlias = Literal["empirical", "sampled", "exact", "logits"]
Over: TypeAlias = Literal["prunable", "movable"]

TILE = 32
"""Samples a pass, the last one filled up with zeros: a sample's row is the same bits in every budget."""
MAX_ROWS = 2000


@dataclass(frozen=True)
class Gradients:
    """Unscaled rows G: the curvature is `GᵀG / count`.

    Unscaled, because then the rows and the Gram matrix of a smaller budget are the leading part of a larger one's.
    """

    rows: Float[Tensor, "k p"]
    count: float
    samples: tuple[bytes, ...]
    seconds: float
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
        return Gradients(self.rows[:k], self.count * share, self.samples[:n], self.seconds * share, self)


def fisher_rows(
    net: Network,
    data: Labeled | Unlabeled,
    kind: Kind = "empirical",
    *,
    draws: int = 1,
    batch: int = 1,
    over: Over = "prunable",
    seed: int = 0,
) -> Float[Tensor, "k p"]:
    """Rows R with curvature `RᵀR` [nats/weight²], in the network's dtype.

    Per-sample gradients of log p(y|x), nats per weight, network in eval mode, columns in the order of
    `named_parameters()`, row-major; rows sample-major.

    * `empirical`: y the label, scaled by 1/√n. Needs `Labeled`. Singh & Alistarh 2020, eq. 2.
      With `batch` B the mean gradient of each B consecutive samples, scaled by 1/√(n/B) (their `fisher_mini_bsz`).
    * `sampled`: y drawn from the network's own p(·|x), `draws` times, scaled by 1/√(n·draws). Needs no label.
    * `exact`: every class c, scaled by √(p_c/n): the Fisher itself, equal to the generalised Gauss-Newton matrix.
    * `logits`: the gradient of every logit less their mean, scaled by 1/√n: the Fisher of a unit Gaussian about the
      centred logits, [logit²/weight²]. It does not vanish where the network is sure of its class.

    Args:
        draws: label draws a sample, `sampled` alone. Draw d of the i-th sample depends on (seed, d, i) alone.
        over: `prunable` coordinates, or `movable` ones (with biases and norm parameters).

    Raises:
        WfbenchError: no labels for `empirical`, `batch` that does not divide n, more than 2000 rows, a NaN.
    """
    found = gradients(net, data, kind, draws=draws, batch=batch, over=over, seed=seed)
    if net.shared is None:
        return found.rows.div_(math.sqrt(found.count))
    return found.rows / math.sqrt(found.count)


def gradients(
    net: Network,
    data: Labeled | Unlabeled,
    kind: Kind = "empirical",
    *,
    draws: int = 1,
    batch: int = 1,
    over: Over = "prunable",
    seed: int = 0,
) -> Gradients:
    """As `fisher_rows`, unscaled; reused from `net.shared` where the samples begin those of an earlier call."""
    n = len(data)
    _check(data, kind, draws, batch)
    if net.shared is None:
        return _compute(net, data, kind, draws, batch, over, seed, ())
    samples = _chain(data, labels=kind == "empirical")
    key = (kind, draws, batch, over, seed)
    known = net.shared.get(key)
    if isinstance(known, Gradients) and known.samples[:n] == samples:
        found = known.prefix(n)
        net.saved_seconds += found.seconds
        return found
    found = _compute(net, data, kind, draws, batch, over, seed, samples)
    net.shared[key] = found
    return found


def _check(data: Labeled | Unlabeled, kind: Kind, draws: int, batch: int) -> None:
    n = len(data)
    if kind == "empirical" and not isinstance(data, Labeled):
        raise WfbenchError('the empirical Fisher reads labels; use kind="sampled" or "exact" for unlabelled data')
    if kind != "sampled" and draws != 1:
        raise WfbenchError(f'draws={draws} belongs to kind="sampled", not to "{kind}"')
    if kind != "empirical" and batch != 1:
        raise WfbenchError(f'batch={batch} belongs to kind="empirical", not to "{kind}"')
    if draws < 1 or batch < 1:
        raise WfbenchError(f"draws={draws} and batch={batch} must be at least 1")
    if n % batch:
        raise WfbenchError(f"batch={batch} does not divide the {n} samples; choose a divisor")


def _compute(
    net: Network,
    data: Labeled | Unlabeled,
    kind: Kind,
    draws: int,
    batch: int,
    over: Over,
    seed: int,
    samples: tuple[bytes, ...],
) -> Gradients:
    began = time.perf_counter()
    n, coordinates = len(data), net.weights if over == "prunable" else net.movable
    m = draws if kind not in ("exact", "logits") else net.logits({}, data.inputs[:1]).shape[1]
    k, p = n * m // batch, sum(tensor.numel() for tensor in coordinates.values())
    if k > MAX_ROWS:
        others = "use fewer samples" if kind == "logits" else "use fewer samples or draws, or batch=B"
        advice = "use draws=s" if kind == "exact" else others
        raise WfbenchError(f"{kind} Fisher of {n} samples has {k} rows, more than {MAX_ROWS}; {advice}")
    make = torch.empty if batch == 1 else torch.zeros
    rows = make((k, p), dtype=net.dtype, device=net.device)
    uniform = _uniforms(n, draws, seed) if kind == "sampled" else None
    for start in range(0, n, TILE):
        stop = min(start + TILE, n)
        labels = data.labels[start:stop] if isinstance(data, Labeled) else None
        drawn = None if uniform is None else uniform[start:stop]
        place = rows[start * m : stop * m] if batch == 1 else rows.new_empty(((stop - start) * m, p))
        per_sample_gradients(
            net,
            data.inputs[start:stop],
            lambda logits, y=labels, u=drawn: _cotangents(kind, logits, y, u),  # type: ignore[misc]
            coordinates,
            place.view(stop - start, m, p),
        )
        if batch > 1:
            rows.index_add_(0, torch.arange(start, stop, device=net.device) // batch, place, alpha=1 / batch)
    if not torch.isfinite(rows.sum()):
        raise WfbenchError("the per-sample gradients contain NaN or infinite values; check the weights and inputs")
    return Gradients(rows, n * draws / batch, samples, time.perf_counter() - began)


def per_sample_gradients(
    net: Network,
    x: Float[Tensor, "t *input"],
    cotangents: Callable[[Float[Tensor, "t c"]], Float[Tensor, "t m c"]],
    coordinates: dict[str, Tensor],
    out: Float[Tensor, "t m p"],
) -> None:
    """Write `JᵢᵀC` for every sample i and each of its m cotangents into `out`; t ≤ 32.

    Args:
        cotangents: from float64 logits `[t, c]` to the m vectors a sample that are pulled back.
        coordinates: the parameters to differentiate by, in column order.
    """
    t, m, _ = out.shape
    filled = torch.cat([x, x.new_zeros((TILE - t, *x.shape[1:]))]).to(net.device)
    sizes = {name: tensor.numel() for name, tensor in coordinates.items()}
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    anchors: list[Tensor] = []
    current, written = 0, set[tuple[int, str]]()

    def slot(name: str) -> Tensor:
        return out[:, current, starts[name] : starts[name] + sizes[name]]

    def store(name: str, gradient: Tensor) -> None:
        part = gradient[:t].reshape(t, -1)
        slot(name).add_(part) if (current, name) in written else slot(name).copy_(part)
        written.add((current, name))

    def record(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        names = {key: f"{name}.{key}".lstrip(".") for key in ("weight", "bias")}
        wanted = {key: full for key, full in names.items() if full in sizes}
        if not wanted:
            return None
        layer_input, version = inputs[0].detach(), inputs[0]._version
        replaced = None
        if not output.requires_grad:
            anchors.append(output.requires_grad_())
            output = replaced = output.clone()

        def backward(gradient: Tensor) -> None:
            if inputs[0]._version != version:
                raise WfbenchError(f"the input of layer {name} is changed in place; make that operation out-of-place")
            for key, full in wanted.items():
                store(full, _layer_gradient(layer, key, name, layer_input, gradient))

        output.register_hook(backward)
        return replaced

    with torch.enable_grad(), net.hooked(record) as module:
        logits = module(filled)
        if not anchors:
            raise WfbenchError("no prunable layer is called as a module in the forward pass")
        padded = torch.zeros((m, *logits.shape), dtype=logits.dtype, device=logits.device)
        padded[:, :t] = cotangents(logits[:t].detach().double()).transpose(0, 1).to(logits.dtype)
        for current in range(m):
            torch.autograd.grad([logits], anchors, [padded[current]], retain_graph=current < m - 1, allow_unused=True)
            for name in sizes:  # layers that the logits do not depend on
                if (current, name) not in written:
                    slot(name).zero_()


def _layer_gradient(layer: nn.Module, key: str, name: str, a: Tensor, g: Tensor) -> Tensor:
    """Per-sample gradient `[t, ...]` of one layer's weight or bias from its input `a` and output gradient `g`."""
    t = len(a)
    if isinstance(layer, nn.Linear):
        a, g = a.reshape(t, -1, a.shape[-1]), g.reshape(t, -1, g.shape[-1])
        return g.mT @ a if key == "weight" else g.sum(1)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return _conv_weight(layer, name, a, g) if key == "weight" else g.flatten(2).sum(2)
    normalised = _normalised(layer, name, a)
    product = g * normalised if key == "weight" else g
    if isinstance(layer, nn.LayerNorm):
        return product.reshape(t, -1, *layer.normalized_shape).sum(1)
    return product.reshape(t, product.shape[1], -1).sum(2)


def _conv_weight(layer: nn.modules.conv._ConvNd, name: str, a: Tensor, g: Tensor) -> Tensor:
    """One convolution backward with a group a sample."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or layer.transposed:
        raise WfbenchError(f"layer {name}: transposed convolutions and padding other than zeros are not supported")
    t = len(a)
    weight = layer.weight.expand(t, *layer.weight.shape).flatten(0, 1)
    found: Tensor = torch.ops.aten.convolution_backward(
        g.reshape(1, -1, *g.shape[2:]),
        a.reshape(1, -1, *a.shape[2:]),
        weight,
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        False,
        [0],
        layer.groups * t,
        [False, True, False],
    )[1]
    return found.reshape(t, -1)


def _normalised(layer: nn.Module, name: str, a: Tensor) -> Tensor:
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        if layer.running_mean is None or layer.running_var is None:
            raise WfbenchError(f"layer {name} keeps no running statistics, so samples are not independent")
        return functional.batch_norm(a, layer.running_mean, layer.running_var, eps=layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return functional.group_norm(a, layer.num_groups, eps=layer.eps)
    assert isinstance(layer, nn.LayerNorm)
    return functional.layer_norm(a, layer.normalized_shape, eps=layer.eps)


def _cotangents(
    kind: Kind, logits: Float[Tensor, "t c"], labels: Int[Tensor, " t"] | None, uniform: Float[Tensor, "t s"] | None
) -> Float[Tensor, "t m c"]:
    """Gradients by the logits: of log p(y|x), `e_y − p`, y by the estimator; of a centred logit, `e_c − 1/C`."""
    classes = logits.shape[1]
    if kind == "logits":
        return (torch.eye(classes).to(logits) - 1 / classes).expand(len(logits), -1, -1)
    p = logits.softmax(1)
    if kind == "empirical":
        assert labels is not None
        if int(labels.max()) >= classes:
            raise WfbenchError(f"label {int(labels.max())} does not fit a network of {classes} classes")
        chosen = labels.to(logits.device)[:, None]
    elif kind == "sampled":
        assert uniform is not None
        chosen = (p.cumsum(1)[:, None, :] < uniform.to(p.device)[..., None]).sum(2).clamp(max=classes - 1)
    else:
        chosen = torch.arange(classes, device=p.device).expand(len(p), -1)
    one_hot = functional.one_hot(chosen, classes)
    # 1 − p_y as the sum of the others: confident samples keep their small gradients
    others = (p[:, None, :] * (1 - one_hot)).sum(2, keepdim=True)
    difference = torch.where(one_hot.bool(), others, -p[:, None, :])
    return difference * p.sqrt()[..., None] if kind == "exact" else difference


def _uniforms(n: int, draws: int, seed: int) -> Float[Tensor, "n s"]:
    """Uniform numbers for label draws: column d a stream of its own, so budgets and numbers of draws both nest."""
    columns = [np.random.Generator(np.random.PCG64([seed, d])).random(n) for d in range(draws)]
    return torch.from_numpy(np.stack(columns, axis=1))


def _chain(data: Labeled | Unlabeled, *, labels: bool) -> tuple[bytes, ...]:
    """A running digest of the samples: equal at i where the first i samples (and labels) are equal."""
    digest, found = hashlib.blake2b(digest_size=16), []
    for i, x in enumerate(data.inputs.cpu()):
        digest.update(x.contiguous().numpy().data)
        if labels and isinstance(data, Labeled):
            digest.update(int(data.labels[i]).to_bytes(8, "little", signed=True))
        found.append(digest.digest())
    return tuple(found)
