"""Small networks that do with their channels what people's networks do; inputs `[n, 2, 6, 6]`, three classes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import glu, pad, relu


def conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


class Odd(nn.Module):
    """Layers by name, the last one `head`."""

    a: nn.Module
    b: nn.Module
    c: nn.Module
    norm: nn.Module
    up: nn.Module
    qkv: nn.Module
    out: nn.Module
    lstm: nn.Module
    scale: Tensor

    def __init__(self, head: int, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.head = nn.Linear(head, 3)

    def pooled(self, x: Tensor) -> Tensor:
        return self.head(relu(x).mean((2, 3)))


class Shuffled(Odd):
    def __init__(self) -> None:
        super().__init__(8, a=conv(2, 8), b=conv(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.a(x))
        n, c, h, w = x.shape
        return self.pooled(self.b(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)))


class AcrossChannels(Odd):
    def __init__(self) -> None:
        super().__init__(8, a=conv(2, 8), norm=nn.LocalResponseNorm(3, alpha=1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.norm(relu(self.a(x))))


class Permuted(Odd):
    def __init__(self) -> None:
        super().__init__(8 * 36, a=conv(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(relu(self.a(x)).permute(0, 2, 3, 1).flatten(1))


class FixedView(Odd):
    def __init__(self) -> None:
        super().__init__(64, a=nn.Conv2d(2, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(relu(self.a(x)).view(-1, 64))


class Positions(Odd):
    def __init__(self) -> None:
        super().__init__(8, a=conv(2, 8, 1), b=nn.Linear(8, 8))
        self.positions = nn.Parameter(torch.randn(1, 36, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(relu(self.b(self.a(x).flatten(2).mT + self.positions)).mean(1))


class ChannelBuffer(Odd):
    def __init__(self) -> None:
        super().__init__(8, a=conv(2, 8))
        self.register_buffer("scale", torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(relu(self.a(x)) * self.scale[:, None, None])


class Chunked(Odd):
    def __init__(self) -> None:
        super().__init__(8, a=conv(2, 8), b=conv(4, 4), c=conv(12, 8, 1))

    def parts(self, x: Tensor) -> Any:
        return x.chunk(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.parts(relu(self.a(x)))
        return self.pooled(self.c(torch.cat([one, two, relu(self.b(two))], 1)))


class Split(Chunked):
    def parts(self, x: Tensor) -> Any:
        return x.split(4, 1)


class Gated(Odd):
    def __init__(self) -> None:
        super().__init__(8, a=conv(2, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(glu(self.a(x), 1))


class PixelShuffled(Odd):
    def __init__(self) -> None:
        super().__init__(6, a=conv(2, 16), up=nn.PixelShuffle(2), b=conv(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.b(self.up(relu(self.a(x)))))


class Attention(Odd):
    """With queries, keys and values of one layer."""

    def __init__(self) -> None:
        super().__init__(8, a=conv(2, 8, 1), qkv=nn.Linear(8, 24), out=nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.a(x).flatten(2).mT).chunk(3, -1)
        return self.head(relu(self.out((q @ k.mT / 8**0.5).softmax(-1) @ v)).mean(1))


class PaddedShortcut(Odd):
    def __init__(self) -> None:
        super().__init__(8, a=conv(2, 4), b=conv(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.a(x))
        return self.pooled(self.b(x) + pad(x, (0, 0, 0, 0, 2, 2)))


class Einsum(Odd):
    def __init__(self) -> None:
        super().__init__(5, a=conv(2, 8))
        self.mixing = nn.Parameter(torch.randn(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(relu(torch.einsum("nchw,cd->nd", relu(self.a(x)), self.mixing)))


class PlainList(Odd):
    def __init__(self) -> None:
        super().__init__(8, a=conv(2, 8))
        self.blocks = [conv(8, 8)]

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.blocks[0](relu(self.a(x))))


class Recurrent(Odd):
    def __init__(self) -> None:
        super().__init__(6, a=conv(2, 8), lstm=nn.LSTM(8, 6, batch_first=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(relu(self.a(x)).flatten(2).mT)[0][:, -1])
