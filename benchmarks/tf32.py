"""What CUDA's TF32 kernels would give, on the processor: factors rounded to 10 bits, products summed in float32."""

from typing import Any

import torch
from torch import Tensor, backends
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {
    **dict.fromkeys((aten.mm.default, aten.bmm.default, aten.linear.default), (0, 1)),
    **dict.fromkeys((aten.addmm.default, aten.addmm_.default, aten.baddbmm.default, aten.baddbmm_.default), (1, 2)),
}
"""Matrix products, and which of their arguments are factors; the others are added."""
CONVOLUTIONS = {
    **dict.fromkeys((aten.convolution.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), (0, 1)),
    aten.convolution_backward.default: (0, 1, 2),
}


def rounded(x: Tensor) -> Tensor:
    """To the nearest of 10 bits after the point, ties away from zero, as `cvt.rna.tf32` does."""
    kept = ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return torch.where(x.isfinite(), kept, x)


class AsOnCuda(TorchDispatchMode):
    """Rounds the float32 factors of products and convolutions wherever the flags in force would have CUDA do so.

    Counts the calls with rounded and with whole factors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whole = self.rounded = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        factors = PRODUCTS.get(call) or CONVOLUTIONS.get(call, ())
        if factors and args[factors[0]].dtype == torch.float32:
            flags: Any = backends.cuda.matmul if call in PRODUCTS else backends.cudnn.conv  # type: ignore[attr-defined]
            if flags.fp32_precision == "tf32":
                self.rounded += 1
                args = [rounded(one) if at in factors else one for at, one in enumerate(args)]
            else:
                self.whole += 1
        return call(*args, **(kwargs or {}))
