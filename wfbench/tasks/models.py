"""The small networks of the built-in tasks, for grey 8x8 and 28x28 images and coloured 32x32 ones."""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def conv_norm(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then BatchNorm."""
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(cout)))


def mlpnet() -> nn.Module:
    """784-40-20-10 perceptron, the MLPNet of Singh & Alistarh 2020, section 5."""
    layers = OrderedDict[str, nn.Module](
        flatten=nn.Flatten(),
        fc1=nn.Linear(784, 40),
        relu1=nn.ReLU(),
        fc2=nn.Linear(40, 20),
        relu2=nn.ReLU(),
        fc3=nn.Linear(20, 10),
    )
    return nn.Sequential(layers)


def digits_cnn() -> nn.Module:
    """Two convolutions and one linear layer for 8x8 digits."""
    layers = OrderedDict[str, nn.Module](
        conv1=conv_norm(1, 16, 3),
        relu1=nn.ReLU(),
        conv2=conv_norm(16, 32, 3),
        relu2=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc=nn.Linear(512, 10),
    )
    return nn.Sequential(layers)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; a 1x1 projection where the shape changes."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(cin, cout, 3, stride)
        self.second = conv_norm(cout, cout, 3)
        same = stride == 1 and cin == cout
        self.shortcut = nn.Identity() if same else conv_norm(cin, cout, 1, stride)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d u v"]:
        out = self.second(torch.relu(self.first(x)))
        return torch.relu(out + self.shortcut(x))


def resnet20() -> nn.Module:
    """The CIFAR ResNet-20 (He et al. 2016, section 4.2) with projection shortcuts (their option B)."""
    layers = OrderedDict[str, nn.Module](stem=conv_norm(1, 16, 3), relu=nn.ReLU())
    cin = 16
    for stage, cout in enumerate((16, 32, 64), start=1):
        for block in range(3):
            stride = 2 if stage > 1 and block == 0 else 1
            layers[f"block{stage}_{block}"] = BasicBlock(cin, cout, stride)
            cin = cout
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(64, 10))
    return nn.Sequential(layers)


def mobilenetv1() -> nn.Module:
    """MobileNetV1 (Howard et al. 2017, table 1) at width 0.25, with the first two strides at 1 for 28x28 images."""
    layers = OrderedDict[str, nn.Module](stem=conv_norm(1, 8, 3), stem_relu=nn.ReLU())
    plan = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 1), (256, 1)]
    cin = 8
    for index, (cout, stride) in enumerate(plan):
        layers[f"depth{index}"] = conv_norm(cin, cin, 3, stride, groups=cin)
        layers[f"depth{index}_relu"] = nn.ReLU()
        layers[f"point{index}"] = conv_norm(cin, cout, 1)
        layers[f"point{index}_relu"] = nn.ReLU()
        cin = cout
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(256, 10))
    return nn.Sequential(layers)


class PaddedShortcut(nn.Module):
    """Every second pixel, and channels of zeros on both sides: the shortcut without weights of He et al. 2016 (A)."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.sides = (cout - cin) // 2

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d u v"]:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.sides, self.sides))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights, its parts named as in public CIFAR-10 checkpoints."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut = nn.Identity() if stride == 1 else PaddedShortcut(cin, cout)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d u v"]:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


def cifar_resnet(blocks: int) -> nn.Module:
    """The ResNet for 32x32 pictures of He et al. 2016, section 4.2, with 6 `blocks` + 2 layers (their option A)."""
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(3, 16, 3, 1, 1, bias=False), bn1=nn.BatchNorm2d(16), relu=nn.ReLU()
    )
    cin = 16
    for stage, cout in enumerate((16, 32, 64), start=1):
        first = CifarBlock(cin, cout, 1 if stage == 1 else 2)
        layers[f"layer{stage}"] = nn.Sequential(first, *(CifarBlock(cout, cout, 1) for _ in range(blocks - 1)))
        cin = cout
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(64, 10))
    return nn.Sequential(layers)
