"""How the shipped dense checkpoints were trained: `wfbench train TASK --seed N` repeats it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from wfbench.tasks import checkpoints, cifar, digits, fashion
from wfbench.tasks.models import digits_cnn, mlpnet, mobilenetv1, resnet20
from wfbench.tasks.task import Task
from wfbench.tasks.training import Recipe


def fine_tuning(start: str, epochs: int) -> Recipe:
    """A short run from the weights of another task, with the augmentation that those were trained with."""
    return Recipe(epochs, lr=0.03, shift=4, flip=True, bfloat16=True, channels_last=True, start=start)


RECIPES: dict[str, tuple[Callable[[], nn.Module], Recipe]] = {
    "digits-cnn": (digits_cnn, Recipe(epochs=60, lr=0.1, batch_size=32, shift=1)),
    "fashion-mlpnet": (mlpnet, Recipe(epochs=30, lr=0.1)),
    "fashion-resnet20": (resnet20, Recipe(epochs=20, lr=0.2, shift=2, flip=True, bfloat16=True)),
    "fashion-mobilenetv1": (mobilenetv1, Recipe(epochs=15, lr=0.2, shift=2, flip=True)),
    "cifar10-jpeg-resnet20": (cifar.RESNET20, fine_tuning("cifar10-resnet20", epochs=5)),
    "cifar10-jpeg-resnet56": (cifar.RESNET56, fine_tuning("cifar10-resnet56", epochs=3)),
}


def task_of(name: str) -> Task:
    """The task that a recipe is for."""
    return next(task for task in (*digits.TASKS, *fashion.TASKS, *cifar.TASKS) if task.name == name)


def trained(folder: Path) -> list[Task]:
    """The checkpoints that `wfbench train` left in a folder as tasks `TASK-SEED`, each with its own accuracy."""
    return [
        replace(
            task_of(name),
            name=f"{name}-{entry.seed}",
            module=partial(checkpoints.load, RECIPES[name][0], entry, folder),
            accuracies=() if entry.accuracy is None else (entry.accuracy,),
            about=f"{name} trained from seed {entry.seed}",
        )
        for name, entries in checkpoints.registry(folder).items()
        for entry in entries
    ]
