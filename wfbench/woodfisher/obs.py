"""The optimal brain surgeon on flat float64 vectors: saliencies and updates, one weight, many, sets.

Hassibi & Stork 1993, eq. 5; Singh & Alistarh 2020, eq. 10-11 and appendix S1.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wfbench.curvature.inverse import WoodburyInverse


def saliency(w: Float[Tensor, " p"], diagonal: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """Predicted loss increase of removing each weight alone, `w²/(2[A⁻¹]_qq)`, nats."""
    return w.square() / (2 * diagonal)


def independent_update(
    inverse: WoodburyInverse, diagonal: Float[Tensor, " p"], w: Float[Tensor, " p"], mask: Bool[Tensor, " p"]
) -> Float[Tensor, " p"]:
    """The weights after the sum over removed q of the updates `−A⁻¹e_q w_q/[A⁻¹]_qq`, then the mask."""
    pulled = torch.where(mask, 0, w / diagonal)
    return torch.where(mask, w - inverse.solve(pulled), 0)


def joint_update(inverse: WoodburyInverse, w: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """The weights after the exact set update `w_K += A_KK⁻¹A_KQ w_Q`, for the inverse's own `kept` K."""
    return _moved(inverse, w, inverse.compensate(w))


def joint_update_and_rescore(
    inverse: WoodburyInverse, w: Float[Tensor, " p"]
) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """`joint_update` and `diag(A_KK⁻¹)`, from one factorisation."""
    moved, diagonal = inverse.compensate_and_rescore(w)
    return _moved(inverse, w, moved), diagonal


def _moved(inverse: WoodburyInverse, w: Float[Tensor, " p"], by: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    return w + by if inverse.kept is None else torch.where(inverse.kept, w + by, 0)


def set_saliency(inverse: WoodburyInverse, w: Float[Tensor, " p"]) -> float:
    """Predicted loss increase of removing all of Q at once, `½w_Qᵀ([A⁻¹]_QQ)⁻¹w_Q`, nats; Q outside `kept`."""
    return inverse.energy(w)
