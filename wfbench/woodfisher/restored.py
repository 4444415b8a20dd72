"""WoodFisher with removal and restoration in turns, and a last joint update towards the dense network's logits.

Let z(w) be the logits, centred over the classes, of all n samples, and J their Jacobian by the kept weights, one row a
sample and class. To first order the change δ that brings z back to the dense network's minimises
`‖Jδ − r‖² + λ‖δ‖²` with r what is missing. The Woodbury identity turns its p×p inverse into one of k×k, k = n·classes:

    δ = (JᵀJ + λI)⁻¹Jᵀr = Jᵀ(JJᵀ + λI)⁻¹r

`JᵀJ` is the Gauss-Newton matrix, the Fisher of a Gaussian on the logits: unlike the Fisher of the classes, it does not
vanish where the network is sure. With k far fewer than p the saliency `w²/[A⁻¹]_qq` ranks as w² does, so what goes is
what is smallest; between the stages the layers are brought back by least squares, so that it is small for good reason.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from wfbench.composed.staged import restored, shares
from wfbench.curvature.cotangents import probe_signs
from wfbench.curvature.diagnostics import mean_diagonal, row_diagnostics
from wfbench.curvature.memory import over_columns, packed
from wfbench.curvature.per_sample import TILE, check_layers
from wfbench.curvature.rows import Gradients, gradients, probes_of
from wfbench.data import Unlabeled
from wfbench.errors import WfbenchError
from wfbench.linalg import cholesky
from wfbench.network import Network, Params, flatten, unflatten
from wfbench.pruned import Pruned
from wfbench.pruner import Fitted, Pruner
from wfbench.sparsity import Target, keep_largest

HALVINGS = 6
"""How often a step is halved before it is given up."""


@dataclass(frozen=True, kw_only=True)
class WoodFisherStaged(Pruner[Unlabeled]):
    """The smallest weights go in stages, layers repaired in between; then joint updates bring the logits back.

    Every stage keeps the same share of what the one before it kept. Norm statistics are re-estimated after each.

    Args:
        stages: removals, the last one to the target.
        steps: joint updates after the last stage, each on a new Jacobian; 0 is repair in stages alone.
        damping: λ as a share of the mean diagonal of `JᵀJ` over the kept weights.
    """

    name: ClassVar[str] = "woodfisher-staged"
    source: ClassVar[str] = "Singh & Alistarh 2020, Woodbury identity; on the Gauss-Newton matrix of the logits"
    fidelity: ClassVar[str] = "each update equal to a dense float64 ridge solution; not a published configuration"
    stages: int = 8
    steps: int = 3
    damping: float = 0.1

    def __post_init__(self) -> None:
        if self.stages < 1 or self.steps < 0:
            raise WfbenchError(f"stages={self.stages} must be at least 1 and steps={self.steps} at least 0")
        if not self.damping > 0:
            raise WfbenchError(f"damping={self.damping} must be above 0: a share of the mean diagonal")

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return FittedStaged(net, data, self)


@dataclass(frozen=True)
class FittedStaged:
    """The dense network and the samples; everything else depends on the target."""

    net: Network
    data: Unlabeled
    options: WoodFisherStaged

    def prune(self, target: Target) -> Pruned:
        pruned = Pruned.dense(self.net)
        if target.sparsity == 0:
            return pruned
        for share in shares(self.options.stages, target.sparsity):
            pruned = restored(self.net, self._smaller(pruned, replace(target, sparsity=share)), self.data)
        for step in range(self.options.steps):
            moved = joint_update(self.net, pruned, self.data, self.options.damping, seed=step)
            if moved is None:
                break
            pruned = moved
        return pruned

    def _smaller(self, pruned: Pruned, target: Target) -> Pruned:
        """To a higher sparsity: the smallest weights go."""
        sizes = {name: torch.where(mask, pruned.state[name].abs(), -1) for name, mask in pruned.mask.items()}
        mask = keep_largest(sizes, target)
        kept = {
            name: torch.where(mask[name], tensor, 0) if name in mask else tensor
            for name, tensor in pruned.state.items()
        }
        return Pruned(kept, mask)


def joint_update(net: Network, pruned: Pruned, data: Unlabeled, damping: float, seed: int = 0) -> Pruned | None:
    """The kept weights after one damped Gauss-Newton step towards the dense network's centred logits.

    Its length is halved until the distance falls; None where it does not fall. Where a row for every logit is too much,
    J and what is missing are both combined by the same probes.

    Args:
        damping: λ as a share of the mean diagonal of `JᵀJ` over the kept weights.
        seed: of the probes, so that every step sees others.
    """
    check_layers(net, data.inputs, net.weights)  # once a draw, not once a step
    current = net.with_state(pruned.state)
    wanted = _logits(net, {}, data)
    missing = wanted - _logits(net, pruned.state, data)
    distance = float(missing.square().sum())
    kept = flatten(pruned.mask)
    if distance == 0 or not kept.any():
        return None
    whole = gradients(current, data, "logits", probes=probes_of(current, data), seed=seed)
    found = Gradients(packed(whole.rows, kept), whole.count / len(data), (), 0.0, whole.probes)
    absolute = damping * mean_diagonal(found)
    if absolute == 0:
        return None
    asked = missing
    if found.probes is not None:
        signs = probe_signs(range(len(data)), found.probes, missing.shape[1:], seed)
        asked = torch.einsum("nsc,nc->ns", signs.flatten(2).to(missing), missing.flatten(1))
    dual = torch.cholesky_solve(asked.flatten()[:, None], cholesky(found.gram, absolute * found.count))[:, 0]
    change = torch.zeros(len(kept), dtype=torch.float64, device=found.rows.device)
    change[kept] = over_columns(found.rows, lambda part: part.double().T @ dual)
    delta = unflatten(change, net.weights)
    diagnostics = {**row_diagnostics(found, absolute), "damping": damping}
    for halving in range(HALVINGS):
        state = dict(pruned.state)
        for name, mask in pruned.mask.items():
            moved = state[name].double() + 0.5**halving * delta[name]
            state[name] = torch.where(mask, moved.to(state[name].dtype), 0)
        if float((wanted - _logits(net, state, data)).square().sum()) < distance:
            return replace(pruned, state=state, diagnostics={**diagnostics, "step": 0.5**halving})
    return None


def _logits(net: Network, state: Params, data: Unlabeled) -> Float[Tensor, "n c *places"]:
    """float64, centred over the classes."""
    with torch.no_grad():
        found = torch.cat([net.logits(state, part) for part in data.inputs.split(TILE)]).double()
    return found - found.mean(1, keepdim=True)
