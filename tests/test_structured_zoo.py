"""Structured removal and repair over common networks, narrow, with random weights: right, or refused by name."""

from collections.abc import Callable
from functools import partial
from warnings import catch_warnings, simplefilter

import pytest
import torch
from torch import Tensor, nn

from tests.cases import REGISTRY
from wfbench import RECOVERIES, Filter, Network, Target, Unlabeled, WfbenchError

with catch_warnings():
    simplefilter("ignore")
    from timm.models import ConvNeXt, ResNet, VisionTransformer
    from timm.models.resnet import BasicBlock, Bottleneck
    from torchvision.models import DenseNet, EfficientNet, MobileNetV2, MobileNetV3, RegNet, SwinTransformer
    from torchvision.models.efficientnet import MBConvConfig
    from torchvision.models.mobilenetv3 import InvertedResidualConfig
    from torchvision.models.regnet import BlockParams

IMAGE = (3, 16, 16)
CLASSES = 4


def mobilenet_v3() -> nn.Module:
    settings = [(8, 3, 16, 8, True, "RE", 1, 1), (8, 3, 16, 12, False, "HS", 2, 1), (12, 5, 24, 12, True, "HS", 1, 1)]
    return MobileNetV3([InvertedResidualConfig(*setting, 1.0) for setting in settings], 16, num_classes=CLASSES)


def efficientnet() -> nn.Module:
    settings = [MBConvConfig(1, 3, 1, 8, 8, 1), MBConvConfig(2, 3, 2, 8, 12, 2)]
    return EfficientNet(settings, dropout=0.0, last_channel=16, num_classes=CLASSES)


def regnet(group: int) -> nn.Module:
    return RegNet(BlockParams([1, 1], [8, 16], [group, group], [1.0, 1.0], [2, 2], 0.25), CLASSES, stem_width=8)


class UNet(nn.Module):
    """Down, up by interpolation, a skip that is concatenated, and a head that classifies."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.up, self.join = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(12, 5, 3, padding=1)
        self.out = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        left = torch.relu(self.down1(x))
        back = nn.functional.interpolate(torch.relu(self.down2(left)), scale_factor=2)
        found: Tensor = self.out(torch.relu(self.join(torch.cat([left, torch.relu(self.up(back))], 1))).mean((2, 3)))
        return found


class Transposed(nn.Module):
    """Goes up by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.out = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(torch.relu(self.up(torch.relu(self.down(x)))).mean((2, 3)))
        return found


def convolutions(kind: type[nn.Module], flat: int) -> nn.Module:
    return nn.Sequential(
        kind(2, 6, 3, padding=1), nn.ReLU(), kind(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(flat, CLASSES)
    )


class Recurrent(nn.Module):
    """A convolution whose outputs a recurrent layer reads in order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.order = nn.Conv1d(2, 6, 3), nn.Conv1d(6, 5, 3), nn.LSTM(5, 6, batch_first=True)
        self.out = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        read, _ = self.order(torch.relu(self.second(torch.relu(self.first(x)))).transpose(1, 2))
        found: Tensor = self.out(read[:, -1])
        return found


class Encoder(nn.Module):
    """Tokens of features, a transformer layer, the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.layer(self.token(x)).mean(1))
        return found


class Decoder(nn.Module):
    """Tokens, a block with a norm and a hidden layer, a head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(CLASSES, 8), nn.LayerNorm(8)
        self.wide, self.narrow, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, CLASSES, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding((x * 10).long() % CLASSES)
        x = x + self.narrow(torch.relu(self.wide(self.norm(x))))
        found: Tensor = self.head(x[:, -1])
        return found


vit = partial(VisionTransformer, 16, 8, num_classes=CLASSES, embed_dim=12, depth=1, num_heads=3)
RIGHT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (partial(ResNet, BasicBlock, (1, 1, 1, 1), CLASSES, channels=(4, 4, 6, 6), stem_width=4), IMAGE),
    "bottlenecks": (partial(ResNet, Bottleneck, (1, 1, 1, 1), CLASSES, channels=(2, 2, 3, 3), stem_width=4), IMAGE),
    "densenet": (partial(DenseNet, 4, (2, 2), 8, 2, 0, CLASSES), IMAGE),
    "mobilenetv2": (partial(MobileNetV2, CLASSES, 0.1, [[1, 8, 1, 1], [3, 8, 2, 2]]), IMAGE),
    "mobilenetv3": (mobilenet_v3, IMAGE),
    "efficientnet": (efficientnet, IMAGE),
    "depthwise regnet": (partial(regnet, 1), IMAGE),
    "convnext": (partial(ConvNeXt, num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(4, 6, 6, 6)), (3, 32, 32)),
    "u-net": (UNet, IMAGE),
    "1-d convolutions": (partial(convolutions, nn.Conv1d, 4 * 6), (2, 8)),
    "3-d convolutions": (partial(convolutions, nn.Conv3d, 4 * 8), (2, 4, 4, 4)),
    "vit": (vit, IMAGE),  # heads, and the width between
    "transformer encoder": (Encoder, (5, 4)),
    "decoder": (Decoder, (5,)),
}
REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "resnext": (
        partial(
            ResNet, Bottleneck, (1, 1, 1, 1), CLASSES, channels=(4, 4, 8, 8), stem_width=4, cardinality=2, base_width=32
        ),
        IMAGE,
        r"layer1\.0\.conv2 is a grouped convolution that is not depthwise",
    ),
    "regnet": (partial(regnet, 4), IMAGE, "is a grouped convolution that is not depthwise"),
    "swin": (
        partial(SwinTransformer, [4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=CLASSES),
        (3, 32, 32),
        r"channels of features\.3\.0\.mlp\.3 cannot be followed",
    ),
    "transposed": (Transposed, IMAGE, "up is a transposed convolution"),
    "recurrent": (Recurrent, (2, 9), "second"),
}


def network(build: Callable[[], nn.Module]) -> Network:
    torch.manual_seed(0)
    module = build().double().eval()
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, 1.0 if name.endswith("weight") and parameter.ndim == 1 else 0.0, 0.3)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2)
    return Network(module)


@pytest.mark.parametrize("name", RIGHT)
def test_removal_and_repair_are_right(name: str) -> None:
    """Masked and shrunk network agree, torch counts what the target asks for, repair keeps all of it and helps."""
    build, shape = RIGHT[name]
    net, pattern, x = network(build), Filter(shape), torch.rand(6, *shape).double()
    target = Target(0.15, pattern, of="macs")
    pruned = REGISTRY.pruner("random-filter").fit(net, None).prune(target)
    repaired = RECOVERIES["repair"].apply(net, pruned, Unlabeled(x))
    distances = []
    for found in (pruned, repaired):
        measured = pattern.measured(net, found, x[:1])
        assert pattern.achieved(target, net, found, x[:1]) == 1 - measured["macs"] / measured["dense_macs"] >= 0.15
        distances.append(float((net.logits(found.state, x) - net.logits({}, x)).square().sum()))
    assert distances[1] < distances[0]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    build, shape, reason = REFUSED[name]
    net, pattern = network(build), Filter(shape)
    with pytest.raises(WfbenchError, match=reason):
        pattern.measured(
            net,
            REGISTRY.pruner("random-filter").fit(net, None).prune(Target(0.15, pattern, of="macs")),
            torch.zeros(1, *shape),
        )
