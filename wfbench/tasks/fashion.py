"""Tasks on Fashion-MNIST (Xiao et al. 2017, MIT licence): 28x28 grey images of ten kinds of clothing."""

import gzip
import hashlib
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from wfbench.errors import NotFetched, WfbenchError
from wfbench.tasks.cache import cache_folder, content
from wfbench.tasks.checkpoints import accuracies, shipped
from wfbench.tasks.models import mlpnet, mobilenetv1, resnet20
from wfbench.tasks.task import Task
from wfbench.tasks.training import Moved

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CONTENTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
MEAN, STD = 0.2860, 0.3530
VALIDATION = 5000


def raw_folder() -> Path:
    """Where torchvision expects the decompressed idx files."""
    return cache_folder() / "FashionMNIST" / "raw"


def fetch() -> Path:
    """Put Fashion-MNIST into the cache folder, from Debian's package if installed, else through torchvision."""
    folder = raw_folder()
    if not all((folder / name).exists() for name in CONTENTS) and not _copy_from_debian(folder):
        try:
            _download()
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise WfbenchError(
                f"Fashion-MNIST could not be downloaded ({reason}); connect to the internet, install Debian's package "
                f"dataset-fashion-mnist, or put its four decompressed idx files into {folder}"
            ) from error
    verify(folder)
    return folder


def _download() -> None:
    """Imported here, or every command would wait seconds for torchvision."""
    from torchvision.datasets import FashionMNIST

    made = FashionMNIST.__new__(FashionMNIST)  # its __init__ reads what an old version may have left beside the files
    made.root = str(cache_folder())
    made.download()


def _copy_from_debian(folder: Path) -> bool:
    if not all((DEBIAN / f"{name}.gz").exists() for name in CONTENTS):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    for name in CONTENTS:
        part = folder / f"{name}.part"
        with gzip.open(DEBIAN / f"{name}.gz") as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
        part.replace(folder / name)
    return True


def verify(folder: Path) -> dict[str, bytes]:
    """The contents of the four files, checked against their SHA-256."""
    found = {name: content(folder / name, "run `wfbench fetch fashion-mlpnet`") for name in CONTENTS}
    for name, text in found.items():
        if hashlib.sha256(text).hexdigest() != CONTENTS[name]:
            remedy = "delete it and run `wfbench fetch fashion-mlpnet`"
            raise WfbenchError(f"{folder / name} is damaged (wrong SHA-256); {remedy}")
    return found


@cache
def fashion() -> dict[str, tuple[Tensor, Tensor]]:
    """Normalised inputs [n, 1, 28, 28] and labels: train 55 000, validation the last 5 000 of train, test 10 000."""
    folder = raw_folder()
    if not folder.exists() and not _copy_from_debian(folder):
        raise NotFetched(f"Fashion-MNIST is not in {folder}; run `wfbench fetch fashion-mlpnet` once")
    files = verify(folder)
    x, y = _pair(files, "train")
    return {
        "train": (x[:-VALIDATION], y[:-VALIDATION]),
        "validation": (x[-VALIDATION:], y[-VALIDATION:]),
        "test": _pair(files, "t10k"),
    }


def _pair(files: Mapping[str, bytes], part: str) -> tuple[Tensor, Tensor]:
    """Inputs and labels from the verified files."""
    images, labels = (_bytes(files[f"{part}-{kind}-ubyte"]) for kind in ("images-idx3", "labels-idx1"))
    return images.to(torch.float32).div_(255).sub_(MEAN).div_(STD).unsqueeze(1), labels.long()


def _bytes(idx: bytes) -> UInt8[Tensor, "..."]:
    """What an idx file holds: behind two zeros, the type (8, bytes) and the number of axes come their lengths."""
    axes = idx[3]
    lengths = np.frombuffer(idx, ">u4", axes, offset=4)
    return torch.from_numpy(np.frombuffer(idx, np.uint8, offset=4 + 4 * axes).reshape(lengths).copy())


def _task(name: str, about: str, build: Callable[[], nn.Module]) -> Task:
    return Task(
        name,
        shipped(name, build),
        train=lambda: fashion()["train"],
        validation=lambda: fashion()["validation"],
        test=lambda: fashion()["test"],
        accuracies=accuracies(name),
        augment=Moved(shift=2, flip=True),
        about=about,
        fetch=fetch,
    )


TASKS = (
    _task("fashion-mlpnet", "784-40-20-10 perceptron on Fashion-MNIST", mlpnet),
    _task("fashion-resnet20", "CIFAR-style ResNet-20 on Fashion-MNIST", resnet20),
    _task("fashion-mobilenetv1", "MobileNetV1 x0.25, depthwise-separable, on Fashion-MNIST", mobilenetv1),
)
