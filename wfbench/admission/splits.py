"""What the splits of a task must be before its cases run: the same when read again, labels of classes, disjoint."""

from collections.abc import Sequence
from itertools import combinations

import torch

from wfbench.data import Dataset
from wfbench.errors import WfbenchError


def check_splits(splits: Sequence[Dataset], logits: Sequence[int]) -> None:
    """Reads a few samples again; labels and hashes are those of the reading for the fingerprint.

    Args:
        logits: the shape of one sample's: classes, and places where it has several.

    Raises:
        WfbenchError: with the name of a split that is empty, changes, has labels out of range, or shares samples.
    """
    for split in splits:
        if not len(split):
            raise WfbenchError(f"{split.name} is empty; give at least one sample")
        labels = split.read_through.labels
        split.take(sorted({0, len(split) // 2, len(split) - 1}))  # held against that reading
        if not split.labelled:
            continue
        classes, *places = logits
        if [*labels.shape[1:]] != places:
            raise WfbenchError(
                f"{split.name}: labels of shape {list(labels.shape)}, and the network gives logits {[*logits]} a "
                f"sample; give class indices, labels [n{''.join(f', {size}' for size in places)}]"
            )
        low, high = int(labels.min()), int(labels.max())
        if not 0 <= low <= high < classes:
            raise WfbenchError(
                f"{split.name}: labels from {low} to {high}, and the network gives logits of {classes} classes; give "
                f"class indices 0 to {classes - 1}"
            )
    for train, test in combinations(splits, 2):
        _check_disjoint(train, test)


def _check_disjoint(train: Dataset, test: Dataset) -> None:
    """Inputs of equal hashes are read and compared, so that no chance is left."""
    where = {value: index for index, value in enumerate(train.read_through.hashes.tolist())}
    alike = torch.isin(test.read_through.hashes, train.read_through.hashes).nonzero()[:, 0].tolist()
    shared = [
        (index, found)
        for index in alike
        if torch.equal(
            test.take([index]).inputs,
            train.take([found := where[int(test.read_through.hashes[index])]]).inputs,
        )
    ]
    if shared:
        index, found = shared[0]
        raise WfbenchError(
            f"{test.name} and {train.name} overlap: {len(shared)} of {len(test)} inputs of the one are in the other, "
            f"the first is {test.name}[{index}], which is {train.name}[{found}]; take them out of one of the two"
        )
