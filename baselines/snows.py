"""SNOWS. Lucas & Mazumder 2025, "Preserving deep representations in one-shot pruning: a Hessian-free second-order
optimization framework".

Fidelity, against the published code: the objective is its (later layers dense, both networks on the activations of
the pruned blocks before, mean squared error of each feature, summed), as are three Newton steps by conjugate
gradients with λ = 1e-4 that stop at a residual of 1e-3, and Armijo's line search. Ours: features are the outputs of
convolution, linear and norm layers, theirs of convolutions and ReLUs; six features and at most ten products, where
more products cost accuracy on validation (theirs up to 40 and 500, on thousands of samples); all samples in each
step; no least-squares start, which cost accuracy too; all layers, no cap on a layer's sparsity. No published figure
reproduced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import mse_loss
from torch.overrides import TorchFunctionMode

from wfbench import Fitted, Network, Pruned, Pruner, Target, Unlabeled, WfbenchError
from wfbench.toolbox import Params, at_least, call_order, keep_largest

RESIDUAL = 1e-3
"""Conjugate gradients stop where the residual's norm is below."""
ARMIJO, SHORTER, TRIES = 1e-5, 0.9, 50
"""Of the line search: share of the promised fall that is asked for, what a step is shortened by, and how often."""


@dataclass(frozen=True)
class SNOWS(Pruner[Unlabeled]):
    """An update for a given mask, global magnitude's: layer by layer, the next K features are brought back.

    Args:
        horizon: K, how many layer outputs (convolution, linear, norm) from the pruned one on count.
        newton: Newton steps a layer.
        products: most Hessian products a step.
        damping: λ, added to the Hessian's diagonal [mean squared error/weight²].
    """

    name: ClassVar[str] = "snows"
    order_invariant: ClassVar[bool] = True
    source: ClassVar[str] = "Lucas & Mazumder 2025, SNOWS"
    fidelity: ClassVar[str] = (
        "the published code's objective and Newton steps, fewer features and products; no published figure reproduced"
    )
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    updates: ClassVar[bool] = True
    horizon: int = 6
    newton: int = 3
    products: int = 10
    damping: float = 1e-4

    def __post_init__(self) -> None:
        at_least(1, horizon=self.horizon, products=self.products)
        at_least(0, newton=self.newton, damping=self.damping)

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return self.made(FittedSNOWS, net, data)

    def made(self, kind: "type[FittedSNOWS]", net: Network, data: Unlabeled) -> Fitted:
        module = net.module()
        blocks = {name: block_of(module, name) for name in net.weights}
        return kind(net, data.inputs.to(net.device), self, call_order(net, data.inputs[:1]), blocks)


@dataclass(frozen=True)
class SNOWSDrift(SNOWS):
    """The same towards the features of the dense network on its own activations, so that drift is taken back.

    Later layers are pruned too, as they will be; every entry of a feature weighs the same (sums, not means).
    """

    name: ClassVar[str] = "snows-drift"
    fidelity: ClassVar[str] = "SNOWS with an objective of ours; not a published configuration"

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return self.made(FittedSNOWSDrift, net, data)


def block_of(module: nn.Module, weight: str) -> str:
    """The innermost module around a layer that is no chain of layers (a residual block), or else the layer."""
    layer = name = weight.rpartition(".")[0]
    while name := name.rpartition(".")[0]:
        if not isinstance(module.get_submodule(name), nn.Sequential):
            return name
    return layer


class Twice(TorchFunctionMode):
    """Operations without a second derivative, computed in others that have one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.hardsigmoid:
            return functional.relu6(args[0] + 3) / 6
        if func is functional.scaled_dot_product_attention:  # whichever kernel the network asks for
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Enough(Exception):
    """The last feature of the horizon has been seen."""


@dataclass(frozen=True)
class FittedSNOWS:
    """The dense network, the samples, its layers in call order, and which block each is in."""

    net: Network
    inputs: Tensor
    options: SNOWS
    order: list[str]
    blocks: dict[str, str]
    reduction: ClassVar[str] = "mean"

    def prune(self, target: Target) -> Pruned:
        mask = keep_largest({name: weight.abs() for name, weight in self.net.weights.items()}, target)
        weights = self.net.weights if target.sparsity == 0 else self.update(mask)
        return Pruned.of(self.net, weights, mask)

    def start(self, mask: Params) -> Params:
        """The weights of the layers that are not reached yet."""
        return dict(self.net.weights)

    def update(self, mask: Params) -> Params:
        weights = self.start(mask)
        for name in self.order:
            loss, masked = self.objective(weights, name), torch.where(mask[name], self.net.weights[name], 0)
            weights[name] = masked if loss is None else self.descend(masked, mask[name], loss)
        return weights

    def wanted(self, weights: Params, name: str) -> list[Tensor]:
        """The features of the dense block on what the pruned blocks before it give; all that follows is dense."""
        block = {of: weight for of, weight in self.net.weights.items() if self.blocks[of] == self.blocks[name]}
        return self.features({**weights, **block}, name)

    def objective(self, weights: Params, name: str) -> Callable[[Tensor], Tensor] | None:
        """`Σ_k mean (f_k(W) − f_k)²` of a layer's weight W, the other layers as in `weights`.

        None for a layer that is never called, as attention's output projection, whose kept weights stay dense.
        """
        others = dict(weights)
        with torch.no_grad():
            wanted = self.wanted(others, name)
        if not wanted:
            return None

        def loss(weight: Tensor) -> Tensor:
            found = self.features({**others, name: weight}, name)
            parts = [mse_loss(a, b, reduction=self.reduction) for a, b in zip(found, wanted, strict=True)]
            return torch.stack(parts).sum()

        return loss

    def features(self, weights: Params, first: str) -> list[Tensor]:
        """Outputs of the layer that owns `first` and of those called after it, K in all."""
        found: list[Tensor] = []

        def keep(weight: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if found or weight == first:
                found.append(output)
            if len(found) == self.options.horizon:
                raise _Enough

        try:
            with self.net.hooked(keep), Twice():
                self.net.logits(weights, self.inputs)
        except _Enough:
            pass
        return found

    def descend(self, weight: Tensor, mask: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Newton steps on the kept entries, each shortened until the loss falls as Armijo asks."""
        for _ in range(self.options.newton):
            variable = weight.clone().requires_grad_()
            value = loss(variable)
            (gradient,) = torch.autograd.grad(value, variable, create_graph=True)

            def product(v: Tensor, gradient: Tensor = gradient, variable: Tensor = variable) -> Tensor:
                return torch.where(mask, again(gradient, variable, v), 0)

            right = torch.where(mask, -gradient.detach(), 0)
            if not right.any():
                break
            direction = conjugate_gradients(product, right, self.options.products, self.options.damping)
            length = armijo(loss, weight, direction, float(value.detach()), float(-(right * direction).sum()))
            if length is None:
                break
            weight = weight + length * direction
        return weight


@dataclass(frozen=True)
class FittedSNOWSDrift(FittedSNOWS):
    """The dense network's own features are wanted, of a network that is pruned throughout."""

    reduction: ClassVar[str] = "sum"

    def start(self, mask: Params) -> Params:
        return {name: torch.where(mask[name], weight, 0) for name, weight in self.net.weights.items()}

    def wanted(self, weights: Params, name: str) -> list[Tensor]:
        return self.features(dict(self.net.weights), name)


def again(gradient: Tensor, variable: Tensor, v: Tensor) -> Tensor:
    """The Hessian times v.

    Raises:
        WfbenchError: an operation of the network has no second derivative.
    """
    try:
        (found,) = torch.autograd.grad(gradient, variable, v, retain_graph=True)
    except RuntimeError as error:
        if "derivative for" not in str(error):
            raise
        raise WfbenchError(
            f"snows differentiates the network twice, and torch cannot: {error}; use an operation that has a second "
            "derivative, or another method"
        ) from error
    return found


@torch.no_grad()
def armijo(
    loss: Callable[[Tensor], Tensor], weight: Tensor, direction: Tensor, value: float, slope: float
) -> float | None:
    """The first length of 1, 0.9, 0.81, … at which the loss falls by a share of what its slope promises, or None."""
    length = 1.0
    for _ in range(TRIES):
        if float(loss(weight + length * direction)) < value + ARMIJO * length * slope:
            return length
        length *= SHORTER
    return None


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, steps: int, damping: float) -> Tensor:
    """`(H + λI)⁻¹ b` by truncated conjugate gradients from zero; stops where the curvature is not positive."""
    x, residual = torch.zeros_like(right), right.clone()
    direction, size = residual.clone(), residual.square().sum()
    for _ in range(steps):
        image = product(direction) + damping * direction
        curvature = (direction * image).sum()
        if curvature <= 0:
            return x if x.any() else direction
        length = size / curvature
        x, residual = x + length * direction, residual - length * image
        before, size = size, residual.square().sum()
        if size.sqrt() < RESIDUAL:
            break
        direction = residual + size / before * direction
    return x
