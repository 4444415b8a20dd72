"""The kinds of data that people bring, made into pairs of tensors: arrays, pictures, dicts, labels of every type."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from wfbench.errors import WfbenchError

LABELS = ("label", "labels", "target", "targets", "class", "y", "fine_label")
"""Under which of these keys a dict has its label."""
PICTURES = ("L", "RGB")
"""Modes of PIL whose values are brightnesses, a channel each."""


def as_source(source: Any, name: str) -> Any:
    """A split as brought: a pair of arrays as tensors; anything else as it is, if it can be read sample by sample.

    Raises:
        WfbenchError: a loader, what can only be gone through, or arrays of no numbers.
    """
    if isinstance(source, DataLoader):
        raise WfbenchError(
            f"{name} is a DataLoader; give what it loads from, `loader.dataset`, or a torch.utils.data.Subset of it"
        )
    if _is_pair(source):
        return _tensor(source[0], f"{name}: inputs"), _tensor(source[1], f"{name}: labels")
    if isinstance(source, np.ndarray):
        return _tensor(source, f"{name}: inputs")
    if isinstance(source, IterableDataset) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise WfbenchError(
            f"{name} is a {type(source).__name__}, which has no length and no [i]; give a map-style dataset, such as a "
            "list of (input, label) pairs, or a pair of tensors"
        )
    return source


def as_pair(sample: Any, name: str) -> Any:
    """A sample as brought: of a dict of an input and a label the pair.

    Raises:
        WfbenchError: a dict of which it cannot be told what is what.
    """
    if not isinstance(sample, Mapping):
        return sample
    labels = [key for key in LABELS if key in sample]
    inputs = [key for key in sample if key not in labels]
    if len(labels) == len(inputs) == 1:
        return sample[inputs[0]], sample[labels[0]]
    raise WfbenchError(
        f"{name} is a dict of {', '.join(map(str, sample))}; give (input, label) pairs, or a dict of one input and "
        f"`label`"
    )


def as_input(x: Any) -> Any:
    """An input as brought, after the transform: arrays as tensors, pictures as float tensors [c, h, w] in [0, 1].

    Raises:
        WfbenchError: a picture whose values are no brightnesses.
    """
    if isinstance(x, np.ndarray):
        return torch.tensor(x)
    if type(x).__module__.startswith("PIL."):
        if x.mode not in PICTURES:
            raise WfbenchError(f'pictures of mode {x.mode}; give `transform=lambda x: x.convert("RGB")`')
        from torchvision.transforms.functional import to_tensor  # it takes seconds to import

        return to_tensor(x)
    return x


def as_label(y: Any, name: str) -> Int[Tensor, "*places"]:
    """The class index of a sample, or of each of its places.

    Raises:
        WfbenchError: it is no whole number.
    """
    if isinstance(y, (Tensor, np.ndarray, np.generic)):
        label = torch.as_tensor(y)
        label = label.reshape(()) if label.numel() == 1 else label
        check_labels(label[None], name)
        return label.to(torch.int64)
    if not isinstance(y, int):
        raise WfbenchError(f"{name} has the label {y!r} of type {type(y).__name__}; give its class index, an int")
    return torch.tensor(int(y))


def check_labels(labels: Tensor, name: str) -> None:
    """Raises WfbenchError for labels that are not whole numbers, one a sample or one for each of its places."""
    if labels.is_floating_point() or labels.is_complex():
        raise WfbenchError(f"{name}: labels are {labels.dtype}; give class indices, as labels.long() makes them")


def check_single(labels: Tensor, name: str) -> None:
    """Raises WfbenchError for labels of several places a sample."""
    if labels.ndim > 1:
        raise WfbenchError(f"{name}: labels of shape {list(labels.shape)}; this draw is for one label a sample")


def stacked(inputs: Sequence[Tensor], names: Sequence[str]) -> Shaped[Tensor, "n *input"]:
    """Inputs in one tensor.

    Raises:
        WfbenchError: two are of different shapes; `names` say which.
    """
    for x, name in zip(inputs, names, strict=True):
        if x.shape != inputs[0].shape:
            shapes = f"{names[0]} has the shape {list(inputs[0].shape)}, {name} {list(x.shape)}"
            raise WfbenchError(f"{shapes}; give a `transform` that makes all inputs alike")
    return torch.stack(list(inputs))


def hashes_of(inputs: Shaped[Tensor, "n *input"]) -> Int[Tensor, " n"]:
    """A hash of the bits of each input: `Σ bᵢ·wᵢ` modulo 2⁶⁴ with random weights that are always the same."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = inputs.contiguous().reshape(len(inputs), -1).view(kinds[inputs.element_size()])
    weights = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).integers(-(2**63), 2**63, bits.shape[1]))
    return torch.cat([(part.to(torch.int64) * weights).sum(1) for part in bits.split(50)])


def _is_pair(source: Any) -> bool:
    arrays = (Tensor, np.ndarray)
    return isinstance(source, (tuple, list)) and len(source) == 2 and isinstance(source[0], arrays)


def _tensor(array: Any, what: str) -> Tensor:
    if isinstance(array, Tensor):
        return array
    try:
        array = np.asarray(array)
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError) as error:
        raise WfbenchError(f"{what} are no numbers ({error}); give a tensor, or an array of numbers") from error
