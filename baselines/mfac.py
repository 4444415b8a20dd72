"""M-FAC. Frantar, Kurtic & Alistarh 2021, "M-FAC: Efficient matrix-free approximations of second-order information".

Fidelity: the inverse of their static algorithm, by WoodFisher's own code: equal to a dense float64 inverse. λ and the
number of gradients are WoodFisher's. No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

from wfbench import WoodFisher
from wfbench.toolbox import BlockSize


@dataclass(frozen=True, kw_only=True)
class MFAC(WoodFisher):
    """WoodFisher with the full matrix: M-FAC computes the same inverse, matrix-free."""

    name: ClassVar[str] = "mfac"
    source: ClassVar[str] = "Frantar et al. 2021, the static algorithm, without blocks"
    fidelity: ClassVar[str] = "equal to a dense float64 inverse; no published figure reproduced"
    block_size: BlockSize = None
