"""Scores on evaluation data: accuracy and loss, or agreement; suites alone call it on the test split."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wfbench.data import Dataset, Labeled, Unlabeled
from wfbench.network import at_a_time

EVALUATION_BATCH = 50
"""Samples an evaluation batch; recorded, since a different batch may move the last bit of a logit."""
ACCELERATOR_BATCH = 250
"""The same on an accelerator, where a launch costs more than a sample. One number for all cards: it is part of what a
record answers, so that one card's records answer another's question."""


Measure: TypeAlias = Literal["accuracy", "agreement", "agreement-undrawn", "agreement-drawn"]
"""What a score is: of labels, or agreement with the dense network: on a test split, on the samples that the draw left
out, or on the calibration samples themselves."""


@dataclass(frozen=True)
class Scores:
    """What a network does on a split: how many answers are right, of how many, and the mean loss in nats.

    One answer a sample, or one for each of its places. `commonest` counts those of the commonest class: what a constant
    answer gets right.

    Args:
        places: answers that a sample has.
        errors: standard errors of accuracy and loss where there are several, whose answers hang together: from the
            means of whole samples.
    """

    correct: int
    total: int
    loss: float
    commonest: int
    places: int = 1
    errors: tuple[float, float] | None = None

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def chance(self) -> float:
        return self.commonest / self.total

    @property
    def headline(self) -> dict[str, float]:
        return {"accuracy": self.accuracy}

    @property
    def perplexity(self) -> float:
        """Among how many classes the network is as unsure as among equal ones: exp of the mean loss."""
        return exp(self.loss)

    def fields(self) -> dict[str, float]:
        """Of the record."""
        return {**self.headline, "loss": self.loss}

    def as_dense(self) -> dict[str, float]:
        """Of the record, where these are the dense network's."""
        places = {"places": self.places} if self.places > 1 else {}
        return {"dense_accuracy": self.accuracy, "dense_loss": self.loss, "chance": self.chance, **places}


@dataclass(frozen=True)
class Agreement:
    """How far a network does as the dense one on a split.

    `same` counts the samples, or their places, of which both say the same class first; `loss` is the mean of
    KL(dense‖network), nats.
    """

    same: int
    total: int
    loss: float

    @property
    def agreement(self) -> float:
        return self.same / self.total

    @property
    def headline(self) -> dict[str, float]:
        return {"agreement": self.agreement}

    def fields(self) -> dict[str, float]:
        """Of the record."""
        return {**self.headline, "kl": self.loss}

    def as_dense(self) -> dict[str, float]:
        """Nothing: the dense network agrees with itself."""
        return {}


def evaluation_batch(device: torch.device) -> int:
    """Samples an evaluation batch on the device, or fewer of many logits."""
    return EVALUATION_BATCH if device.type == "cpu" else ACCELERATOR_BATCH


def evaluate(module: nn.Module, data: Dataset, batch: int | None = None) -> Scores:
    """Top-1 accuracy and mean cross-entropy (summed in float64) of `module`, in eval mode, on all of `data`.

    Args:
        batch: samples at a time; by default as many as `evaluation_batch` has.
    """
    device, classes = next(module.parameters()).device, Counter[int]()
    correct, losses = list[Tensor](), list[Tensor]()
    module.eval()
    with torch.inference_mode():
        for part in map(data.with_labels, _batches(module, data, batch)):
            logits, labels = module(_sent(part.inputs, device)), _sent(part.labels, device)
            classes.update(part.labels.flatten().tolist())
            correct.append((logits.argmax(1) == labels).reshape(len(labels), -1).sum(1))
            apart = zip(logits.split(1), labels.split(1), strict=True) if labels.ndim > 1 else [(logits, labels)]
            losses += [functional.cross_entropy(z.double(), y, reduction="sum") for z, y in apart]
    total, places = classes.total(), classes.total() // len(data)
    right, lost = torch.cat(correct).tolist(), torch.stack(losses).tolist()
    errors = (_error(right, places), _error(lost, places)) if places > 1 else None
    return Scores(sum(right), total, sum(lost) / total, max(classes.values()), places, errors)


def _batches(module: nn.Module, data: Dataset, batch: int | None) -> Iterator[Labeled | Unlabeled]:
    """So many samples at a time, or fewer of many logits each."""
    device = next(module.parameters()).device
    with torch.inference_mode():
        (logits,) = module(data.take([0]).inputs.to(device))
    return data.batches(at_a_time(batch or evaluation_batch(device), logits.shape))


def _error(sums: Sequence[float] | Sequence[int], places: int) -> float:
    """The standard error of the mean over samples, of which each has a sum over places."""
    return float(np.std(np.array(sums) / places)) / len(sums) ** 0.5


def agreement(module: nn.Module, dense: nn.Module, data: Dataset, batch: int | None = None) -> Agreement:
    """Of `module` with the dense network, both in eval mode, on all of `data`, whose labels are not read.

    Args:
        batch: as for `evaluate`.
    """
    device, total = next(module.parameters()).device, 0
    same, kl = _zeros(device)
    dense.eval()
    module.eval()
    with torch.inference_mode():
        for part in _batches(dense, data, batch):
            inputs = _sent(part.inputs, device)
            wanted, found = (net(inputs).double() for net in (dense, module))
            alike = found.argmax(1) == wanted.argmax(1)
            same += alike.sum()
            total += alike.numel()
            wanted = wanted.log_softmax(1)
            kl += (wanted.exp() * (wanted - found.log_softmax(1))).sum()
    return Agreement(int(same), total, float(kl) / total)


def _zeros(device: torch.device) -> tuple[Tensor, Tensor]:
    """A count and a sum, which stay on the device: to read them after every batch would be to wait for it."""
    return torch.zeros((), dtype=torch.int64, device=device), torch.zeros((), dtype=torch.float64, device=device)


def _sent(x: Tensor, device: torch.device) -> Tensor:
    """On the device; to CUDA from pinned memory, so that the next batch is read while this one is computed."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def standard_error(scores: Scores) -> float:
    """Of the accuracy, as that of a sample of all there could be: √(a(1 − a)/n)."""
    if scores.errors is not None:
        return scores.errors[0]
    return (scores.accuracy * (1 - scores.accuracy) / scores.total) ** 0.5
