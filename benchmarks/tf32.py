"""What CUDA's TF32 kernels would give, on the processor: factors rounded to 10 bits, products summed in float32."""

from typing import Any

import torch
from torch import Tensor, backends
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)
CONVOLUTIONS = (aten.convolution.default, aten.convolution_backward.default)
ADDED = {aten.addmm.default: 0, aten.baddbmm.default: 0}
"""Where the argument stands that is added, and no factor."""


def rounded(x: Tensor) -> Tensor:
    """To the nearest of 10 bits after the point, ties away from zero, as `cvt.rna.tf32` does."""
    kept = ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return torch.where(x.isfinite(), kept, x)


class AsOnCuda(TorchDispatchMode):
    """Rounds the float32 factors of products and convolutions wherever the flags in force would have CUDA do so."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = self.rounded = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call in PRODUCTS or call in CONVOLUTIONS:
            flags = backends.cuda.matmul if call in PRODUCTS else backends.cudnn.conv  # type: ignore[attr-defined]
            factors = [one for at, one in enumerate(args) if isinstance(one, Tensor) and at != ADDED.get(call)]
            if any(one.dtype == torch.float32 for one in factors):
                if flags.fp32_precision == "tf32":
                    self.rounded += 1
                    args = [one if at == ADDED.get(call) else tree_map(_coarse, one) for at, one in enumerate(args)]
                else:
                    self.whole += 1
        return call(*args, **(kwargs or {}))


def _coarse(value: Any) -> Any:
    return rounded(value) if isinstance(value, Tensor) and value.dtype == torch.float32 else value
