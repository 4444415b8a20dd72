"""oBERT. Kurtic et al. 2022, "The optimal BERT surgeon: scalable and accurate second-order pruning for large language
models".

Fidelity: their Fisher blocks of 50 and λ = 1e-7, the defaults of their code, by WoodFisher's own code: equal to a dense
float64 inverse of the blocks. They prune gradually, with training in between; here it is one shot, from every sample's
gradient. No published figure reproduced.
"""

from dataclasses import dataclass
from typing import ClassVar

from wfbench import WoodFisher
from wfbench.toolbox import BlockSize, Damping


@dataclass(frozen=True, kw_only=True)
class OBERT(WoodFisher):
    """WoodFisher with blocks of 50 and λ = 1e-7."""

    name: ClassVar[str] = "obert"
    source: ClassVar[str] = "Kurtic et al. 2022, unstructured"
    fidelity: ClassVar[str] = "equal to a dense float64 inverse of its blocks; no published figure reproduced"
    damping: Damping = 1e-7
    block_size: BlockSize = 50
