"""Training of the dense checkpoints: SGD with Nesterov momentum and one cosine cycle."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from wfbench.data import Dataset


@dataclass(frozen=True)
class Recipe:
    """How a dense checkpoint is trained.

    Args:
        epochs: passes over the training split.
        lr: peak learning rate of the one-cycle schedule (cosine, 20 % warm-up).
        batch_size: samples a step.
        weight_decay: L2 coefficient.
        momentum: Nesterov momentum.
        shift: augmentation by random shifts of up to this many pixels.
        flip: augmentation by random horizontal flips.
        bfloat16: forward and backward under bfloat16 autocast; weights stay float32.
    """

    epochs: int
    lr: float
    batch_size: int = 128
    weight_decay: float = 5e-4
    momentum: float = 0.9
    shift: int = 0
    flip: bool = False
    bfloat16: bool = False


def augment(x: Float[Tensor, "n c h w"], recipe: Recipe) -> Float[Tensor, "n c h w"]:
    """Random shift (edges repeated) and horizontal flip of each image."""
    n, _, height, width = x.shape
    if recipe.shift:
        s = recipe.shift
        padded = functional.pad(x, (s, s, s, s), mode="replicate").permute(0, 2, 3, 1)
        rows = torch.randint(0, 2 * s + 1, (n, 1)) + torch.arange(height)
        columns = torch.randint(0, 2 * s + 1, (n, 1)) + torch.arange(width)
        which = torch.arange(n)[:, None, None]
        x = padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if recipe.flip:
        x = torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(-1), x)
    return x.contiguous()


def train(module: nn.Module, data: Dataset, recipe: Recipe, seed: int, progress: bool = True) -> nn.Module:
    """Train `module` in place from a fresh state seeded by the caller, and return it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    whole = data.take(range(len(data)))
    steps = recipe.epochs * (len(data) // recipe.batch_size)
    optimizer = torch.optim.SGD(
        module.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=0.2)
    module.train()
    with tqdm(total=steps, unit="step", disable=not progress) as bar:
        for _ in range(recipe.epochs):
            order = torch.randperm(len(data), generator=generator)
            for batch in order[: len(data) // recipe.batch_size * recipe.batch_size].split(recipe.batch_size):
                x = augment(whole.inputs[batch], recipe)
                with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                    loss = functional.cross_entropy(module(x), whole.labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return module.eval()
