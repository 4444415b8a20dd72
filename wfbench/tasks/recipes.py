"""How the shipped dense checkpoints were trained: `wfbench train TASK --seed N` repeats it."""

from collections.abc import Callable

from torch import nn

from wfbench.tasks.cifar import RESNET20, RESNET56
from wfbench.tasks.models import digits_cnn, mlpnet, mobilenetv1, resnet20
from wfbench.tasks.training import Recipe


def fine_tuning(start: str, epochs: int) -> Recipe:
    """A short run from the weights of another task, with the augmentation that those were trained with."""
    return Recipe(epochs, lr=0.03, shift=4, flip=True, bfloat16=True, channels_last=True, start=start)


RECIPES: dict[str, tuple[Callable[[], nn.Module], Recipe]] = {
    "digits-cnn": (digits_cnn, Recipe(epochs=60, lr=0.1, batch_size=32, shift=1)),
    "fashion-mlpnet": (mlpnet, Recipe(epochs=30, lr=0.1)),
    "fashion-resnet20": (resnet20, Recipe(epochs=20, lr=0.2, shift=2, flip=True, bfloat16=True)),
    "fashion-mobilenetv1": (mobilenetv1, Recipe(epochs=15, lr=0.2, shift=2, flip=True)),
    "cifar10-jpeg-resnet20": (RESNET20, fine_tuning("cifar10-resnet20", epochs=5)),
    "cifar10-jpeg-resnet56": (RESNET56, fine_tuning("cifar10-resnet56", epochs=3)),
}
