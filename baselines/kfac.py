"""K-FAC saliency and update. Martens & Grosse 2015; as criterion for single weights: Zeng & Urtasun 2018, "MLPrune:
multi-layer pruning for automated neural network compression". The update is the optimal brain surgeon's.

The Kronecker factors come from curvlinops; λ = 1e-5 is that of the sweep in Singh & Alistarh 2020, which the procedure
of docs/defaults.md keeps. Fidelity: equal to the dense float64 inverse of the π-damped Kronecker matrix, and, undamped,
to the exact Fisher where K-FAC is exact; no published figure reproduced.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from wfbench import Fitted, Labeled, Network, Pruned, Pruner, Target, Unlabeled, WfbenchError
from wfbench.toolbox import (
    as_matrices,
    at_a_time,
    check_damping,
    check_patches,
    effective_rank,
    from_matrices,
    inverse,
    keep_largest,
    patches,
    plain_calls,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of a dependency, at import
    from curvlinops import KFACLinearOperator

EVERY_CLASS = 2000
"""Most classes of which each is pulled back."""
PATCHES = 2**28
"""Most numbers in the patches of the samples that go at a time, over all layers."""
UNREAD = torch.zeros((), dtype=torch.int64)
"""In the place of labels."""


class Factors(KFACLinearOperator):  # type: ignore[misc]
    """Those of convolutions of any kind too; where curvlinops has the same, it computes them.

    As there, the patches of a grouped convolution are the mean over its groups, and the places of a sample count as
    samples of their own (K-FAC expand, Eschenhagen et al. 2023).
    """

    _SUPPORTED_MODULES = (nn.Linear, nn.modules.conv._ConvNd)
    _batch = 0

    def _loop_over_data(self, desc: str | None = None, **options: object) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in super()._loop_over_data(desc, **options):
            self._batch = len(x)
            yield x, y

    def _hook_accumulate_input_covariance(
        self, module: nn.Module, inputs: tuple[Tensor, ...], module_name: str
    ) -> None:
        if self._has(module, inputs[0]):
            super()._hook_accumulate_input_covariance(module, inputs, module_name)
            return
        rows = patches(module, inputs[0].detach()).mean(0)
        share = self._batch / self._N_data
        self._set_or_add_(self._input_covariances, module_name, rows.mT @ rows / len(rows) * share)

    def _accumulate_gradient_covariance(self, grad_output: Tensor, module: nn.Module, module_name: str) -> None:
        if self._has(module, grad_output):
            super()._accumulate_gradient_covariance(grad_output, module, module_name)
            return
        last = grad_output.movedim(1, -1) if isinstance(module, nn.modules.conv._ConvNd) else grad_output
        rows = last.flatten(0, -2) * self._batch  # the loss is a mean
        self._set_or_add_(self._gradient_covariances, module_name, rows.mT @ rows / self._N_data)

    def _has(self, module: nn.Module, tensor: Tensor) -> bool:
        """Whether curvlinops knows the layer: linear or 2-D with zeros around it, and the batch in front."""
        plain = not isinstance(module, nn.Conv2d) or (module.padding_mode == "zeros" and module.padding != "same")
        return type(module) in (nn.Linear, nn.Conv2d) and plain and len(tensor) == self._batch


@dataclass(frozen=True)
class FittedKFAC:
    """`B_π⁻¹` (outputs) and `A_π⁻¹` (inputs) of every layer: the inverse Fisher is their Kronecker product.

    Args:
        factors: B and A of every layer, undamped.
    """

    net: Network
    outputs: dict[str, Tensor]
    inputs: dict[str, Tensor]
    factors: dict[str, tuple[Tensor, Tensor]]
    damping: float

    @cached_property
    def diagnostics(self) -> dict[str, float]:
        """Of `F = B ⊗ A`, layer by layer: `tr(FA⁻¹)/p`, the rank of its spectrum, λ and λ over the mean diagonal."""
        spectrum, leverage = [], 0.0
        for name, (b, a) in self.factors.items():
            leverage += float((b @ self.outputs[name]).trace() * (a @ self.inputs[name]).trace())
            spectrum.append(torch.outer(torch.linalg.eigvalsh(b), torch.linalg.eigvalsh(a)).flatten())
        eigenvalues = torch.cat(spectrum)
        mean = float(eigenvalues.mean())
        return {
            "mean_leverage": leverage / len(eigenvalues),
            "effective_rank": effective_rank(eigenvalues),
            "damping": self.damping,
            "damping_ratio": self.damping / mean if mean > 0 else float("inf"),
        }

    def prune(self, target: Target) -> Pruned:
        pulls, scores = {}, {}
        for name in self.net.weights:
            matrix = self.matrix(name, self.net.weights[name].double())
            diagonal = self.outputs[name].diagonal()[:, None] * self.inputs[name].diagonal()
            pulls[name] = matrix / diagonal
            scores[name] = self.tensor(name, matrix * pulls[name] / 2)
        mask, weights, predicted = keep_largest(scores, target), {}, 0.0
        for name, weight in self.net.weights.items():
            removed = ~self.matrix(name, mask[name])
            update = self.outputs[name] @ (pulls[name] * removed) @ self.inputs[name]
            weights[name] = torch.where(mask[name], weight.double() - self.tensor(name, update), 0)
            delta, (b, a) = self.matrix(name, weights[name] - weight.double()), self.factors[name]
            predicted += float((b @ delta @ a * delta).sum()) / 2  # the quadratic part alone
        return Pruned.of(self.net, weights, mask, {**self.diagnostics, "predicted_change": predicted})

    def matrix(self, name: str, tensor: Tensor) -> Shaped[Tensor, "out d"]:
        """A tensor of the weight's shape, a row an output channel."""
        return as_matrices(self.net.layer_of(name), tensor).flatten(0, 1)

    def tensor(self, name: str, matrix: Float[Tensor, "out d"]) -> Tensor:
        """The inverse of `matrix`."""
        layer = self.net.layer_of(name)
        return from_matrices(layer, matrix.unflatten(0, (getattr(layer, "groups", 1), -1)))


@dataclass(frozen=True)
class _KFAC:
    """Args: damping: λ [nats/weight²], split over the factors by π."""

    damping: float = 1e-5

    def __post_init__(self) -> None:
        check_damping(self.damping)

    def fitted(self, net: Network, x: Tensor, y: Tensor, fisher_type: str) -> Fitted:
        check_patches(net, x)
        classes, *places = net.shape(x)
        if fisher_type == "type-2" and classes > EVERY_CLASS:
            raise WfbenchError(f"{classes} classes are too many to weight every one; use kfac-sampled")
        module, x = net.module().double().requires_grad_(True), x.to(net.device)
        x, y = x.double() if x.is_floating_point() else x, y.expand(len(x), *places).to(net.device)
        size = min(at_a_time(len(x), (classes, *places)), at_once(net, x[:1]))
        with plain_calls(module):
            operator = Factors(
                module,
                nn.CrossEntropyLoss(),
                read_by(module, net, x[:1]),
                [*zip(x.split(size), y.split(size), strict=True)],
                check_deterministic=False,
                fisher_type=fisher_type,
                seed=int(torch.randint(2**31, ())),
            )
            operator.compute_kronecker_factors()
        factors = operator.state_dict()
        outputs, inputs, both = {}, {}, {}
        for name, weight in net.weights.items():
            layer, (groups, rows, d) = name.rpartition(".")[0], as_matrices(net.layer_of(name), weight).shape
            sizes = {"input_covariances": d, "gradient_covariances": groups * rows}
            a, b = (factors[kind].get(layer, zeros(net, size)) for kind, size in sizes.items())
            outputs[name], inputs[name] = damped_inverses(a, b, self.damping)
            both[name] = (b, a)
        return FittedKFAC(net, outputs, inputs, both, self.damping)


def read_by(module: nn.Module, net: Network, x: Tensor) -> list[nn.Parameter]:
    """The module's prunable weights that its logits depend on; the factors of the others are zero."""
    weights = [module.get_parameter(name) for name in net.weights]
    found = torch.autograd.grad(module(x).sum(), weights, allow_unused=True)
    return [weight for weight, gradient in zip(weights, found, strict=True) if gradient is not None]


def at_once(net: Network, x: Tensor) -> int:
    """Samples like this one that go at a time, so that what their layers read fits."""
    places = net.places(x)
    shapes = {name: as_matrices(net.layer_of(name), weight).shape for name, weight in net.weights.items()}
    return max(1, PATCHES // max(1, sum(places[name] * groups * d for name, (groups, _, d) in shapes.items())))


def zeros(net: Network, size: int) -> Float[Tensor, "size size"]:
    return torch.zeros((size, size), dtype=torch.float64, device=net.device)


def damped_inverses(a: Tensor, b: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """`(B + √λ/π I)⁻¹` and `(A + π√λ I)⁻¹` with `π² = (tr A/d_in)/(tr B/d_out)`, after Martens & Grosse 2015."""
    mean_a, mean_b = float(a.trace()) / len(a), float(b.trace()) / len(b)
    pi = sqrt(mean_a / mean_b) if mean_a > 0 and mean_b > 0 else 1.0
    return inverse(b, sqrt(damping) / pi), inverse(a, sqrt(damping) * pi)


@dataclass(frozen=True)
class KFAC(_KFAC, Pruner[Labeled]):
    """K-FAC of the empirical Fisher, independent update."""

    name: ClassVar[str] = "kfac"
    order_invariant: ClassVar[bool] = True
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    source: ClassVar[str] = "Martens & Grosse 2015, factored Tikhonov damping; Zeng & Urtasun 2018, single weights"
    fidelity: ClassVar[str] = "equal to the dense float64 Kronecker inverse; no published figure reproduced"

    def fit(self, net: Network, data: Labeled) -> Fitted:
        return self.fitted(net, data.inputs, data.labels, "empirical")


@dataclass(frozen=True)
class KFACSampled(_KFAC, Pruner[Unlabeled]):
    """K-FAC of the Fisher, one label a sample drawn from the network's own predictions."""

    name: ClassVar[str] = "kfac-sampled"
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    source: ClassVar[str] = KFAC.source
    fidelity: ClassVar[str] = KFAC.fidelity

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return self.fitted(net, data.inputs, UNREAD, "mc")


@dataclass(frozen=True)
class KFACExact(_KFAC, Pruner[Unlabeled]):
    """K-FAC of the Fisher, every class weighted by its probability."""

    name: ClassVar[str] = "kfac-exact"
    order_invariant: ClassVar[bool] = True
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    source: ClassVar[str] = KFAC.source
    fidelity: ClassVar[str] = KFAC.fidelity

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return self.fitted(net, data.inputs, UNREAD, "type-2")
