"""The WoodFisher family: curvature rows, Woodbury inverse, optimal brain surgeon."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from wfbench.composed.tuned import tuned_or
from wfbench.curvature.damping import Damping, Relative, absolute, check_damping
from wfbench.curvature.diagnostics import mean_diagonal
from wfbench.curvature.rows import Gradients, gradients, probes_of
from wfbench.data import Labeled, Unlabeled
from wfbench.errors import WfbenchError, at_least
from wfbench.network import Network
from wfbench.pruner import Fitted, Pruner
from wfbench.sparsity import Scope
from wfbench.woodfisher.surgeon import STAGES, BlockSize, FittedWoodFisher, Update, layer_blocks

TENTH = Relative(0.1)


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Fields that every WoodFisher has.

    Args:
        damping: λ; a number is absolute [nats/weight²].
        block_size: width of the diagonal blocks, which never straddle two layers; `"layer"`; None, the full matrix.
        update: `independent`, the sum of single-weight updates (the paper); `joint`, the exact set update.
        stages: the weights go in this many batches, rescored in between; None is 1 for the independent update (the
            paper's one shot) and 32 for the joint one.
        back_off: the update is halved until it costs no more on the samples than leaving the kept weights alone.
        flops_power: β of the paper's FLOPs-aware saliency, which is divided by the weight's multiply-accumulates to
            this power; 0 leaves it as it is.
    """

    damping: Damping = 1e-5
    block_size: BlockSize = 2000
    update: Update = "independent"
    stages: int | None = None
    back_off: bool = False
    flops_power: float = 0.0

    def __post_init__(self) -> None:
        check_damping(self.damping)
        if self.update not in ("independent", "joint"):
            raise WfbenchError(f'update "{self.update}" is unknown; use "independent" or "joint"')
        if self.stages is not None and self.stages < 1:
            raise WfbenchError(f"stages={self.stages} must be at least 1, or None for the default")
        if isinstance(self.block_size, int) and self.block_size < 1:
            raise WfbenchError(f"block_size={self.block_size} must be at least 1, 'layer', or None for the full matrix")
        at_least(0, flops_power=self.flops_power)

    def _fitted(self, net: Network, data: Labeled | Unlabeled, found: Gradients) -> Fitted:
        stages = self.stages or (1 if self.update == "independent" else STAGES)
        damping = absolute(self.damping, mean_diagonal(found))
        widths = layer_blocks(net, self.block_size)
        first = isinstance(self, WoodFisher) and self.first_order
        fitted = FittedWoodFisher(
            net, data, found, damping, widths, self.update, stages, self.back_off, first, self.flops_power
        )
        _ = fitted.diagnostics, fitted.start  # the costly part belongs to `fit`
        return fitted


@dataclass(frozen=True, kw_only=True)
class WoodFisher(_Options, Pruner[Labeled]):
    """WoodFisher on labelled samples: empirical Fisher of single samples, or of mini-batches of `batch`.

    Args:
        first_order: the gradient of the loss belongs to the objective (WoodTaylor).
    """

    name: ClassVar[str] = "woodfisher"
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    order_invariant: ClassVar[bool] = True
    updates: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Singh & Alistarh 2020, empirical Fisher, inverse by the Woodbury identity, summed OBS updates"
    )
    fidelity: ClassVar[str] = "equal to the paper's recursion in float64; no published figure reproduced"
    fisher: Literal["empirical"] = "empirical"
    batch: int = 1
    first_order: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, batch=self.batch)

    def fit(self, net: Network, data: Labeled) -> Fitted:
        return tuned_or(self, net, data, self._alone)

    def _alone(self, net: Network, data: Labeled) -> Fitted:
        return self._fitted(net, data, gradients(net, data, self.fisher, batch=self.batch))


@dataclass(frozen=True, kw_only=True)
class WoodFisherUnlabeled(_Options, Pruner[Unlabeled]):
    """WoodFisher without labels: the Fisher of the network's own predictions, sampled `draws` times or exact."""

    name: ClassVar[str] = "woodfisher-unlabeled"
    patterns: ClassVar[tuple[str, ...]] = ("unstructured", "n:m")
    updates: ClassVar[bool] = True
    source: ClassVar[str] = "Singh & Alistarh 2020, the Fisher itself, with labels drawn from the model"
    fidelity: ClassVar[str] = "equal to a dense float64 inverse; not a published configuration"
    fisher: Literal["sampled", "exact", "logits"] = "sampled"
    draws: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, draws=self.draws)

    def fit(self, net: Network, data: Unlabeled) -> Fitted:
        return tuned_or(self, net, data, self._alone)

    def _alone(self, net: Network, data: Unlabeled) -> Fitted:
        probes = probes_of(net, data) if self.fisher == "logits" else None
        return self._fitted(net, data, gradients(net, data, self.fisher, draws=self.draws, probes=probes))


@dataclass(frozen=True, kw_only=True)
class WoodFisherLayer(WoodFisher):
    """Every layer brought to the target sparsity (the paper's independent layer thresholds)."""

    name: ClassVar[str] = "woodfisher-layer"
    scope: ClassVar[Scope] = "layer"


@dataclass(frozen=True, kw_only=True)
class WoodFisherMiniBatch(WoodFisher):
    """Mean gradients of pairs (the paper's `fisher_mini_bsz`): half the rows for the same samples."""

    name: ClassVar[str] = "woodfisher-minibatch"
    order_invariant: ClassVar[bool] = False
    batch: int = 2


@dataclass(frozen=True, kw_only=True)
class WoodFisherJoint(WoodFisher):
    """Exact set update, weights removed in 32 stages."""

    name: ClassVar[str] = "woodfisher-joint"
    update: Update = "joint"


@dataclass(frozen=True, kw_only=True)
class WoodFisherFullJoint(WoodFisher):
    """The full matrix, exact set update in 32 stages."""

    name: ClassVar[str] = "woodfisher-full-joint"
    block_size: BlockSize = None
    update: Update = "joint"


@dataclass(frozen=True, kw_only=True)
class WoodFisherUnlabeledJoint(WoodFisherUnlabeled):
    """Without labels: one sampled label a sample, exact set update in 32 stages."""

    name: ClassVar[str] = "woodfisher-unlabeled-joint"
    update: Update = "joint"


@dataclass(frozen=True, kw_only=True)
class WoodFisherExact(WoodFisherUnlabeled):
    """Without labels: the exact Fisher, a row for every class of every sample."""

    name: ClassVar[str] = "woodfisher-exact"
    order_invariant: ClassVar[bool] = True
    fisher: Literal["sampled", "exact", "logits"] = "exact"


@dataclass(frozen=True, kw_only=True)
class WoodFisherLogits(WoodFisherExact):
    """Without labels: a row for every centred logit of every sample, exact set update in 32 stages.

    `½‖Rδ‖²`, the predicted change, is half the mean squared change of the logits; λ is a share of its mean diagonal.
    """

    name: ClassVar[str] = "woodfisher-logits"
    source: ClassVar[str] = "Singh & Alistarh 2020, Woodbury identity; on the Gauss-Newton matrix of the logits"
    fisher: Literal["sampled", "exact", "logits"] = "logits"
    update: Update = "joint"
    damping: Damping = TENTH


@dataclass(frozen=True, kw_only=True)
class WoodTaylor(WoodFisher):
    """WoodFisher with the first-order term: the gradient of the loss on the samples belongs to the objective."""

    name: ClassVar[str] = "woodtaylor"
    source: ClassVar[str] = "Singh & Alistarh 2020, WoodTaylor"
    fidelity: ClassVar[str] = "equal to a dense float64 constrained minimum; no published figure reproduced"
    first_order: bool = True


@dataclass(frozen=True, kw_only=True)
class WoodTaylorJoint(WoodTaylor):
    """WoodTaylor with the exact set update, weights removed in 32 stages."""

    name: ClassVar[str] = "woodtaylor-joint"
    update: Update = "joint"
