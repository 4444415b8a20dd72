"""Tasks on scikit-learn's 8x8 digits: the embedded default, nothing to download."""

import gzip
from functools import cache
from importlib.metadata import distribution
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from wfbench.tasks.cache import content
from wfbench.tasks.checkpoints import accuracies, shipped
from wfbench.tasks.models import digits_cnn
from wfbench.tasks.task import Task
from wfbench.tasks.training import Moved

SIZES = {"train": 1200, "validation": 200, "test": 397}


@cache
def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs [n, 1, 8, 8] in [0, 1] and labels of the three splits: one fixed permutation of the 1797 images."""
    images, labels = np.split(_table(), [-1], axis=1)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
    x = torch.from_numpy(images[order]).float().reshape(-1, 1, 8, 8) / 16
    y = torch.from_numpy(labels[order, 0]).long()
    parts = zip(SIZES, x.split(list(SIZES.values())), y.split(list(SIZES.values())), strict=True)
    return {name: (inputs, targets) for name, inputs, targets in parts}


def _table() -> Float64[np.ndarray, "1797 65"]:
    """An image a line, its class last: the file of `sklearn.datasets.load_digits`, which takes a second to import."""
    path = Path(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    return np.loadtxt(BytesIO(gzip.decompress(content(path, "install scikit-learn again"))), delimiter=",")


TASKS = (
    Task(
        "digits-cnn",
        shipped("digits-cnn", digits_cnn),
        train=lambda: digits()["train"],
        validation=lambda: digits()["validation"],
        test=lambda: digits()["test"],
        accuracies=accuracies("digits-cnn"),
        augment=Moved(shift=1),
        about="two convolutions with BatchNorm and one linear layer on 8x8 digits (scikit-learn)",
        fetch=lambda: "scikit-learn",
    ),
)
