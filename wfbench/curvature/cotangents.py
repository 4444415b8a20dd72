"""What is pulled back through the network for the rows of each estimator, and what it takes at random."""

from collections.abc import Sequence
from math import prod
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from wfbench.errors import WfbenchError

Kind: TypeAlias = Literal["empirical", "sampled", "exact", "logits"]


def cotangents(
    kind: Kind,
    logits: Float[Tensor, "t c *places"],
    labels: Int[Tensor, "t *places"] | None,
    random: Float[Tensor, "t s *rest"] | None,
) -> Float[Tensor, "t m c *places"]:
    """Gradients by the logits: of the mean log p(y|x), `e_y − p`, y by the estimator; of a centred logit, `e_c − 1/C`.

    With probes, in `random`, their combinations of those of every class or logit. All but the mean are of one place, or
    summed over places.
    """
    z = logits.flatten(2).mT if logits.ndim > 2 else logits[:, None]
    found = _by_place(kind, z, None if labels is None else labels.reshape(len(labels), -1), random)
    return found.movedim(3, 2).reshape(len(found), -1, *logits.shape[1:])


def _by_place(
    kind: Kind, z: Float[Tensor, "t l c"], labels: Int[Tensor, "t l"] | None, random: Tensor | None
) -> Float[Tensor, "t m l c"]:
    """As `cotangents`, with one axis of places, and the classes last."""
    _, places, classes = z.shape
    if random is not None:
        shape = random.shape[:2]
        random = random.reshape(*shape, places) if kind == "sampled" else random.reshape(*shape, classes, places).mT
    if kind == "logits":
        if random is not None:
            return random - random.mean(3, keepdim=True)
        return _at_every_place((torch.eye(classes).to(z) - 1 / classes)[None, :, None].expand(len(z), -1, places, -1))
    p = z.softmax(2)
    if kind == "exact" and random is not None:
        return _combined(p, random)
    if kind == "empirical":
        assert labels is not None
        if int(labels.max()) >= classes:
            raise WfbenchError(f"label {int(labels.max())} does not fit a network of {classes} classes")
        chosen = labels.to(z.device)[:, None]
    elif kind == "sampled":
        assert random is not None
        chosen = (p.cumsum(2)[:, None] < random[..., None]).sum(3).clamp(max=classes - 1)
    else:
        chosen = torch.arange(classes, device=p.device)[:, None].expand(len(p), -1, places)
    one_hot = functional.one_hot(chosen, classes)
    # 1 − p_y as the sum of the others: confident samples keep their small gradients
    others = (p[:, None] * (1 - one_hot)).sum(3, keepdim=True)
    difference = torch.where(one_hot.bool(), others, -p[:, None])
    if kind == "exact":
        return _at_every_place(difference * p.sqrt().mT[..., None])
    return difference / places if kind == "empirical" else difference


def _at_every_place(each: Float[Tensor, "t c l d"]) -> Float[Tensor, "t m l d"]:
    """A row for every place and class, that of the class there and zero elsewhere."""
    eye = torch.eye(each.shape[2]).to(each)
    return torch.einsum("kl,tcld->tkcld", eye, each).flatten(1, 2)


def _combined(p: Float[Tensor, "t l c"], probes: Float[Tensor, "t s l c"]) -> Float[Tensor, "t s l c"]:
    """`Σ_y ξ_y √p_y(e_y − p) = (diag √p − p√pᵀ)ξ`; 1 − p_y, and what the other classes give, as sums of the others."""
    weighted = probes * p.sqrt()[:, None]
    return weighted * _others(p)[:, None] - p[:, None] * _others(weighted)


def _others(x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
    """`Σ_{y≠c} x_y`, without taking away."""
    none = torch.zeros_like(x[..., :1])
    before = torch.cat([none, x[..., :-1]], -1).cumsum(-1)
    return before + torch.cat([x[..., 1:], none], -1).flip(-1).cumsum(-1).flip(-1)


def probe_signs(samples: range, probes: int, logits: Sequence[int], seed: int) -> Float[Tensor, "n s *logits"]:
    """Random ±1, float64."""
    return torch.where(streams(samples, probes, seed, logits) < 0.5, -1.0, 1.0).double()


def streams(samples: range, count: int, seed: int, each: Sequence[int]) -> Float[Tensor, "n s *each"]:
    """Uniform numbers, every draw or probe from a stream of its own: budgets, and the numbers of both, nest."""
    columns = []
    for d in range(count):
        numbers = np.random.PCG64([seed, d]).advance(samples.start * prod(each))
        columns.append(np.random.Generator(numbers).random((len(samples), *each)))
    return torch.from_numpy(np.stack(columns, axis=1))
