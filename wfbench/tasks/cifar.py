"""Tasks on CIFAR-10 (Krizhevsky 2009): 32x32 coloured pictures of ten kinds, as published and as JPEG files."""

import hashlib
import io
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from wfbench.errors import WfbenchError
from wfbench.tasks.cache import cache_folder, content
from wfbench.tasks.checkpoints import accuracies, shipped
from wfbench.tasks.models import cifar_resnet
from wfbench.tasks.task import Task
from wfbench.tasks.training import Moved

JPEG = {
    "train-00000-of-00001.parquet": "0ccd472cc6139c324ce33fafcf54771cc5b3a5acd9e0e8a21f849336287e16cf",
    "test-00000-of-00001.parquet": "1936fbb9d13e47e82bbda47920182b9a7445f5a07d5cb63bcee47e45809f414f",
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VALIDATION = 5000

Splits = dict[str, tuple[Tensor, Tensor]]


def fetch() -> Path:
    """Put CIFAR-10 into the cache folder through torchvision.

    Raises:
        WfbenchError: no download, or a file that is damaged, by its MD5 in torchvision.
    """
    if not all(path.exists() for path in _published()):
        try:
            _torchvisions(train=True, download=True)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise WfbenchError(
                f"CIFAR-10 could not be downloaded ({reason}); connect to the internet, or unpack "
                f"cifar-10-python.tar.gz in {cache_folder()}"
            ) from error
    return _verified_published()


def _torchvisions(**options: bool) -> Any:
    """torchvision's data set in the cache folder; imported here, or every command would wait seconds for it."""
    from torchvision.datasets import CIFAR10

    return CIFAR10(str(cache_folder()), **options)


def _published() -> dict[Path, str]:
    """The published files and their MD5."""
    from torchvision.datasets import CIFAR10

    folder = cache_folder() / CIFAR10.base_folder
    return {folder / name: md5 for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list)}


def _verified_published() -> Path:
    for path, md5 in _published().items():
        if hashlib.md5(content(path, "run `wfbench fetch cifar10-resnet20` once")).hexdigest() != md5:
            raise WfbenchError(f"{path} is damaged (wrong MD5); delete it and run `wfbench fetch cifar10-resnet20`")
    return path.parent


def fetch_jpeg() -> Path:
    """The folder `cifar10-jpeg` of the cache, which the user fills, verified.

    Raises:
        WfbenchError: a file that is missing, or damaged, by its SHA-256.
    """
    folder = cache_folder() / "cifar10-jpeg"
    for name, expected in JPEG.items():
        path = folder / name
        remedy = (
            f"copy or link a folder that holds {' and '.join(JPEG)} to {folder}: nothing is downloaded for this task"
        )
        if hashlib.sha256(content(path, remedy)).hexdigest() != expected:
            raise WfbenchError(
                f"{path} is not the file that the checkpoints know (wrong SHA-256); put the right one there"
            )
    return folder


@cache
def published() -> Splits:
    """Pixels [n, 3, 32, 32] in uint8 and labels: train 45 000, validation the last 5 000 of train, test 10 000."""
    _verified_published()
    parts = {name: _torchvisions(train=name == "train") for name in ("train", "test")}
    return _split(
        {
            name: (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
            for name, part in parts.items()
        }
    )


@cache
def jpeg() -> Splits:
    """The same pictures after JPEG, split in the same way."""
    folder = fetch_jpeg()
    return _split({name.split("-")[0]: read_parquet(folder / name) for name in JPEG})


def read_parquet(path: Path) -> tuple[UInt8[Tensor, "n 3 h w"], Tensor]:
    """Pixels and labels of a parquet file with columns `img.bytes` (an encoded picture) and `label`."""
    import pandas
    from PIL import Image

    table = pandas.read_parquet(path, columns=["img", "label"])
    pictures = [np.asarray(Image.open(io.BytesIO(one["bytes"])).convert("RGB")) for one in table["img"]]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.tensor(table["label"].tolist())


def _split(pairs: Splits) -> Splits:
    x, y = pairs["train"]
    return {
        "train": (x[:-VALIDATION], y[:-VALIDATION]),
        "validation": (x[-VALIDATION:], y[-VALIDATION:]),
        "test": pairs["test"],
    }


def normalise(pixels: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """In float32, scaled to [0, 1], less the mean and over the deviation of each colour in the networks' training."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels.to(torch.float32) / 255 - mean) / std


RESNET20, RESNET56 = partial(cifar_resnet, 3), partial(cifar_resnet, 9)


def _task(name: str, about: str, build: Callable[[], nn.Module], splits: Callable[[], Splits]) -> Task:
    """A task of a network; every user has to bring the JPEG files, and CIFAR-10 itself is 170 MB."""
    return Task(
        name,
        shipped(name, build),
        train=lambda: splits()["train"],
        validation=lambda: splits()["validation"],
        test=lambda: splits()["test"],
        transform=normalise,
        augment=Moved(shift=4, flip=True),
        accuracies=accuracies(name),
        about=about,
        fetch=fetch if splits is published else fetch_jpeg,
        on_request=True,
    )


TASKS = (
    _task("cifar10-resnet20", "ResNet-20 on CIFAR-10, by akamaster/pytorch_resnet_cifar10", RESNET20, published),
    _task("cifar10-resnet56", "ResNet-56 on CIFAR-10, by akamaster/pytorch_resnet_cifar10", RESNET56, published),
    _task("cifar10-jpeg-resnet20", "the same ResNet-20 fine-tuned on CIFAR-10 as JPEG of quality 75", RESNET20, jpeg),
    _task("cifar10-jpeg-resnet56", "the same ResNet-56 fine-tuned on CIFAR-10 as JPEG of quality 75", RESNET56, jpeg),
)
