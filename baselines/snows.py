"""SNOWS. Lucas & Mazumder 2025, "Preserving deep representations in one-shot pruning: a Hessian-free second-order
optimization framework".

Fidelity: the published objective and Newton-CG with exact Hessian products; on one linear layer equal to least squares.
The number of steps is ours. No published figure reproduced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wfbench import Fitted, Network, Pruned, Pruner, Target, Unlabeled
from wfbench.toolbox import Params, at_least, call_order, keep_largest


@dataclass(frozen=True)
class SNOWS(Pruner[Unlabeled]):
    """An update for a given mask, global magnitude's: layer by layer, the next K features are brought back.

    Args:
        horizon: K, how many layer outputs (convolution, linear, norm) from the pruned one on count.
        newton: Newton steps a layer.
        products: most Hessian products a step.
        damping: added to the Hessian, as a share of its size along the gradient.
    """

    name: ClassVar[str] = "snows"
    order_invariant: ClassVar[bool] = True
    source: ClassVar[str] = "Lucas & Mazumder 2025, SNOWS"
    fidelity: ClassVar[str] = "equal to least squares on one linear layer; no published figure reproduced"
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    updates: ClassVar[bool] = True
    horizon: int = 6
    newton: int = 3
    products: int = 10
    damping: float = 1e-3

    def __post_init__(self) -> None:
        at_least(1, horizon=self.horizon, products=self.products)
        at_least(0, newton=self.newton, damping=self.damping)

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return FittedSNOWS(net, data.inputs.to(net.device), self, call_order(net, data.inputs[:1]))


class _Enough(Exception):
    """The last feature of the horizon has been seen."""


@dataclass(frozen=True)
class FittedSNOWS:
    """The dense network and the samples; a target's features are made when it is asked for."""

    net: Network
    inputs: Tensor
    options: SNOWS
    order: list[str]

    def prune(self, target: Target) -> Pruned:
        mask = keep_largest({name: weight.abs() for name, weight in self.net.weights.items()}, target)
        weights = self.net.weights if target.sparsity == 0 else self.update(mask)
        return Pruned.of(self.net, weights, mask)

    def update(self, mask: Params) -> Params:
        weights: Params = {name: torch.where(mask[name], w, 0) for name, w in self.net.weights.items()}
        for name in self.order:
            with torch.no_grad():
                wanted = self.features(dict(self.net.weights), name)

            def loss(weight: Tensor, name: str = name, wanted: list[Tensor] = wanted) -> Tensor:
                found = self.features({**weights, name: weight}, name)
                return torch.stack([(a - b).square().sum() for a, b in zip(found, wanted, strict=True)]).sum()

            weights[name] = self.descend(weights[name], mask[name], loss)
        return weights

    def features(self, weights: Params, first: str) -> list[Tensor]:
        """Outputs of the layer that owns `first` and of those called after it, K in all."""
        found: list[Tensor] = []

        def keep(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if found or weight == first:
                found.append(output)
            if len(found) == self.options.horizon:
                raise _Enough

        try:
            with self.net.hooked(keep):
                self.net.logits(weights, self.inputs)
        except _Enough:
            pass
        return found

    def descend(self, weight: Tensor, mask: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Newton steps on the kept entries, each halved until the loss falls."""
        for _ in range(self.options.newton):
            variable = weight.clone().requires_grad_()
            value = loss(variable)
            (gradient,) = torch.autograd.grad(value, variable, create_graph=True)

            def product(v: Tensor, gradient: Tensor = gradient, variable: Tensor = variable) -> Tensor:
                (found,) = torch.autograd.grad(gradient, variable, v, retain_graph=True)
                return torch.where(mask, found, 0)

            right = torch.where(mask, -gradient.detach(), 0)
            if not right.any():
                break
            direction = conjugate_gradients(product, right, self.options.products, self.options.damping)
            with torch.no_grad():
                step = 1.0
                while step > 1e-3 and not float(loss(weight + step * direction)) < float(value):
                    step /= 2
                if step <= 1e-3:
                    break
                weight = weight + step * direction
        return weight


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, steps: int, damping: float) -> Tensor:
    """`(H + μI)⁻¹ b` by truncated conjugate gradients from zero; stops where the curvature is not positive."""
    x, residual = torch.zeros_like(right), right.clone()
    direction, size, shift = residual.clone(), residual.square().sum(), None
    for _ in range(steps):
        image = product(direction)
        if shift is None:
            shift = damping * ((direction * image).sum() / size).abs()
        image = image + shift * direction
        curvature = (direction * image).sum()
        if curvature <= 0:
            return x if x.any() else direction
        length = size / curvature
        x, residual = x + length * direction, residual - length * image
        before, size = size, residual.square().sum()
        if size <= 1e-10 * right.square().sum():
            break
        direction = residual + size / before * direction
    return x
