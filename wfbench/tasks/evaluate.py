"""Scores on evaluation data: accuracy and loss, or agreement; suites alone call it on the test split."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from wfbench.data import Dataset

EVALUATION_BATCH = 50
"""Samples an evaluation batch; recorded, since a different batch may move the last bit of a logit."""


Measure: TypeAlias = Literal["accuracy", "agreement", "agreement-undrawn", "agreement-drawn"]
"""What a score is: of labels, or agreement with the dense network: on a test split, on the samples that the draw left
out, or on the calibration samples themselves."""


@dataclass(frozen=True)
class Scores:
    """What a network does on a split: how many samples are right, of how many, and the mean loss in nats.

    `commonest` counts the samples of the commonest class: what a constant answer gets right.
    """

    correct: int
    total: int
    loss: float
    commonest: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def chance(self) -> float:
        return self.commonest / self.total

    @property
    def headline(self) -> dict[str, float]:
        return {"accuracy": self.accuracy}

    def fields(self) -> dict[str, float]:
        """Of the record."""
        return {**self.headline, "loss": self.loss}

    def as_dense(self) -> dict[str, float]:
        """Of the record, where these are the dense network's."""
        return {"dense_accuracy": self.accuracy, "dense_loss": self.loss, "chance": self.chance}


@dataclass(frozen=True)
class Agreement:
    """How far a network does as the dense one on a split.

    `same` counts the samples of which both say the same class first; `loss` is the mean of KL(dense‖network), nats.
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


def evaluate(module: nn.Module, data: Dataset, batch: int = EVALUATION_BATCH) -> Scores:
    """Top-1 accuracy and mean cross-entropy (summed in float64) of `module`, in eval mode, on all of `data`."""
    correct, loss, classes = 0, 0.0, Counter[int]()
    device = next(module.parameters()).device
    module.eval()
    with torch.inference_mode():
        for part in map(data.with_labels, data.batches(batch)):
            logits, labels = module(part.inputs.to(device)), part.labels.to(device)
            classes.update(part.labels.tolist())
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(functional.cross_entropy(logits.double(), labels, reduction="sum"))
    return Scores(correct, len(data), loss / len(data), max(classes.values()))


def agreement(module: nn.Module, dense: nn.Module, data: Dataset, batch: int = EVALUATION_BATCH) -> Agreement:
    """Of `module` with the dense network, both in eval mode, on all of `data`, whose labels are not read."""
    same, kl = 0, 0.0
    device = next(module.parameters()).device
    with torch.inference_mode():
        for part in data.batches(batch):
            wanted, found = (net.eval()(part.inputs.to(device)).double() for net in (dense, module))
            same += int((found.argmax(1) == wanted.argmax(1)).sum())
            wanted = wanted.log_softmax(1)
            kl += float((wanted.exp() * (wanted - found.log_softmax(1))).sum())
    return Agreement(same, len(data), kl / len(data))


def standard_error(scores: Scores) -> float:
    """Of the accuracy, as that of a sample of all there could be: √(a(1 − a)/n)."""
    return (scores.accuracy * (1 - scores.accuracy) / scores.total) ** 0.5
