"""Accuracy and loss on evaluation data; suites alone call it on the test split."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from wfbench.data import Dataset

EVALUATION_BATCH = 50
"""Samples an evaluation batch; recorded, since a different batch may move the last bit of a logit."""


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


def evaluate(module: nn.Module, data: Dataset, batch: int = EVALUATION_BATCH) -> Scores:
    """Top-1 accuracy and mean cross-entropy (summed in float64) of `module`, in eval mode, on all of `data`."""
    correct, loss, classes = 0, 0.0, Counter[int]()
    device = next(module.parameters()).device
    module.eval()
    with torch.inference_mode():
        for part in data.batches(batch):
            logits, labels = module(part.inputs.to(device)), part.labels.to(device)
            classes.update(part.labels.tolist())
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(functional.cross_entropy(logits.double(), labels, reduction="sum"))
    return Scores(correct, len(data), loss / len(data), max(classes.values()))


def standard_error(scores: Scores) -> float:
    """Of the accuracy, as that of a sample of all there could be: √(a(1 − a)/n)."""
    return (scores.accuracy * (1 - scores.accuracy) / scores.total) ** 0.5
