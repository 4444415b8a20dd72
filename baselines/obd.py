"""Optimal brain damage. LeCun, Denker & Solla 1989.

Fidelity: the diagonal of the generalised Gauss-Newton matrix equals the dense one; that of the Hessian is Hutchinson's
estimate from curvlinops, unbiased, and tends to the dense one. No published figure reproduced.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from wfbench import Labeled, Network, ScorePruner, Unlabeled, fisher_rows
from wfbench.toolbox import Params, at_least, flatten, unflatten

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of a dependency, at import
    from curvlinops import HessianLinearOperator, hutchinson_diag

DIAGONAL_SAMPLES = 32
"""Samples whose gradients are held at a time."""


@dataclass(frozen=True)
class OBD(ScorePruner[Unlabeled]):
    """`½ w² h_qq` with the diagonal of the generalised Gauss-Newton matrix, nats."""

    name: ClassVar[str] = "obd"
    source: ClassVar[str] = "LeCun et al. 1989, with the Levenberg-Marquardt approximation"
    fidelity: ClassVar[str] = "equal to the dense diagonal; no published figure reproduced"
    order_invariant: ClassVar[bool] = True

    def scores(self, net: Network, data: Unlabeled) -> Params:
        diagonal = torch.zeros_like(flatten(net.weights), dtype=torch.float64)
        for x in data.inputs.split(DIAGONAL_SAMPLES):
            diagonal += fisher_rows(net, Unlabeled(x), "exact").square().sum(0).double() * len(x) / len(data)
        return unflatten(flatten(net.weights).double().square() * diagonal / 2, net.weights)


@dataclass(frozen=True)
class OBDHessian(ScorePruner[Labeled]):
    """`½ w² h_qq` with an estimate of the diagonal of the Hessian; a negative one ranks first.

    Args:
        probes: random ±1 vectors of the estimate, at most one fewer than there are weights.
    """

    name: ClassVar[str] = "obd-hessian"
    source: ClassVar[str] = "LeCun et al. 1989; diagonal by Hutchinson's estimator (Bekas et al. 2007)"
    fidelity: ClassVar[str] = "tends to the dense diagonal; no published figure reproduced"
    probes: int = 32

    def __post_init__(self) -> None:
        at_least(1, probes=self.probes)

    def scores(self, net: Network, data: Labeled) -> Params:
        module = net.module().requires_grad_(True)
        batches = zip(
            data.inputs.to(net.device).split(DIAGONAL_SAMPLES),
            data.labels.to(net.device).split(DIAGONAL_SAMPLES),
            strict=True,
        )
        params = [module.get_parameter(name) for name in net.weights]
        hessian = HessianLinearOperator(module, nn.CrossEntropyLoss(), params, list(batches), check_deterministic=False)
        w = flatten(net.weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, at the first forward-mode derivative
            diagonal = hutchinson_diag(hessian, min(self.probes, len(w) - 1)).detach()
        return unflatten(w.square() * diagonal / 2, net.weights)
