"""Training of the dense checkpoints: SGD with Nesterov momentum and one cosine cycle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from wfbench.data import Dataset
from wfbench.writing import whole


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
        channels_last: weights and inputs laid out with channels last, which is faster in colour.
        start: the task whose checkpoint 0 is fine-tuned; empty: fresh weights.
    """

    epochs: int
    lr: float
    batch_size: int = 128
    weight_decay: float = 5e-4
    momentum: float = 0.9
    shift: int = 0
    flip: bool = False
    bfloat16: bool = False
    channels_last: bool = False
    start: str = ""


def moved(
    x: Float[Tensor, "n c h w"], shift: int, flip: bool, generator: torch.Generator | None = None
) -> Float[Tensor, "n c h w"]:
    """Random shift of each image by up to so many pixels (edges repeated), and horizontal flip of half of them.

    Args:
        generator: of the random numbers; torch's global one by default.
    """
    n, _, height, width = x.shape
    if shift:
        padded = functional.pad(x, (shift, shift, shift, shift), mode="replicate").permute(0, 2, 3, 1)
        rows = torch.randint(0, 2 * shift + 1, (n, 1), generator=generator) + torch.arange(height)
        columns = torch.randint(0, 2 * shift + 1, (n, 1), generator=generator) + torch.arange(width)
        which = torch.arange(n)[:, None, None]
        x = padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        x = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, x.flip(-1), x)
    return x.contiguous()


@dataclass(frozen=True)
class Moved:
    """A task's augmentation: what `moved` makes of one image [c, h, w]."""

    shift: int
    flip: bool = False

    def __call__(self, x: Float[Tensor, "c h w"], generator: torch.Generator) -> Float[Tensor, "c h w"]:
        return moved(x[None], self.shift, self.flip, generator)[0]


def train(
    module: nn.Module, data: Dataset, recipe: Recipe, seed: int, progress: bool = True, resume: Path | None = None
) -> nn.Module:
    """Train `module` in place from a state seeded by the caller, on its device, and return it in eval mode.

    With `resume`, a file, the state is written there after every epoch, and training goes on from it if it is there;
    the result is the same to the bit as without a break.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    device = next(module.parameters()).device
    everything = data.with_labels(data.take(range(len(data))))
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    module.train().to(memory_format=layout)
    steps = len(data) // recipe.batch_size
    optimizer = torch.optim.SGD(
        module.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    total = recipe.epochs * steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=total, pct_start=0.2)
    parts = {"module": module, "optimizer": optimizer, "schedule": schedule}
    done = _restore(resume, parts, generator) if resume and resume.is_file() else 0
    with tqdm(total=total, initial=done * steps, unit="step", disable=not progress) as bar:
        for epoch in range(done, recipe.epochs):
            order = torch.randperm(len(data), generator=generator)
            for batch in order[: steps * recipe.batch_size].split(recipe.batch_size):
                x = moved(everything.inputs[batch], recipe.shift, recipe.flip).contiguous(memory_format=layout)
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bfloat16):
                    loss = functional.cross_entropy(module(x.to(device)), everything.labels[batch].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if resume:
                _keep(resume, parts, generator, epoch + 1)
    return module.eval().to(memory_format=torch.contiguous_format)


def _keep(path: Path, parts: dict[str, Any], generator: torch.Generator, epochs: int) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    states |= {"random": (torch.get_rng_state(), generator.get_state()), "epochs": epochs}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        torch.save(states, part)


def _restore(path: Path, parts: dict[str, Any], generator: torch.Generator) -> int:
    states = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(states[name])
    torch.set_rng_state(states["random"][0])
    generator.set_state(states["random"][1])
    return int(states["epochs"])
