"""Which samples a budget means: ordered draws, their copies, and labels that are wrong."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from wfbench.data import Augment, Dataset, Labeled, MapStyle, Unlabeled
from wfbench.errors import WfbenchError
from wfbench.kinds.samples import check_single


@dataclass(frozen=True)
class Sampling:
    """How a draw is made. What looks at labels, or changes them, is for labelled cases alone.

    Args:
        kind: `random`, uniform without replacement; `k-shot`, as many samples of every class, in rounds of one a class.
        wrong_labels: the chance of each drawn label to be replaced by another class, in [0, 1).
        copies: of each sample: 1 is itself alone, 5 itself and four that the task's augmentation makes of it.
    """

    kind: Literal["random", "k-shot"] = "random"
    wrong_labels: float = 0.0
    copies: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("random", "k-shot"):
            raise WfbenchError(f'draw kind "{self.kind}" is unknown; use "random" or "k-shot"')
        if not 0 <= self.wrong_labels < 1:
            raise WfbenchError(f"wrong_labels {self.wrong_labels} is outside [0, 1): it is the chance of each label")
        if self.copies < 1:
            raise WfbenchError(f"{self.copies} copies of a sample: give at least 1, which is the sample itself")

    @property
    def needs_labels(self) -> bool:
        return self.kind == "k-shot" or self.wrong_labels > 0


RANDOM = Sampling()


def draw_indices(size: int, n: int, seed: int, name: str = "dataset") -> list[int]:
    """Which `n` of `size` samples a budget means: the first `n` of one seeded permutation, so budgets nest.

    Raises:
        WfbenchError: if `n` is below 1 or above `size`.
    """
    if n < 1:
        raise WfbenchError(f"budget {n} is not a number of samples; give an integer of at least 1")
    if n > size:
        raise WfbenchError(f"budget {n} is more than the {size} training samples of {name}; ask for at most {size}")
    order = np.random.Generator(np.random.PCG64([seed, size])).permutation(size)
    return [int(i) for i in order[:n]]


def k_shot_indices(labels: Int[Tensor, "size *places"], n: int, seed: int, name: str = "dataset") -> list[int]:
    """Which samples a class-balanced budget means: rounds of one sample a class, in one seeded order; budgets nest.

    Raises:
        WfbenchError: if `n` is no multiple of the number of classes, or a class has too few samples.
    """
    check_single(labels, name)
    order = torch.tensor(draw_indices(len(labels), len(labels), seed, name))
    classes = labels.unique().tolist()
    shots, rest = divmod(n, len(classes))
    if rest or n < 1:
        raise WfbenchError(f"a k-shot draw of {n} samples from {len(classes)} classes; give a multiple of the classes")
    by_class = [order[labels[order] == label] for label in classes]
    if shots > min(map(len, by_class)):
        raise WfbenchError(f"{name}: the rarest class has {min(map(len, by_class))} samples, fewer than {shots}")
    return [int(i) for i in torch.stack([found[:shots] for found in by_class], 1).flatten()]


def folds(n: int, parts: int) -> list[range]:
    """The places of n samples in so many parts, one after another, as equal as can be."""
    return [range(n * part // parts, n * (part + 1) // parts) for part in range(parts)]


def drawn_indices(dataset: Dataset, n: int, seed: int, sampling: Sampling = RANDOM) -> list[int]:
    """Which samples `draw` takes, in its order."""
    if sampling.kind == "random":
        return draw_indices(len(dataset), n, seed, dataset.name)
    return k_shot_indices(dataset.labels, n, seed, dataset.name)


def draw(
    dataset: Dataset | tuple[Tensor, Tensor] | MapStyle, n: int, seed: int, sampling: Sampling = RANDOM
) -> Labeled | Unlabeled:
    """The calibration samples of budget `n` and draw `seed`: an ordered prefix, uniform without replacement by default.

    `draw(dataset, 16, s)` is the first 16 samples of `draw(dataset, 64, s)`; a random draw looks at no label. Copies
    are of the same samples, each right after its own.

    Raises:
        WfbenchError: copies of a dataset without an augmentation, or one that changes an input's shape or dtype.
    """
    dataset = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    indices = drawn_indices(dataset, n, seed, sampling)
    drawn = dataset.take(indices)
    if sampling.wrong_labels:
        classes = int(dataset.labels.max()) + 1
        drawn = _mislabelled(dataset.with_labels(drawn), sampling.wrong_labels, classes, seed)
    return drawn if sampling.copies == 1 else _copied(drawn, dataset, indices, sampling.copies)


def augmentation(dataset: Dataset) -> str:
    """SHA-256 of copies of the first samples: what `the same augmentation` means; or how it fails."""
    n = min(16, len(dataset))
    try:
        found = draw(dataset.part(range(n)), n, 0, Sampling(copies=4))
    except Exception as error:  # a stranger's may raise anything
        return f"{type(error).__name__}: {error}"
    return hashlib.sha256(found.inputs.contiguous().numpy().data).hexdigest()


def _copied(drawn: Labeled | Unlabeled, dataset: Dataset, indices: Sequence[int], copies: int) -> Labeled | Unlabeled:
    """Each sample, and what the augmentation makes of it with numbers that hang on its place and the copy alone."""
    if dataset.augment is None:
        raise WfbenchError(
            f"{dataset.name} has no augmentation to make copies with; give `augment=` to its Task, or ask for no copies"
        )
    augmented = partial(_augmented, dataset.augment, dataset.name)
    samples = list(zip(indices, drawn.inputs, strict=True))
    made = [augmented(x, index, copy) if copy else x for index, x in samples for copy in range(copies)]
    if not torch.equal(made[1], augmented(samples[0][1], samples[0][0], 1)):
        raise WfbenchError(
            f"{dataset.name}: `augment` gives another copy when it is called again; use its generator's numbers alone"
        )
    inputs = torch.stack(made)
    if not isinstance(drawn, Labeled):
        return Unlabeled(inputs, copies)
    return Labeled(inputs, drawn.labels.repeat_interleave(copies, 0), copies)


def _augmented(augment: Augment, name: str, x: Shaped[Tensor, "*input"], index: int, copy: int) -> Tensor:
    seed = int(np.random.SeedSequence([index, copy]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    found = augment(x.clone(), torch.Generator().manual_seed(seed))
    if not isinstance(found, Tensor) or (found.shape, found.dtype) != (x.shape, x.dtype):
        what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise WfbenchError(f"{name}[{index}]: `augment` made {what} of {x.dtype} {tuple(x.shape)}; it keeps both")
    return found.cpu()


def _mislabelled(drawn: Labeled, share: float, classes: int, seed: int) -> Labeled:
    """Each label replaced with chance `share` by one of the other classes; the i-th by numbers of its own."""
    check_single(drawn.labels, "wrong labels")
    numbers = np.random.Generator(np.random.PCG64([seed, classes])).random((len(drawn), 2))
    wrong, other = torch.from_numpy(numbers[:, 0] < share), torch.from_numpy(numbers[:, 1])
    replaced = (drawn.labels + 1 + (other * (classes - 1)).long()) % classes
    return Labeled(drawn.inputs, torch.where(wrong, replaced, drawn.labels))
