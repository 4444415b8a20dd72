"""Narrow networks of the kinds that people bring, with random weights, on tiny inputs, in float64.

Each is built by a function of no arguments, and comes with the shape of one input.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig

CLASSES = 3
"""Logits of every network."""


@dataclass(frozen=True)
class Animal:
    """A network of the zoo.

    Args:
        build: makes it.
        shape: of one input.
        tokens: how many there are, where inputs are tokens, whole numbers.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tokens: int | None = None

    def network(self) -> nn.Module:
        """In eval mode, the statistics of its norms not the initial ones; the same at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = self.build().double().eval()
            for layer in module.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
                    layer.running_mean.normal_(std=0.1)
                    layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            return module

    def inputs(self, n: int, seed: int = 1) -> Tensor:
        """n of them."""
        generator = torch.Generator().manual_seed(seed)
        if self.tokens is not None:
            return torch.randint(self.tokens, (n, *self.shape), generator=generator).double()
        return torch.randn(n, *self.shape, dtype=torch.float64, generator=generator)


class NarrowResNet(torchvision.models.ResNet):
    """torchvision's, with a sixteenth of the channels behind the first convolution."""

    def __init__(self, block: type[nn.Module], **options: int) -> None:
        super().__init__(block, [1, 1, 1, 1], CLASSES, **options)
        self.fc = nn.Linear(self.inplanes, CLASSES)

    def _make_layer(self, block: type[nn.Module], planes: int, *args: int, **options: int) -> nn.Sequential:
        return super()._make_layer(block, planes // 16, *args, **options)


def resnet() -> nn.Module:
    return NarrowResNet(torchvision.models.resnet.BasicBlock)


def resnext() -> nn.Module:
    return NarrowResNet(torchvision.models.resnet.Bottleneck, groups=2, width_per_group=32)


def densenet() -> nn.Module:
    return torchvision.models.DenseNet(4, (2, 2), 8, 2, num_classes=CLASSES)


def mobilenet_v2() -> nn.Module:
    return torchvision.models.MobileNetV2(CLASSES, 0.25, [[1, 16, 1, 1], [4, 32, 2, 2]])


class UNet(nn.Module):
    """Two scales, a transposed convolution between them, and a head on what it paints."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect")
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.paint, self.head = nn.Conv2d(8, 2, 3, padding=1, padding_mode="circular"), nn.Linear(2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        fine = torch.relu(self.down(x))
        coarse = torch.relu(self.norm(self.deep(nn.functional.max_pool2d(fine, 2))))
        return self.head(self.paint(torch.cat([fine, self.up(coarse)], 1)).mean((2, 3)))


class Recurrent(nn.Module):
    """A head on the last state of an LSTM on a line's convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.memory = nn.Conv1d(2, 4, 3), nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.memory(self.line(x).transpose(1, 2))
        return self.head(states[:, -1])


class Encoder(nn.Module):
    """torch's own encoder, with the batch in front or not."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.first, layer = batch_first, nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first)
        self.words, self.encoder = nn.Linear(3, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        words = self.words(x)
        return self.head(self.encoder(words).mean(1) if self.first else self.encoder(words.transpose(0, 1)).mean(0))


class Decoder(nn.Module):
    """Reads tokens and tells the next one by the words that it reads with."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(CLASSES, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES, bias=False)
        self.norm, self.head.weight = nn.LayerNorm(6), self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.tanh(self.mix(self.words(x.long())).mean(1))))


def mobilenet_v3() -> nn.Module:
    settings = [
        InvertedResidualConfig(8, 3, 16, 8, True, "RE", 2, 1, 1),
        InvertedResidualConfig(8, 5, 16, 8, True, "HS", 1, 1, 1),
    ]
    return torchvision.models.MobileNetV3(settings, 16, num_classes=CLASSES)


def efficientnet() -> nn.Module:
    settings = [MBConvConfig(1, 3, 1, 8, 8, 1), MBConvConfig(2, 5, 2, 8, 16, 1)]
    return torchvision.models.EfficientNet(settings, 0.2, num_classes=CLASSES, last_channel=16)


def regnet() -> nn.Module:
    settings = torchvision.models.regnet.BlockParams([1, 1], [8, 16], [4, 8], [1.0, 1.0], [2, 2], 0.25)
    return torchvision.models.RegNet(settings, num_classes=CLASSES, stem_width=8)


def convnext() -> nn.Module:
    setting = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt([setting(8, 12, 1), setting(12, None, 1)], layer_scale=0.5, num_classes=CLASSES)


def vit() -> nn.Module:
    return torchvision.models.VisionTransformer(16, 8, 2, 2, 8, 12, num_classes=CLASSES)


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], 1.0, num_classes=CLASSES)


def line() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding="same", dilation=2),
        nn.ReLU(inplace=True),
        nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.BatchNorm1d(6),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


def volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 4, 2, padding=1, padding_mode="replicate"),
        nn.GroupNorm(2, 4),
        nn.GELU(),
        nn.ConvTranspose3d(4, 2, 2, stride=2),
        nn.AdaptiveAvgPool3d(2),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def pads_itself() -> nn.Module:
    """timm's convolution with TensorFlow's padding."""
    same = import_module("timm.layers").Conv2dSame
    return nn.Sequential(
        *(same(2, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), same(4, 6, 5, 2, groups=2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)),
    )


def standardised() -> nn.Module:
    """timm's convolution that standardises its weight before it multiplies it."""
    layers = import_module("timm.layers")
    return nn.Sequential(
        *(layers.StdConv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)),
    )


def timm_vit() -> nn.Module:
    kind = import_module("timm.models").VisionTransformer
    return kind(16, 8, num_classes=CLASSES, embed_dim=8, depth=2, num_heads=2, mlp_ratio=1.5)


def timm_nfnet() -> nn.Module:
    kind = import_module("timm.models.nfnet")
    setting = kind.NfCfg(
        depths=(1, 1), channels=(8, 16), stem_type="3x3", group_size=4, bottle_ratio=0.5, num_features=16
    )
    return kind.NormFreeNet(setting, num_classes=CLASSES)


PICTURE = (3, 16, 16)

ZOO = {
    "resnet": Animal(resnet, PICTURE),
    "resnext": Animal(resnext, PICTURE),
    "densenet": Animal(densenet, PICTURE),
    "mobilenet-v2": Animal(mobilenet_v2, PICTURE),
    "mobilenet-v3": Animal(mobilenet_v3, PICTURE),
    "efficientnet": Animal(efficientnet, PICTURE),
    "regnet": Animal(regnet, PICTURE),
    "convnext": Animal(convnext, PICTURE),
    "vit": Animal(vit, PICTURE),
    "swin": Animal(swin, PICTURE),
    "unet": Animal(UNet, (2, 8, 8)),
    "line": Animal(line, (2, 7)),
    "volume": Animal(volume, (1, 4, 4, 4)),
    "recurrent": Animal(Recurrent, (2, 6)),
    "encoder": Animal(lambda: Encoder(batch_first=True), (5, 3)),
    "encoder, batch behind": Animal(lambda: Encoder(batch_first=False), (5, 3)),
    "decoder": Animal(Decoder, (4,), tokens=CLASSES),
}

TIMM = {
    "pads itself": Animal(pads_itself, (2, 8, 8)),
    "standardised": Animal(standardised, (2, 8, 8)),
    "timm vit": Animal(timm_vit, PICTURE),
    "timm nfnet": Animal(timm_nfnet, PICTURE),
}
"""Of an optional library."""

if find_spec("timm"):
    ZOO |= TIMM
