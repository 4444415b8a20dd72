"""How the shipped dense checkpoints were trained: `wfbench train TASK --seed N` repeats it."""

from collections.abc import Callable

from torch import nn

from wfbench.tasks.models import digits_cnn, mlpnet, mobilenetv1, resnet20
from wfbench.tasks.training import Recipe

RECIPES: dict[str, tuple[Callable[[], nn.Module], Recipe]] = {
    "digits-cnn": (digits_cnn, Recipe(epochs=60, lr=0.1, batch_size=32, shift=1)),
    "fashion-mlpnet": (mlpnet, Recipe(epochs=30, lr=0.1)),
    "fashion-resnet20": (resnet20, Recipe(epochs=20, lr=0.2, shift=2, flip=True, bfloat16=True)),
    "fashion-mobilenetv1": (mobilenetv1, Recipe(epochs=15, lr=0.2, shift=2, flip=True)),
}
