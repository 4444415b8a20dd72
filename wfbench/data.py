"""The data budget: what a method may be handed, and which samples a budget means."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.utils.data import Subset

from wfbench.errors import WfbenchError
from wfbench.kinds.reading import MapStyle as MapStyle
from wfbench.kinds.reading import Seen, check_open
from wfbench.kinds.reading import sealed as sealed
from wfbench.kinds.samples import as_input, as_label, as_pair, as_source, check_labels, hashes_of, stacked

Augment: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class Unlabeled:
    """Calibration inputs alone: floats, or int64 for networks that look numbers up, such as token ids.

    Args:
        inputs: one sample after another.
        copies: how many of them in a row are the same sample, itself first, then changed in a way that keeps its label.
    """

    inputs: Shaped[Tensor, "n *input"]
    copies: int = 1

    def __post_init__(self) -> None:
        _check_copies(self.copies, len(self))

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def take(self, at: Sequence[int] | slice) -> "Unlabeled":
        """Some of the inputs, by place, each taken for a sample."""
        return Unlabeled(self.inputs[at])


@dataclass(frozen=True, slots=True)
class Labeled:
    """Calibration inputs with labels, one a sample or one for each of its places. Never a subclass of `Unlabeled`.

    Args:
        inputs, copies: as of `Unlabeled`.
        labels: of every input.
    """

    inputs: Shaped[Tensor, "n *input"]
    labels: Int[Tensor, "n *places"]
    copies: int = 1

    def __post_init__(self) -> None:
        if self.labels.shape[:1] != self.inputs.shape[:1]:
            raise WfbenchError(
                f"labels of shape {tuple(self.labels.shape)} do not fit inputs of shape {tuple(self.inputs.shape)}; "
                "give one class index a sample"
            )
        _check_copies(self.copies, len(self))

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def take(self, at: Sequence[int] | slice) -> "Labeled":
        """Some of the inputs, by place, each taken for a sample."""
        return Labeled(self.inputs[at], self.labels[at])


def _check_copies(copies: int, inputs: int) -> None:
    if copies < 1 or inputs % copies:
        raise WfbenchError(f"{inputs} inputs cannot be {copies} copies of each sample")


class Dataset:
    """One split of a task: a pair of tensors or a map-style dataset, with an optional per-sample transform.

    Args:
        source: `(inputs [n, *input], labels [n, *places])`, or a map-style dataset of (input, class index) pairs, with
            a tensor of class indices where a sample has several places; without labels `inputs`, or a map-style dataset
            of single inputs.
        name: what errors call it.
        transform: applied to each single input, as in torchvision; its result must be a float tensor, or int64.
        augment: changes a transformed input, by the generator that it is given, in a way that keeps its label.
    """

    def __init__(
        self,
        source: tuple[Tensor, Tensor] | Tensor | MapStyle,
        name: str = "dataset",
        transform: Callable[[Any], Any] | None = None,
        augment: Augment | None = None,
    ) -> None:
        self.name, self.augment = name, augment
        self._source = as_source(source, name)
        self._transform = transform
        self._seen = Seen(name)
        if self._tensors is not None and len({*map(len, self._tensors)}) > 1:
            inputs, labels = self._tensors
            raise WfbenchError(f"{name}: {len(inputs)} inputs but {len(labels)} labels")
        if self._tensors is not None:  # a mapped file may change while it is used, a copy does not
            own = [t if t.untyped_storage().resizable() else t.clone() for t in self._tensors]
            self._source = (own[0], own[1]) if own[1:] else own[0]

    @property
    def _tensors(self) -> tuple[Tensor, ...] | None:
        """Inputs and labels, or inputs alone; None for a map-style dataset."""
        source = self._source
        if isinstance(source, Tensor):
            return (source,)
        is_pair = isinstance(source, (tuple, list)) and len(source) == 2 and isinstance(source[0], Tensor)
        return (source[0], source[1]) if is_pair else None

    def __len__(self) -> int:
        return len(self._source) if self._tensors is None else len(self._tensors[0])

    @cached_property
    def labelled(self) -> bool:
        """Whether its samples have labels; of a map-style dataset the first one tells."""
        if self._tensors is not None:
            return len(self._tensors) == 2
        first = as_pair(self._source[0], f"{self.name}[0]") if len(self) else None
        return isinstance(first, (tuple, list)) and len(first) > 1

    def take(self, indices: Sequence[int] | range) -> Labeled | Unlabeled:
        """The samples at `indices`, in that order, on the CPU; inputs alone where there are no labels.

        Raises:
            WfbenchError: a sample that is no (float tensor, class index) pair, or any read while a method runs.
        """
        check_open(self.name)
        if self._tensors is not None and self._transform is None:
            where = torch.as_tensor(list(indices), dtype=torch.int64)
            inputs, *labels = (tensor[where] for tensor in self._tensors)
        else:
            samples = [self._one(index) for index in indices]
            inputs = stacked([x for x, *_ in samples], [f"{self.name}[{index}]" for index in indices])
            names = [f"{self.name}[{index}], label," for index in indices]
            labels = [stacked([y for _, y in samples], names)] if self.labelled else []
        inputs, *labels = (tensor.cpu() for tensor in (inputs, *labels))
        if not inputs.is_floating_point() and inputs.dtype != torch.int64:
            advice = "give a `transform` that returns float tensors, or int64 for a network that looks them up"
            raise WfbenchError(f"{self.name}: inputs are {inputs.dtype}; {advice}")
        if not labels:
            return Unlabeled(inputs)
        check_labels(labels[0], self.name)
        return Labeled(inputs, labels[0].to(torch.int64))

    def part(self, indices: Sequence[int]) -> "Dataset":
        """Some of its samples, by place, as a dataset."""
        chosen = list(indices)
        if self._tensors is None:
            return Dataset(Subset(self._source, chosen), self.name, self._transform, self.augment)
        inputs, *labels = (tensor[chosen] for tensor in self._tensors)
        return Dataset((inputs, labels[0]) if labels else inputs, self.name, self._transform, self.augment)

    def _one(self, index: int) -> tuple[Any, ...]:
        """The input and, where there are labels, the class index."""
        try:
            return self._read(index)
        except Exception as error:
            if not isinstance(error, WfbenchError):
                error.add_note(f"{self.name}[{index}]")
            raise

    def _read(self, index: int) -> tuple[Any, ...]:
        found = self._source[index] if self._tensors is None else tuple(tensor[index] for tensor in self._tensors)
        found = as_pair(found, f"{self.name}[{index}]")
        try:
            x, *labels = found if isinstance(found, (tuple, list)) else (found,)
            if len(labels) != self.labelled:
                raise ValueError
        except ValueError:
            raise WfbenchError(f"{self.name}[{index}] is not an (input, label) pair") from None
        x = as_input(x if self._transform is None else self._transform(x))
        if not isinstance(x, Tensor):
            raise WfbenchError(f"{self.name}[{index}] is a {type(x).__name__}, not a tensor; give a `transform`")
        given = tuple(as_label(y, f"{self.name}[{index}]") for y in labels)
        self._seen.check(index, x, given)
        return (x, *given)

    def batches(self, size: int) -> Iterator[Labeled | Unlabeled]:
        """All samples in order, `size` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(range(start, min(start + size, len(self))))

    @cached_property
    def labels(self) -> Int[Tensor, "n *places"]:
        """The class index of every sample, or of its places; reads a map-style dataset through."""
        if self._tensors is not None and self.labelled:
            return self._tensors[1].to("cpu", torch.int64)
        return torch.cat([self.with_labels(batch).labels for batch in self.batches(1000)])

    def with_labels(self, samples: Labeled | Unlabeled) -> Labeled:
        """Samples of it, which must have labels.

        Raises:
            WfbenchError: they have none.
        """
        if not isinstance(samples, Labeled):
            raise WfbenchError(f"{self.name} has no labels; give pairs of inputs and class indices")
        return samples

    @property
    def fingerprint(self) -> str:
        """SHA-256 of every transformed input and label: what `the same data` means for a stored record."""
        return self.read_through.sha256

    @cached_property
    def read_through(self) -> "ReadThrough":
        """What one reading of all samples tells."""
        digest, hashes, labels = hashlib.sha256(), [], []
        for batch in self.batches(1000):
            digest.update(f"{batch.inputs.dtype}{tuple(batch.inputs.shape)}".encode())
            digest.update(batch.inputs.contiguous().numpy().data)
            hashes.append(hashes_of(batch.inputs))
            if isinstance(batch, Labeled):
                digest.update(batch.labels.contiguous().numpy().data)
                labels.append(batch.labels)
        none = torch.zeros(0, dtype=torch.int64)
        return ReadThrough(digest.hexdigest(), torch.cat([none, *hashes]), torch.cat([none, *labels]))


@dataclass(frozen=True)
class ReadThrough:
    """What one reading of all samples tells: SHA-256 of the whole, a hash of each input, and the labels, if any."""

    sha256: str
    hashes: Int[Tensor, " n"]
    labels: Int[Tensor, "m *places"]
